#include "krait/core/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#  include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#  include <pthread.h>
#endif

namespace krait {
inline namespace v0_1 {

namespace {

// Number of CPUs that the cgroup's quota allows; a large number without a quota. Version 2 has "max
// 100000" or "200000 100000" in one file; version 1 has two files.
int cgroup_cpus() {
  constexpr int unlimited = 1 << 20;
  const auto cpus = [](double quota, double period) {
    return quota > 0 && period > 0 ? std::max(1, static_cast<int>(std::ceil(quota / period)))
                                   : unlimited;
  };
  int result = unlimited;
  std::string path = "/sys/fs/cgroup";
  std::string own;
  if (std::ifstream file("/proc/self/cgroup"); file) {
    for (std::string line; std::getline(file, line);) {
      if (line.rfind("0::", 0) == 0) own = line.substr(3);
    }
  }
  // The tightest quota of the group and its ancestors counts.
  for (std::string group = own;;) {
    std::string quota;
    double period = 0;
    if (std::ifstream file(path + group + "/cpu.max"); file >> quota >> period && quota != "max") {
      result = std::min(result, cpus(std::strtod(quota.c_str(), nullptr), period));
    }
    if (group.empty() || group == "/") break;
    group.resize(group.rfind('/'));
  }
  double quota = 0;
  double period = 0;
  std::ifstream quota_file("/sys/fs/cgroup/cpu/cpu.cfs_quota_us");
  std::ifstream period_file("/sys/fs/cgroup/cpu/cpu.cfs_period_us");
  if (quota_file >> quota && period_file >> period) result = std::min(result, cpus(quota, period));
  return result;
}

void pause_briefly() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Number of forks since the first process that made a pool. A pool that was made before the last
// fork has lost its threads, and its lock may be held by a thread that no longer exists.
std::atomic<unsigned> forks{0};

unsigned count_forks() {
#if defined(__unix__) || defined(__APPLE__)
  [[maybe_unused]] static const int registered = pthread_atfork(
      nullptr, nullptr, [] { forks.store(forks.load(std::memory_order_relaxed) + 1); });
#endif
  return forks.load(std::memory_order_relaxed);
}

// Spins before sleeping: about 50 µs. Longer than the gap between two parallel loops of a layer,
// too short to show as load.
constexpr int spin_limit = 2000;

}  // namespace

int available_threads() {
  int count = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
#if defined(__linux__)
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) count = std::max(1, CPU_COUNT(&set));
#endif
  return std::min(count, cgroup_cpus());
}

struct ThreadPool::Shared {
  int width = 1;
  unsigned born = count_forks();
  std::vector<std::thread> threads;
  std::atomic<bool> busy{false};  // a run is in progress

  // A run is one ticket: its number in the upper 32 bits, then how many tasks it has and how many
  // of them are taken, 16 bits each. A thread takes a task by adding one; that fails if the run is
  // over meanwhile, so a thread that was held up can never touch a later run, and nobody waits for
  // it.
  std::atomic<std::uint64_t> ticket{0};
  const FunctionRef<void(int)>* task = nullptr;  // stays while a taken task is not done
  std::atomic<int> done{0};
  std::atomic<bool> stopping{false};

  std::mutex mutex;
  std::condition_variable wake;
  int sleepers = 0;

  bool is_orphan() const noexcept { return forks.load(std::memory_order_relaxed) != born; }

  static constexpr int most_tasks = 0xFFFF;
  static std::uint64_t number_of(std::uint64_t t) noexcept { return t >> 32U; }
  static int count_of(std::uint64_t t) noexcept { return static_cast<int>((t >> 16U) & 0xFFFFU); }
  static int taken_of(std::uint64_t t) noexcept { return static_cast<int>(t & 0xFFFFU); }

  // Takes and does tasks of the current run until none is left. Returns the run's number.
  std::uint64_t work() {
    std::uint64_t now = ticket.load(std::memory_order_acquire);
    while (taken_of(now) < count_of(now)) {
      if (ticket.compare_exchange_weak(now, now + 1, std::memory_order_acq_rel)) {
        (*task)(taken_of(now));
        done.fetch_add(1, std::memory_order_release);
        now = ticket.load(std::memory_order_acquire);
      }
    }
    return number_of(now);
  }

  void loop() {
    while (!stopping.load(std::memory_order_acquire)) {
      const std::uint64_t seen = work();
      // The pool may have been told to stop before the ticket was read: then no other one follows.
      const auto is_over = [&] {
        return number_of(ticket.load(std::memory_order_acquire)) != seen ||
               stopping.load(std::memory_order_acquire);
      };
      int spins = 0;
      while (!is_over() && spins++ < spin_limit) pause_briefly();
      if (is_over()) continue;
      std::unique_lock lock(mutex);
      ++sleepers;
      wake.wait(lock, is_over);
      --sleepers;
    }
  }

  // Also runs when the pool's constructor could not start all of its threads.
  ~Shared() {
    stopping.store(true, std::memory_order_release);
    publish(0);
    for (std::thread& thread : threads) thread.join();
  }

  void publish(int tasks) {
    bool anyone_asleep = false;
    {
      const std::lock_guard lock(mutex);
      const std::uint64_t number = number_of(ticket.load(std::memory_order_relaxed)) + 1;
      ticket.store((number << 32U) | (static_cast<std::uint64_t>(tasks) << 16U),
                   std::memory_order_release);
      anyone_asleep = sleepers > 0;
    }
    if (anyone_asleep) wake.notify_all();
  }
};

ThreadPool::ThreadPool(int width) : shared_(std::make_unique<Shared>()) {
  shared_->width = std::max(1, width);
  shared_->threads.reserve(static_cast<std::size_t>(shared_->width - 1));
  for (int i = 1; i < shared_->width; ++i) {
    shared_->threads.emplace_back([shared = shared_.get()] { shared->loop(); });
  }
}

ThreadPool::~ThreadPool() {
  // A forked child does not have the threads, and std::thread objects must not be destroyed
  // unjoined: it leaks them.
  if (shared_->is_orphan()) static_cast<void>(shared_.release());
}

int ThreadPool::width() const noexcept { return shared_->width; }

void ThreadPool::run(int n, FunctionRef<void(int)> task) {
  Shared& shared = *shared_;
  // One task, no threads, more tasks than a ticket can count, or somebody else's run in progress:
  // the caller does them.
  if (n <= 1 || shared.threads.empty() || n > Shared::most_tasks || shared.is_orphan() ||
      shared.busy.exchange(true, std::memory_order_acquire)) {
    for (int i = 0; i < n; ++i) task(i);
    return;
  }
  shared.task = &task;
  shared.done.store(0, std::memory_order_relaxed);
  shared.publish(n);
  shared.work();
  for (int spins = 0; shared.done.load(std::memory_order_acquire) != n; ++spins) {
    if (spins < spin_limit) {
      pause_briefly();
    } else {
      std::this_thread::yield();  // a worker was descheduled: let it have this CPU
    }
  }
  shared.busy.store(false, std::memory_order_release);
}

}  // namespace v0_1
}  // namespace krait
