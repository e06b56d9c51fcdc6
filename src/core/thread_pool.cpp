#include "krait/core/thread_pool.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <fstream>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#if defined(__linux__)
#  include <sched.h>
#endif

namespace krait::inline v0_1 {

Executor::~Executor() = default;

namespace {

// CPUs that the cgroup's quota amounts to, or a large number without a quota. Version 2 has
// "max 100000" or "200000 100000" in one file; version 1 has two files.
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

// Spins before sleeping: about 50 µs, longer than the gap between two phases of a layer and
// shorter than anyone would notice as load.
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
  std::vector<std::thread> threads;

  // A run is published by `generation`; `task` and `count` are written before it and read after.
  const FunctionRef<void(int)>* task = nullptr;
  int count = 0;
  std::atomic<int> next{0};
  std::atomic<int> busy{0};  // workers that have not yet finished with this generation
  std::atomic<unsigned> generation{0};
  std::atomic<bool> stopping{false};

  std::mutex mutex;
  std::condition_variable wake;
  int sleepers = 0;

  void work() {
    for (int i = next.fetch_add(1, std::memory_order_relaxed); i < count;
         i = next.fetch_add(1, std::memory_order_relaxed)) {
      (*task)(i);
    }
  }

  void loop() {
    unsigned seen = 0;
    for (;;) {
      for (int spins = 0; generation.load(std::memory_order_acquire) == seen; ++spins) {
        if (spins < spin_limit) {
          pause_briefly();
          continue;
        }
        std::unique_lock lock(mutex);
        ++sleepers;
        wake.wait(lock, [&] { return generation.load(std::memory_order_acquire) != seen; });
        --sleepers;
      }
      seen = generation.load(std::memory_order_acquire);
      if (stopping.load(std::memory_order_relaxed)) return;
      work();
      busy.fetch_sub(1, std::memory_order_release);
    }
  }

  // Also runs when the pool's constructor could not start all of its threads.
  ~Shared() {
    stopping.store(true, std::memory_order_relaxed);
    publish();
    for (std::thread& thread : threads) thread.join();
  }

  void publish() {
    bool anyone_asleep = false;
    {
      const std::lock_guard lock(mutex);
      generation.fetch_add(1, std::memory_order_release);
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

ThreadPool::~ThreadPool() = default;

int ThreadPool::width() const noexcept { return shared_->width; }

void ThreadPool::run(int n, FunctionRef<void(int)> task) {
  Shared& shared = *shared_;
  if (n <= 1 || shared.threads.empty()) {
    for (int i = 0; i < n; ++i) task(i);
    return;
  }
  shared.task = &task;
  shared.count = n;
  shared.next.store(0, std::memory_order_relaxed);
  shared.busy.store(static_cast<int>(shared.threads.size()), std::memory_order_relaxed);
  shared.publish();
  shared.work();
  for (int spins = 0; shared.busy.load(std::memory_order_acquire) != 0; ++spins) {
    if (spins < spin_limit) {
      pause_briefly();
    } else {
      std::this_thread::yield();  // a worker was descheduled: let it have this CPU
    }
  }
}

}  // namespace krait::inline v0_1
