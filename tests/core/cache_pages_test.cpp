#include "krait/core/cache_pages.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>

namespace krait::cache_pages_test {
namespace {

// Two bookings of odd widths.
struct Slots {
  Bookings bookings{1};
  CacheSlot a = bookings.cache("a", 5);
  CacheSlot b = bookings.cache("b", 17);
};

void append(CachePages& cache, const Slots& slots, Index count, float value) {
  cache.reserve(count).value();
  for (Index t = cache.rows(); t < cache.rows() + count; ++t) {
    for (const CacheSlot slot : {slots.a, slots.b}) {
      float* row = cache_row(cache.pages().data(), slot, t);
      for (Index i = 0; i < slot.floats; ++i) {
        row[i] = value + static_cast<float>(1000 * t + i);
      }
    }
  }
  cache.set_rows(cache.rows() + count);
}

void expect_rows(const CachePages& cache, const Slots& slots, Index first, Index last,
                 float value) {
  for (Index t = first; t < last; ++t) {
    for (const CacheSlot slot : {slots.a, slots.b}) {
      const auto row = cache.row(slot, t).as<float>();
      ASSERT_EQ(std::ssize(row), slot.floats);
      for (Index i = 0; i < slot.floats; ++i) {
        ASSERT_EQ(row[static_cast<std::size_t>(i)], value + static_cast<float>(1000 * t + i)) << t;
      }
    }
  }
}

TEST(CachePages, RowsStayWhereTheyAreWritten) {
  const Slots slots;
  EXPECT_EQ(slots.bookings.cache_floats(), 16 + 32);
  CachePages cache(slots.bookings.cache_floats());
  EXPECT_EQ(cache.bytes(), 0U);
  for (const Index count : {1, 62, 1, 1, 200}) append(cache, slots, count, 0.5F);
  EXPECT_EQ(cache.rows(), 265);
  EXPECT_EQ(cache.pages().size(), 5U);
  EXPECT_EQ(cache.bytes(), 5U * 64 * 48 * 4);
  expect_rows(cache, slots, 0, 265, 0.5F);
  for (float* page : cache.pages()) EXPECT_EQ(reinterpret_cast<std::uintptr_t>(page) % 64, 0U);
}

TEST(CachePages, CopiesShareUntilOneWrites) {
  const Slots slots;
  CachePages cache(slots.bookings.cache_floats());
  append(cache, slots, 130, 0.0F);
  CachePages copy = cache;
  ASSERT_EQ(copy.pages().size(), 3U);
  for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(copy.pages()[i], cache.pages()[i]);
  append(copy, slots, 1, 0.25F);
  EXPECT_EQ(copy.pages()[0], cache.pages()[0]);
  EXPECT_EQ(copy.pages()[1], cache.pages()[1]);
  EXPECT_NE(copy.pages()[2], cache.pages()[2]) << "the last page had room";
  append(cache, slots, 1, 0.75F);
  expect_rows(cache, slots, 0, 130, 0.0F);
  expect_rows(cache, slots, 130, 131, 0.75F);
  expect_rows(copy, slots, 0, 130, 0.0F);
  expect_rows(copy, slots, 130, 131, 0.25F);
}

TEST(CachePages, RowsThatWereTakenBackAreWrittenAnewPastAPagesBorder) {
  const Slots slots;
  CachePages cache(slots.bookings.cache_floats());
  append(cache, slots, 140, 0.0F);
  const CachePages whole = cache;
  cache.set_rows(60);
  append(cache, slots, 10, 0.5F);
  expect_rows(cache, slots, 0, 60, 0.0F);
  expect_rows(cache, slots, 60, 70, 0.5F);
  expect_rows(whole, slots, 0, 140, 0.0F);
}

TEST(CachePages, WhatWasReservedIsNotAllocatedAgain) {
  const Slots slots;
  CachePages cache(slots.bookings.cache_floats());
  cache.reserve(100).value();
  const std::vector<float*> pages(cache.pages().begin(), cache.pages().end());
  ASSERT_EQ(pages.size(), 2U);
  append(cache, slots, 100, 0.0F);
  EXPECT_TRUE(std::ranges::equal(pages, cache.pages()));
  EXPECT_EQ(CachePages(cache).pages().size(), 2U);
  cache.set_rows(3);
  EXPECT_EQ(CachePages(cache).pages().size(), 1U) << "copies take what holds rows";
}

TEST(CachePages, CopyingAgainAndAgainReusesAPage) {
  const Slots slots;
  CachePages source(slots.bookings.cache_floats());
  append(source, slots, 70, 0.0F);
  CachePages copy(slots.bookings.cache_floats());
  copy.copy_from(source);
  append(copy, slots, 2, 0.5F);
  float* const page = copy.pages()[1];
  for (int round = 0; round < 3; ++round) {
    copy.copy_from(source);
    EXPECT_EQ(copy.rows(), 70);
    EXPECT_EQ(copy.pages()[1], source.pages()[1]);
    append(copy, slots, 2, 0.5F);
    EXPECT_TRUE(copy.pages()[1] == page || copy.pages()[1] != source.pages()[1]);
    EXPECT_LE(copy.pages().size(), 4U) << "reserves do not pile up";
    expect_rows(copy, slots, 0, 70, 0.0F);
    expect_rows(copy, slots, 70, 72, 0.5F);
  }
  copy.copy_from(copy);
  EXPECT_EQ(copy.rows(), 72);
}

TEST(CachePages, MemoryThatIsNotThereIsAnErrorAndNothingChanges) {
  const Slots slots;
  CachePages cache(slots.bookings.cache_floats());
  append(cache, slots, 70, 0.0F);
  const CachePages before = cache;
  for (const Index more : {Index{-1}, Index{1} << 40, Index{1} << 48, Index{1} << 62}) {
    const auto result = cache.reserve(more);
    ASSERT_FALSE(result) << more;
    EXPECT_EQ(result.error().code, ErrorCode::no_memory);
    EXPECT_NE(result.error().message.find("[state] cache: expected memory for "),
              std::string::npos);
  }
  EXPECT_EQ(cache.rows(), 70);
  expect_rows(cache, slots, 0, 70, 0.0F);
  append(cache, slots, 1, 0.0F);
}

TEST(CachePages, OfNoWidthNeedNothing) {
  CachePages cache(0);
  cache.reserve(Index{1} << 60).value();
  EXPECT_EQ(cache.pages().size(), 0U);
  EXPECT_EQ(CachePages(cache).bytes(), 0U);
}

TEST(CachePages, CopiesMayBeUsedByDifferentThreads) {
  const Slots slots;
  CachePages cache(slots.bookings.cache_floats());
  append(cache, slots, 100, 0.0F);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&slots, copy = cache, i]() mutable {
      for (int round = 0; round < 50; ++round) {
        CachePages fork = copy;
        append(fork, slots, 30, static_cast<float>(i));
        expect_rows(fork, slots, 100, 130, static_cast<float>(i));
      }
    });
  }
  cache = CachePages();
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace krait::cache_pages_test
