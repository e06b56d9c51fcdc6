#pragma once

/// \file
/// A pool for tests of small models, whose phases would otherwise run on the calling thread.

#include "krait/core/thread_pool.hpp"

namespace krait::test {

/// A ThreadPool to which no work is too little to share.
class EagerThreadPool final : public Executor {
 public:
  explicit EagerThreadPool(int width) : pool_(width) {}

  int width() const noexcept override { return pool_.width(); }
  double least_share_nanoseconds() const noexcept override { return 0.0; }
  void run(int n, FunctionRef<void(int)> task) override { pool_.run(n, task); }

 private:
  ThreadPool pool_;
};

}  // namespace krait::test
