#include "krait/decoding/stop.hpp"

#include <gtest/gtest.h>

namespace krait::stop_test {
namespace {

// Feeds a text in pieces of every size; all give the same.
void expect_text(const std::vector<std::string>& stops, const std::string& text,
                 const std::string& expected, bool stopped) {
  for (std::size_t size = 1; size <= text.size(); ++size) {
    StopMatcher matcher(stops);
    std::string out;
    for (std::size_t at = 0; at < text.size(); at += size) {
      out += matcher.push(std::string_view(text).substr(at, size));
    }
    EXPECT_EQ(matcher.stopped(), stopped) << text << " in pieces of " << size;
    out += matcher.finish();
    EXPECT_EQ(out, expected) << text << " in pieces of " << size;
  }
}

TEST(StopMatcher, EndsTheTextBeforeTheFirstStop) {
  expect_text({}, "all of it", "all of it", false);
  expect_text({"END"}, "some text END more", "some text ", true);
  expect_text({"END"}, "some text EN", "some text EN", false);
  expect_text({"abc", "bc"}, "xxabcyy", "xx", true);
  expect_text({"aab"}, "aaaab", "aa", true);
  expect_text({"\n\n"}, "one\ntwo\n\nthree", "one\ntwo", true);
  expect_text({""}, "an empty stop is none", "an empty stop is none", false);
  expect_text({"abab", "ba"}, "aabcba", "aabc", true);
}

TEST(StopMatcher, HoldsBackOnlyWhatMightBeAStop) {
  StopMatcher matcher({"stop"});
  EXPECT_EQ(matcher.push("don't st"), "don't ");
  EXPECT_EQ(matcher.push("ep on s"), "step on ");
  EXPECT_EQ(matcher.push("top it"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.push("more"), "");
  EXPECT_EQ(matcher.finish(), "");
}

TEST(StopMatcher, TheStringThatIsCompleteFirstEndsTheText) {
  expect_text({"abcd", "bc"}, "xabcd", "xa", true);
  expect_text({"bc", "abc"}, "xabcd", "x", true);
}

TEST(StopMatcher, LooksBackIntoTheTextBefore) {
  StopMatcher matcher({"abc", "bx"});
  matcher.prime("bx, ab");
  EXPECT_EQ(matcher.held(), 2U);
  EXPECT_FALSE(matcher.stopped()) << "what ends in the text before is no stop";
  EXPECT_EQ(matcher.push("d"), "abd");
  matcher.prime("ab");
  EXPECT_EQ(matcher.push("cd"), "");
  EXPECT_TRUE(matcher.stopped());
  EXPECT_EQ(matcher.held(), 4U);
}

}  // namespace
}  // namespace krait::stop_test
