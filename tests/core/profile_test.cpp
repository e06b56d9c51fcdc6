#include "krait/core/profile.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <string>
#include <thread>
#include <type_traits>

namespace krait::profile_test {
namespace {

#if defined(KRAIT_PROFILE)

using Clock = std::chrono::steady_clock;

void spend(std::chrono::milliseconds time) {
  const auto end = Clock::now() + time;
  while (Clock::now() < end) {
  }
}

TEST(Profile, TimeAndWorkBelongToTheInnermostZone) {
  profile::reset();
  profile::count(1, 1);  // no zone is open: nobody's
  const auto begun = Clock::now();
  {
    const profile::Zone outer("outer");
    spend(std::chrono::milliseconds(2));
    {
      profile::Zone inner("first");
      profile::count(100, 7);
      spend(std::chrono::milliseconds(4));
      inner.next("second");
      profile::count(10, 1);
      profile::count(10, 1);
    }
    profile::count(1000, 0);
  }
  const double all = std::chrono::duration<double>(Clock::now() - begun).count();
  const auto totals = profile::totals();
  ASSERT_EQ(totals.size(), 3U);
  EXPECT_EQ(totals[0].zone, std::string("outer"));
  EXPECT_EQ(totals[1].zone, std::string("first"));
  EXPECT_EQ(totals[2].zone, std::string("second"));
  EXPECT_GE(totals[0].seconds, 0.002);
  EXPECT_GE(totals[1].seconds, 0.004);
  EXPECT_LE(totals[0].seconds + totals[1].seconds + totals[2].seconds, all);
  EXPECT_EQ(totals[0].bytes, 1000.0);
  EXPECT_EQ(totals[1].bytes, 100.0);
  EXPECT_EQ(totals[1].flop, 7.0);
  EXPECT_EQ(totals[2].bytes, 20.0);
}

TEST(Profile, ZonesOfOneNameAddUpUntilReset) {
  profile::reset();
  const std::string name = "twice";  // the same text elsewhere is the same zone
  for (const char* text : {name.c_str(), "twice"}) {
    const profile::Zone zone(text);
    profile::count(5, 0);
  }
  ASSERT_EQ(profile::totals().size(), 1U);
  EXPECT_EQ(profile::totals()[0].calls, 2);
  EXPECT_EQ(profile::totals()[0].bytes, 10.0);
  profile::reset();
  EXPECT_TRUE(profile::totals().empty());
}

TEST(Profile, EveryThreadHasItsOwnTotals) {
  profile::reset();
  const profile::Zone zone("here");
  std::thread([] {
    EXPECT_TRUE(profile::totals().empty());
    const profile::Zone elsewhere("elsewhere");
    EXPECT_EQ(profile::totals().size(), 1U);
  }).join();
  EXPECT_EQ(profile::totals().size(), 1U);
}

TEST(Profile, NamesBeyondTheLastAreNotRecorded) {
  profile::reset();
  std::string names[profile::Recorder::most_zones + 2];
  int number = 0;
  for (std::string& name : names) {
    name = std::to_string(number++);
    const profile::Zone zone(name.c_str());
    profile::count(1, 1);
  }
  EXPECT_EQ(profile::totals().size(), std::size_t{profile::Recorder::most_zones});
  for (const profile::Total& total : profile::totals()) EXPECT_EQ(total.bytes, 1.0);
  profile::reset();  // the names end here
}

#else

TEST(Profile, IsNothingUnlessCompiledIn) {
  static_assert(!profile::is_enabled);
  static_assert(std::is_empty_v<profile::Zone>);
  static_assert(std::is_trivially_destructible_v<profile::Zone>);
  profile::Zone zone("zone");
  zone.next("another");
  profile::count(1, 1);
  EXPECT_TRUE(profile::totals().empty());
}

#endif

}  // namespace
}  // namespace krait::profile_test
