#include "krait/core/thread_pool.hpp"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <thread>
#include <vector>

namespace krait::thread_pool_test {
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

// One pool for everybody: each caller's tasks all run, each once, whoever else is using it.
TEST(ThreadPool, SeveralThreadsShareAPool) {
  ThreadPool pool(3);
  std::vector<std::thread> callers;
  std::vector<int> wrong(4, 0);
  for (std::size_t c = 0; c < wrong.size(); ++c) {
    callers.emplace_back([&, c] {
      for (int round = 0; round < 500; ++round) {
        std::vector<int> calls(17, 0);
        pool.run(17, [&](int i) { ++calls[static_cast<std::size_t>(i)]; });
        for (const int count : calls) wrong[c] += count == 1 ? 0 : 1;
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  for (const int count : wrong) EXPECT_EQ(count, 0);
}

TEST(ThreadPool, ATaskMayUseThePoolThatRunsIt) {
  ThreadPool pool(3);
  std::atomic<int> calls{0};
  for (int round = 0; round < 20; ++round) {
    pool.run(5, [&](int) { pool.run(7, [&](int) { calls.fetch_add(1); }); });
  }
  EXPECT_EQ(calls.load(), 20 * 5 * 7);
}

// A child has the pool, but not its threads.
TEST(ThreadPool, WorksAndIsDestroyedInAChildProcess) {
  auto pool = std::make_unique<ThreadPool>(3);
  pool->run(8, [](int) {});
  for (const int pause : {0, 20}) {  // workers that spin, and workers that sleep
    std::this_thread::sleep_for(std::chrono::milliseconds(pause));
    const pid_t child = fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      alarm(20);
      int sum = 0;
      for (int round = 0; round < 3; ++round) pool->run(8, [&](int i) { sum += i; });
      pool.reset();
      ThreadPool own(2);  // one of its own has threads
      std::atomic<int> more{0};
      own.run(8, [&](int i) { more.fetch_add(i); });
      _exit(sum == 3 * 28 && more.load() == 28 ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_TRUE(WIFEXITED(status) && WEXITSTATUS(status) == 0) << "status " << status;
  }
  std::atomic<int> sum{0};
  pool->run(8, [&](int i) { sum.fetch_add(i); });
  EXPECT_EQ(sum.load(), 28) << "the parent's pool is as it was";
}

}  // namespace
}  // namespace krait::thread_pool_test
