#include "krait/io/printable.hpp"

#include <gtest/gtest.h>

#include "tests/support/support.hpp"

namespace krait::printable_test {
namespace {

using namespace std::string_literals;

struct Row {
  const char* name;
  std::string text;
  std::string expected;
};

TEST(Printable, NothingSteersATerminalOrMisleadsAReader) {
  const Row table[] = {
      {"plain text", "backbone.layers.0.mixer.D", "backbone.layers.0.mixer.D"},
      {"nothing", "", ""},
      {"other scripts", "Größe · 重み …", "Größe · 重み …"},
      {"escape", "\x1b[31mred", "?[31mred"},
      {"newlines", "a\nb\r\nc", "a?b??c"},
      {"a zero byte", "a\0b"s, "a?b"},
      {"delete", "a\x7f", "a?"},
      {"C1 as characters",
       "a\xC2\x9B"
       "31m",
       "a?31m"},
      {"C1 as bytes",
       "a\x9B"
       "31m",
       "a?31m"},
      {"right-to-left override", "abc\xE2\x80\xAEtxt", "abc?txt"},
      {"isolates", "\xE2\x81\xA6x\xE2\x81\xA9", "?x?"},
      {"direction marks", "\xE2\x80\x8Ex\xD8\x9C", "?x?"},
      {"line and paragraph separators",
       "a\xE2\x80\xA8"
       "b\xE2\x80\xA9",
       "a?b?"},
      {"zero width",
       "a\xE2\x80\x8B"
       "b\xEF\xBB\xBF",
       "a?b?"},
      {"soft hyphen",
       "a\xC2\xAD"
       "b",
       "a?b"},
      {"tags", "a\xF3\xA0\x81\x81", "a?"},
      {"overlong", "\xC0\x8A\xE0\x80\x8A", "?????"},
      {"a surrogate", "\xED\xA0\x80", "???"},
      {"beyond Unicode", "\xF4\x90\x80\x80", "????"},
      {"a sequence cut short", "a\xE2\x80", "a??"},
      {"a lone continuation", "\x80z", "?z"},
  };
  for (const Row& row : table) EXPECT_EQ(printable(row.text), row.expected) << row.name;
}

TEST(Printable, LongTextsAreCut) {
  EXPECT_EQ(printable("abcdef", 6), "abcdef");
  EXPECT_EQ(printable("abcdefg", 6), "abcdef...");
  EXPECT_EQ(printable("aé", 2), "aé") << "a character is never cut";
  const Error error = printable(Error{ErrorCode::bad_format, std::string(100'000, 'x') + "\n"});
  EXPECT_EQ(error.code, ErrorCode::bad_format);
  EXPECT_LT(error.message.size(), 2100U);
}

TEST(Printable, ResultsKeepTheirValues) {
  EXPECT_EQ(printable(Result<int>(3)).value(), 3);
  EXPECT_EQ(printable(Result<int>(Error{ErrorCode::not_found, "a\tb"})).error().message, "a?b");
  EXPECT_TRUE(printable(Result<void>()));
}

}  // namespace
}  // namespace krait::printable_test
