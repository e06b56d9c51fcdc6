#pragma once

/// \file
/// Executor: the threads that a caller lends.
///
/// krait starts no thread unasked. Every run takes an `Executor&`: `SerialExecutor` (the calling
/// thread), `ThreadPool` (thread_pool.hpp), or ten lines around an application's own pool. Work is
/// split by output in blocks whose size does not depend on the number of threads, and no sum
/// crosses a block; so results are the same bits for any executor.

#include <algorithm>
#include <type_traits>
#include <utility>

#include "krait/core/config.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/core/function_ref.hpp"

namespace krait {
inline namespace v0_1 {

/// Runs numbered tasks, possibly at the same time.
class KRAIT_API Executor {
 public:
  virtual ~Executor();

  /// How many tasks can run at once, at least 1. It must not change while a session borrows the
  /// executor, which has memory for that many tasks. It decides how much work a task gets, never
  /// what is computed.
  virtual int width() const noexcept = 0;

  /// Nanoseconds of work below which another thread does not pay: waking it, waiting for it and
  /// fetching from its cache what it has written would take longer.
  virtual double least_share_nanoseconds() const noexcept { return 4000.0; }

  /// Calls task(0) … task(n - 1), each exactly once, in any order, on any threads, and returns
  /// when all have returned. What they wrote is then visible to the caller. Tasks do not throw,
  /// and krait's own do not call `run`. If several threads run sessions on one executor, `run` is
  /// called from all of them at once.
  virtual void run(int n, FunctionRef<void(int)> task) = 0;
};

/// Runs every task on the calling thread.
class SerialExecutor final : public Executor {
 public:
  int width() const noexcept override { return 1; }
  void run(int n, FunctionRef<void(int)> task) override {
    for (int i = 0; i < n; ++i) task(i);
  }
};

/// A half-open range of outputs: rows, channels, tokens.
struct Range {
  Index begin = 0;
  Index end = 0;
  constexpr Index size() const noexcept { return end - begin; }
};

/// An estimate of how long one thread takes for one item of a parallel loop. It decides how many
/// threads share the loop, never what is computed.
struct ItemCost {
  double nanoseconds = 1e9;  ///< the default wakes every thread

  /// For an item that reads `bytes` and does `flop` vectorised additions and multiplications.
  static constexpr ItemCost of(Index bytes, Index flop) noexcept {
    constexpr double bytes_per_ns = 64.0;  // of the L3 cache: what memory holds is large anyway
    constexpr double flop_per_ns = 60.0;
    return {std::max(static_cast<double>(bytes) / bytes_per_ns,
                     static_cast<double>(flop) / flop_per_ns)};
  }
};

/// Splits [0, n) into whole blocks of `block`, hands each thread one contiguous run of blocks, and
/// calls body(Range) or body(Range, int task) under krait's FloatEnvironment, with `task` below
/// executor.width(). A loop that is too short by `cost` uses fewer threads, or the calling thread
/// alone. The result must not depend on how the range is cut at multiples of `block`.
template <class Body>
void parallel_for(Executor& executor, Index n, Index block, ItemCost cost, Body&& body) {
  if (n <= 0) return;
  const Index blocks = (n + block - 1) / block;
  const double work = static_cast<double>(n) * cost.nanoseconds;
  const double share = executor.least_share_nanoseconds();
  Index tasks = std::min<Index>(blocks, executor.width());
  if (work < share * static_cast<double>(tasks)) {
    tasks = std::max<Index>(1, static_cast<Index>(work / share));
  }
  const auto task = [&](int i) {
    const FloatEnvironment environment;
    const Index first = blocks * i / tasks * block;
    const Index last = std::min(n, blocks * (i + 1) / tasks * block);
    if constexpr (std::is_invocable_v<Body&, Range, int>) {
      body(Range{first, last}, i);
    } else {
      body(Range{first, last});
    }
  };
  if (tasks == 1) {
    task(0);
  } else {
    executor.run(static_cast<int>(tasks), task);
  }
}

/// The same for items that take long: all threads share the loop.
template <class Body>
void parallel_for(Executor& executor, Index n, Index block, Body&& body) {
  parallel_for(executor, n, block, ItemCost{}, std::forward<Body>(body));
}

/// Like `parallel_for`, for long work: a thread that is done takes the next block, so that a slower
/// core does fewer of them. Calls body(Range, int task) once for each block.
KRAIT_API void parallel_for_blocks(Executor& executor, Index n, Index block,
                                   FunctionRef<void(Range, int)> body);

}  // namespace v0_1
}  // namespace krait
