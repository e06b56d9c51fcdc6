#pragma once

/// \file
/// ThreadPool: an Executor for callers who have none.

#include <memory>

#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

/// Number of threads this process may use: the affinity mask, cut by the cgroup's CPU quota; at
/// least 1. The machine may have more.
KRAIT_API int available_threads();

/// A fixed set of threads. The calling thread takes part, so `ThreadPool(1)` starts none.
///
/// Workers spin for some tens of microseconds after a run, since the next one usually follows at
/// once, and then sleep; an idle pool uses no CPU.
///
/// Several threads may share a pool, and a task may use the pool that runs it: a call of `run`
/// during another one does all its tasks on the calling thread. So does a call in a forked child
/// process, where the pool's threads do not exist.
class KRAIT_API ThreadPool final : public Executor {
 public:
  /// `width` threads in all, the caller's included; at least 1. Throws std::system_error if the
  /// system refuses to start them.
  explicit ThreadPool(int width = available_threads());
  ~ThreadPool() override;
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int width() const noexcept override;
  void run(int n, FunctionRef<void(int)> task) override;

 private:
  struct Shared;
  std::unique_ptr<Shared> shared_;
};

}  // namespace v0_1
}  // namespace krait
