#include "krait/core/executor.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "krait/core/thread_pool.hpp"
#include "krait/kernels/elementwise.hpp"
#include "tests/support/backwards_executor.hpp"
#include "tests/support/support.hpp"

#if defined(__unix__)
#  include <sys/resource.h>
#endif
#if defined(__SSE2__)
#  include <xmmintrin.h>
#endif

namespace krait::executor_test {
namespace {

void expect_exact_cover(Executor& executor, Index n, Index block) {
  std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
  std::atomic<int> ranges{0};
  parallel_for(executor, n, block, [&](Range range) {
    ++ranges;
    EXPECT_LT(range.begin, range.end);
    EXPECT_EQ(range.begin % block, 0);
    EXPECT_TRUE(range.end % block == 0 || range.end == n);
    for (Index i = range.begin; i < range.end; ++i) ++visits[static_cast<std::size_t>(i)];
  });
  for (const auto& count : visits) ASSERT_EQ(count, 1) << "n=" << n << " block=" << block;
  EXPECT_LE(ranges, executor.width());
}

void expect_every_block_once(Executor& executor, Index n, Index block) {
  std::vector<std::atomic<int>> visits(static_cast<std::size_t>(n));
  std::vector<std::atomic<bool>> busy(static_cast<std::size_t>(executor.width()));
  parallel_for_blocks(executor, n, block, [&](Range range, int task) {
    std::atomic<bool>& mine = busy[static_cast<std::size_t>(task)];
    EXPECT_FALSE(mine.exchange(true));  // a task's memory is its own
    EXPECT_EQ(range.begin % block, 0);
    EXPECT_EQ(range.size(), std::min(block, n - range.begin));
    for (Index i = range.begin; i < range.end; ++i) ++visits[static_cast<std::size_t>(i)];
    mine = false;
  });
  for (const auto& count : visits) ASSERT_EQ(count, 1) << "n=" << n << " block=" << block;
}

TEST(ParallelFor, CoversEveryIndexOnceInWholeBlocks) {
  for (int width = 1; width <= 8; ++width) {
    ThreadPool pool(width);
    test::BackwardsExecutor backwards(width);
    EXPECT_EQ(pool.width(), width);
    for (const Index block : {1, 16, 64}) {
      for (const Index n : {0, 1, 15, 16, 17, 64, 100, 1000}) {
        expect_exact_cover(pool, n, block);
        expect_exact_cover(backwards, n, block);
        expect_every_block_once(pool, n, block);
        expect_every_block_once(backwards, n, block);
      }
    }
  }
}

#if defined(__SSE2__)

constexpr unsigned control_bits = 0xFFC0U;  // without the sticky exception flags

TEST(ParallelFor, GivesTheSameBitsUnderAnyControlWordAndRestoresIt) {
  // Subnormal results, and sums whose rounding shows the direction.
  auto x = test::random_floats(1000, 1, 100.0F);
  for (std::size_t i = 0; i < 200; ++i) x[i] = -87.0F - 0.08F * static_cast<float>(i);
  const auto compute = [&x](Executor& executor) {
    std::vector<float> y(x.size());
    parallel_for(executor, 1000, 16, [&](Range range) {
      const auto first = static_cast<std::size_t>(range.begin);
      const auto size = static_cast<std::size_t>(range.size());
      kernels::exp(std::span(x).subspan(first, size), std::span(y).subspan(first, size));
      for (std::size_t i = first; i < first + size; ++i) y[i] += y[i] / 3.0F;
    });
    return y;
  };
  SerialExecutor serial;
  ThreadPool pool(3);
  const auto expected = compute(serial);
  EXPECT_TRUE(std::fpclassify(expected[100]) == FP_SUBNORMAL);
  const unsigned before = _mm_getcsr();
  const unsigned flush_and_round_down = 0x1F80U | 0x8000U | 0x0040U | 0x2000U;
  for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&pool)}) {
    _mm_setcsr(flush_and_round_down);
    const auto actual = compute(*executor);
    const unsigned after = _mm_getcsr();
    _mm_setcsr(before);
    EXPECT_EQ(after & control_bits, flush_and_round_down & control_bits);
    EXPECT_TRUE(test::same_bits<float>(expected, actual));
  }
}

#endif

TEST(ThreadPool, RunsManySmallTasksExactlyOnce) {
  for (const int width : {1, 2, 3, 5}) {
    ThreadPool pool(width);
    for (int round = 0; round < 3000; ++round) {
      const int n = round % 9;
      std::atomic<int> calls{0};
      std::vector<int> visits(9, 0);  // written without synchronisation but the pool's
      pool.run(n, [&](int i) {
        ++visits[static_cast<std::size_t>(i)];
        calls.fetch_add(1, std::memory_order_relaxed);
      });
      ASSERT_EQ(calls, n);
      for (int i = 0; i < 9; ++i) ASSERT_EQ(visits[static_cast<std::size_t>(i)], i < n ? 1 : 0);
    }
  }
}

TEST(ThreadPool, RunsAfterItsThreadsFellAsleep) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
    std::atomic<int> calls{0};
    pool.run(7, [&](int) { ++calls; });
    ASSERT_EQ(calls, 7);
  }
}

TEST(ThreadPool, MayBeDestroyedAtAnyTime) {
  for (int round = 0; round < 50; ++round) {
    const auto unused = std::make_unique<ThreadPool>(4);
    auto used = std::make_unique<ThreadPool>(2);
    used->run(2, [](int) {});
    if (round % 10 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  }
}

TEST(ThreadPool, WidthIsAtLeastOne) {
  EXPECT_EQ(ThreadPool(0).width(), 1);
  EXPECT_EQ(ThreadPool(-3).width(), 1);
  EXPECT_GE(available_threads(), 1);
}

#if defined(__unix__)

double cpu_seconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

TEST(ThreadPool, UsesNoProcessorWhileIdle) {
  ThreadPool pool(4);
  pool.run(4, [](int) {});
  std::this_thread::sleep_for(std::chrono::milliseconds(50));  // the workers stop spinning
  const double before = cpu_seconds();
  std::this_thread::sleep_for(std::chrono::milliseconds(300));
  EXPECT_LT(cpu_seconds() - before, 0.05);
}

#endif

}  // namespace
}  // namespace krait::executor_test
