#pragma once

/// \file
/// Shares of work for many threads, without the threads.

#include "krait/core/executor.hpp"

namespace krait::test {

/// Says that it is as wide as asked, runs on the calling thread, last task first. No work is too
/// little to share.
class BackwardsExecutor final : public Executor {
 public:
  explicit BackwardsExecutor(int width) : width_(width) {}

  int width() const noexcept override { return width_; }
  double least_share_nanoseconds() const noexcept override { return 0.0; }
  void run(int n, FunctionRef<void(int)> task) override {
    for (int i = n - 1; i >= 0; --i) task(i);
  }

 private:
  int width_;
};

}  // namespace krait::test
