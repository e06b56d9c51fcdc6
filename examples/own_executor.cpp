// Lends an application's own threads to krait. The pool here is the simplest one possible, a task
// queue; in an application, `Lender` would wrap the pool that is there already.

#include <condition_variable>
#include <cstdio>
#include <functional>
#include <mutex>
#include <queue>
#include <thread>
#include <vector>

#include "krait/krait.hpp"

namespace {

// What an application might have.
class TaskQueue {
 public:
  explicit TaskQueue(int threads) {
    for (int i = 0; i < threads; ++i) threads_.emplace_back([this] { work(); });
  }
  ~TaskQueue() {
    for (std::size_t i = 0; i < threads_.size(); ++i) submit(nullptr);
    for (std::thread& thread : threads_) thread.join();
  }
  int threads() const { return static_cast<int>(threads_.size()); }

  void submit(std::function<void()> task) {
    {
      const std::lock_guard lock(mutex_);
      tasks_.push(std::move(task));
    }
    ready_.notify_one();
  }

 private:
  void work() {
    for (;;) {
      std::unique_lock lock(mutex_);
      ready_.wait(lock, [this] { return !tasks_.empty(); });
      const std::function<void()> task = std::move(tasks_.front());
      tasks_.pop();
      lock.unlock();
      if (task == nullptr) return;
      task();
    }
  }

  std::mutex mutex_;
  std::condition_variable ready_;
  std::queue<std::function<void()>> tasks_;
  std::vector<std::thread> threads_;
};

// The ten lines that lend it.
class Lender final : public krait::Executor {
 public:
  explicit Lender(TaskQueue& queue) : queue_(queue) {}
  int width() const noexcept override { return queue_.threads(); }
  void run(int n, krait::FunctionRef<void(int)> task) override {
    std::mutex mutex;
    std::condition_variable done;
    int left = n;
    for (int i = 0; i < n; ++i) {
      queue_.submit([&, i] {
        task(i);
        const std::lock_guard lock(mutex);
        if (--left == 0) done.notify_one();
      });
    }
    std::unique_lock lock(mutex);
    done.wait(lock, [&] { return left == 0; });
  }

 private:
  TaskQueue& queue_;
};

}  // namespace

int main(int argc, char** argv) {
  auto lm = krait::load_language_model(argc > 1 ? argv[1] : "krait-bytes-moe").value();
  TaskQueue queue(2);
  Lender lender(queue);
  krait::SerialExecutor serial;
  const auto prompt = lm.tokenizer->encode("In the beginning").value();

  krait::State lent = lm.model.initial_state();
  krait::State alone = lm.model.initial_state();
  krait::Session(lm.model, lender).prefill(prompt, lent).value();
  krait::Session(lm.model, serial).prefill(prompt, alone).value();
  std::printf("two threads of the application and one: %s\n",
              lent == alone ? "the same bits" : "different");
  return lent == alone ? 0 : 1;
}
