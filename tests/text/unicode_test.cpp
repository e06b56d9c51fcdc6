#include "src/text/unicode.hpp"

#include <gtest/gtest.h>

#include <string_view>

#include "src/text/utf8.hpp"

namespace krait {
namespace {

using unicode::Form;
using unicode::Kind;
using unicode::normalized;

TEST(Unicode, KnowsTheKindsOfCodePoints) {
  EXPECT_EQ(unicode::kind(U'a'), Kind::letter);
  EXPECT_EQ(unicode::kind(0xE9), Kind::letter);
  EXPECT_EQ(unicode::kind(0x4E00), Kind::letter);
  EXPECT_EQ(unicode::kind(0xD7), Kind::other);
  EXPECT_EQ(unicode::kind(U'7'), Kind::number);
  EXPECT_EQ(unicode::kind(0xBD), Kind::number);
  EXPECT_EQ(unicode::kind(0x2160), Kind::number);
  EXPECT_EQ(unicode::kind(0x301), Kind::other);
  EXPECT_EQ(unicode::kind(0x110000 - 1), Kind::other);
  for (const char32_t space : std::u32string_view(U"\t\v \u0085\u00A0\u1680\u2003\u2029\u3000")) {
    EXPECT_EQ(unicode::kind(space), Kind::space) << std::hex << static_cast<unsigned>(space);
  }
  for (const char32_t other : std::u32string_view(U"\x1C\u180E\u200B\u2060\uFEFF")) {
    EXPECT_EQ(unicode::kind(other), Kind::other) << std::hex << static_cast<unsigned>(other);
  }
}

TEST(Unicode, ItsTablesAreInOrder) {
  for (const auto ranges :
       {unicode::letter_ranges(), unicode::number_ranges(), unicode::later_ranges()}) {
    for (std::size_t i = 0; i < ranges.size(); ++i) {
      EXPECT_LE(ranges[i].first, ranges[i].last);
      if (i > 0) {
        EXPECT_LT(ranges[i - 1].last, ranges[i].first);
      }
    }
  }
}

TEST(Unicode, NormalizesToEachForm) {
  const std::string decomposed = "e\xCC\x81";
  EXPECT_EQ(normalized(decomposed, Form::nfc), "\xC3\xA9");
  EXPECT_EQ(normalized("\xC3\xA9", Form::nfd), decomposed);
  EXPECT_EQ(normalized("\xEF\xAC\x81", Form::nfkc), "fi");
  EXPECT_EQ(normalized("\xEF\xAC\x81", Form::nfc), "\xEF\xAC\x81");
  EXPECT_EQ(normalized("\xEA\xB0\x80", Form::nfd), "\xE1\x84\x80\xE1\x85\xA1");
  EXPECT_EQ(normalized("\xE1\x84\x80\xE1\x85\xA1", Form::nfc), "\xEA\xB0\x80");
  // U+11A7 stands before the trailing consonants and is none.
  EXPECT_EQ(normalized("\xEA\xB0\x80\xE1\x86\xA7", Form::nfc), "\xEA\xB0\x80\xE1\x86\xA7");
  EXPECT_EQ(normalized("\xE2\x84\xAB", Form::nfc), "\xC3\x85");  // a singleton
  // Marks below come before marks above, whichever was written first.
  EXPECT_EQ(normalized("a\xCC\x81\xCC\xA3z", Form::nfd), "a\xCC\xA3\xCC\x81z");
  EXPECT_EQ(normalized("plain, e\xCC\x81 plain", Form::nfc), "plain, \xC3\xA9 plain");
}

TEST(Unicode, LaterMarksStayWhereTheyAre) {
  // U+1ABF (Unicode 13) would otherwise go before U+0301.
  const std::string text = "x\xCC\x81\xE1\xAA\xBF";
  EXPECT_EQ(normalized(text, Form::nfd), text);
}

TEST(Unicode, NormalizingTwiceChangesNothing) {
  for (char32_t code = 0xA0; code < 0x3400; ++code) {
    std::string text = "q";
    utf8::append(text, code);
    text += "\xCC\x81";
    for (const Form form : {Form::nfc, Form::nfd, Form::nfkc, Form::nfkd}) {
      const std::string once = normalized(text, form);
      ASSERT_EQ(normalized(once, form), once) << std::hex << static_cast<unsigned>(code);
      ASSERT_EQ(utf8::first_ill_formed(once), once.size());
    }
  }
}

}  // namespace
}  // namespace krait
