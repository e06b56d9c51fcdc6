#include "krait/core/thread_pool.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <thread>
#include <vector>

namespace krait {
namespace {

TEST(ThreadPool, HasTheWidthAskedForAndAtLeastOne) {
  EXPECT_EQ(ThreadPool(3).width(), 3);
  EXPECT_EQ(ThreadPool(1).width(), 1);
  EXPECT_EQ(ThreadPool(0).width(), 1);
  EXPECT_GE(available_threads(), 1);
}

// Plain integers, written by the workers and read by the caller: ThreadSanitizer sees it if `run`
// does not order them.
TEST(ThreadPool, RunsEveryTaskOnceAndShowsWhatItWrote) {
  for (const int width : {1, 2, 4, 7}) {
    ThreadPool pool(width);
    for (const int n : {0, 1, 2, 3, 64, 1000}) {
      std::vector<int> calls(static_cast<std::size_t>(n), 0);
      for (int round = 1; round <= 20; ++round) {
        pool.run(n, [&](int i) { ++calls[static_cast<std::size_t>(i)]; });
        for (const int count : calls) ASSERT_EQ(count, round);
      }
    }
  }
}

TEST(ThreadPool, TakesWorkAfterItsWorkersFellAsleep) {
  ThreadPool pool(4);
  std::vector<int> calls(100, 0);
  for (int round = 0; round < 3; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    pool.run(100, [&](int i) { ++calls[static_cast<std::size_t>(i)]; });
  }
  for (const int count : calls) EXPECT_EQ(count, 3);
}

TEST(ThreadPool, IsMadeAndDestroyedQuicklyWithAndWithoutWork) {
  for (int round = 0; round < 50; ++round) {
    ThreadPool pool(4);
    if (round % 2 == 0) pool.run(4, [](int) {});
  }
}

TEST(ThreadPool, SeveralPoolsWorkSideBySide) {
  std::vector<std::thread> callers;
  std::vector<int> sums(4, 0);
  for (std::size_t c = 0; c < sums.size(); ++c) {
    callers.emplace_back([&sums, c] {
      ThreadPool pool(2);
      std::vector<int> values(256, 0);
      for (int round = 0; round < 50; ++round) {
        pool.run(256, [&](int i) { values[static_cast<std::size_t>(i)] = i; });
      }
      for (const int value : values) sums[c] += value;
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int sum : sums) EXPECT_EQ(sum, 255 * 256 / 2);
}

}  // namespace
}  // namespace krait
