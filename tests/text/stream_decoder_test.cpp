#include "krait/text/stream_decoder.hpp"

#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

namespace krait::stream_decoder_test {
namespace {

using namespace std::string_view_literals;

constexpr std::string_view bad = "\xEF\xBF\xBD";

std::string repeated(std::string_view text, int count) {
  std::string result;
  for (int i = 0; i < count; ++i) result += text;
  return result;
}

struct Case {
  std::string_view bytes;
  std::string text;
};

// Expected texts are those of Python's bytes.decode(errors="replace").
const std::vector<Case>& cases() {
  static const std::vector<Case> all = {
      {"", ""},
      {"plain", "plain"},
      {"\xC3\xA9", "\xC3\xA9"},
      {"\xF0\x9F\x98\x80", "\xF0\x9F\x98\x80"},
      {"a\xFFz", "a" + repeated(bad, 1) + "z"},
      {"\xC0\xAF", repeated(bad, 2)},             // overlong
      {"\xE0\x80\xAF", repeated(bad, 3)},         // overlong
      {"\xED\xA0\x80", repeated(bad, 3)},         // a surrogate
      {"\xF4\x90\x80\x80", repeated(bad, 4)},     // above U+10FFFF
      {"\xF5\x80", repeated(bad, 2)},             // no lead byte
      {"\xE2\x82", repeated(bad, 1)},             // cut short
      {"\xF0\x9F\x98", repeated(bad, 1)},         // cut short
      {"\xF0\x9F\x98X", repeated(bad, 1) + "X"},  // a maximal part, then a letter
      {"\xE2\x28\xA1", repeated(bad, 1) + "(" + repeated(bad, 1)},
      {"\xF0\x9F\xE2\x82\xAC", repeated(bad, 1) + "\xE2\x82\xAC"},
      {"\xE2\x82\xE2\x82\xAC", repeated(bad, 1) + "\xE2\x82\xAC"},
      {"\xC3\xC3\xA9", repeated(bad, 1) + "\xC3\xA9"},
      {"\x80\x80", repeated(bad, 2)},
      {"\0a\0"sv, std::string("\0a\0"sv)},
      {"\xF0\xF0\xF0\xF0", repeated(bad, 4)},
      {"\xE1\x80\xF1\x80\x80\xC2", repeated(bad, 3)},
  };
  return all;
}

std::string decoded(StreamDecoder& decoder, const std::vector<std::string_view>& parts) {
  std::string result;
  for (const std::string_view part : parts) {
    result += decoder.push(part);
    EXPECT_LE(decoder.pending().size(), 3U);
  }
  result += decoder.finish();
  EXPECT_TRUE(decoder.pending().empty());
  return result;
}

TEST(StreamDecoder, ReplacesMaximalIllFormedParts) {
  for (const Case& one : cases()) {
    StreamDecoder decoder;
    EXPECT_EQ(decoded(decoder, {one.bytes}), one.text) << testing::PrintToString(one.bytes);
  }
}

TEST(StreamDecoder, EverySplitGivesTheSameText) {
  StreamDecoder decoder;  // one for all: finish() leaves nothing behind
  for (const Case& one : cases()) {
    const std::size_t size = one.bytes.size();
    if (size == 0) continue;
    for (unsigned cuts = 0; cuts < (1U << (size - 1)); ++cuts) {
      std::vector<std::string_view> parts;
      std::size_t begin = 0;
      for (std::size_t i = 1; i <= size; ++i) {
        if (i == size || (cuts >> (i - 1) & 1U) != 0) {
          parts.push_back(one.bytes.substr(begin, i - begin));
          begin = i;
        }
      }
      ASSERT_EQ(decoded(decoder, parts), one.text)
          << testing::PrintToString(one.bytes) << " cut by " << cuts;
    }
  }
}

TEST(StreamDecoder, ShowsWhatIsCompleteAtOnce) {
  StreamDecoder decoder;
  EXPECT_EQ(decoder.push("a\xE2"), "a");
  EXPECT_EQ(decoder.pending(), "\xE2");
  EXPECT_EQ(decoder.push("\x82"), "");
  EXPECT_EQ(decoder.push("\xAC!"), "\xE2\x82\xAC!");
  EXPECT_EQ(decoder.finish(), "");
}

TEST(StreamDecoder, KeepsItsCapacity) {
  StreamDecoder decoder;
  const char* const shown = decoder.push(std::string(64, 'x')).data();
  for (int i = 0; i < 100; ++i) {
    EXPECT_EQ(decoder.push("token \xC3\xA9\xE2").data(), shown);
  }
}

}  // namespace
}  // namespace krait::stream_decoder_test
