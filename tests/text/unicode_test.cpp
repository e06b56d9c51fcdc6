#include "src/text/unicode/unicode.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <string_view>

#include "src/core/utf8.hpp"
#include "src/text/unicode/code_sets.hpp"

namespace krait::unicode_test {
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

TEST(Unicode, KnowsOneVersion) {
  using unicode::Category;
  EXPECT_EQ(unicode::category('a'), Category::ll);
  EXPECT_EQ(unicode::category(0x10FFFF), Category::cn);
  EXPECT_EQ(unicode::category(0x1C89), Category::lu);  // 16.0
  EXPECT_EQ(unicode::category(0xA7CE), Category::cn);  // 17.0
  EXPECT_TRUE(unicode::is_word(0x897));                // 16.0
  EXPECT_FALSE(unicode::is_word(0x11DE0));             // 17.0
  EXPECT_TRUE(unicode::is_punctuation(0x11B00));       // 15.0
  EXPECT_FALSE(unicode::is_punctuation(0x16EFF));
  // The table of categories and those of letters and numbers are of one version.
  for (char32_t code = 0x100; code < 0x110000; ++code) {
    const Category category = unicode::category(code);
    const bool is_letter = category >= Category::ll && category <= Category::lu;
    const bool is_number = category >= Category::nd && category <= Category::no;
    const Kind kind = unicode::kind(code);
    ASSERT_EQ(kind == Kind::letter, is_letter) << std::hex << static_cast<unsigned>(code);
    ASSERT_EQ(kind == Kind::number, is_number) << std::hex << static_cast<unsigned>(code);
  }
  const auto lower = [](char32_t code) {
    std::string text;
    utf8::append(text, code);
    const std::string lowered = unicode::lowercased(text);
    std::size_t position = 0;
    return utf8::next(lowered, position);
  };
  EXPECT_EQ(lower(0x1C89), U'\u1C8A');  // 16.0
  EXPECT_EQ(lower(0x10D50), 0x10D70U);
  EXPECT_EQ(lower(0xA7CB), 0x264U);
  EXPECT_EQ(lower(0xA7DC), 0x19BU);
  EXPECT_EQ(lower(0x2C2F), 0x2C5FU);  // 14.0
  EXPECT_EQ(lower(0xA7CE), 0xA7CEU);  // 17.0
  EXPECT_EQ(lower(0x16EA0), 0x16EA0U);
}

// The property Script, as Oniguruma has it: an ideographic comma is common to several scripts.
TEST(Unicode, KnowsScriptsByEitherName) {
  const auto is_in = [](std::string_view name, char32_t code) {
    const auto ranges = code_sets::named(name);
    EXPECT_TRUE(ranges) << name;
    return ranges && std::any_of(ranges->begin(), ranges->end(), [&](const auto& range) {
             return range.first <= code && code <= range.last;
           });
  };
  EXPECT_TRUE(is_in("Han", 0x4E00));
  EXPECT_TRUE(is_in("hani", 0x2EBF0));  // 15.1
  EXPECT_FALSE(is_in("Han", 0x3001));
  EXPECT_TRUE(is_in("Common", 0x3001));
  EXPECT_TRUE(is_in("Greek", 0x3B1));
  EXPECT_FALSE(is_in("Greek", 0x3E4));  // Coptic lies within
  EXPECT_TRUE(is_in("Hiragana", 0x3042));
  EXPECT_TRUE(is_in("Old_Italic", 0x10300));
  EXPECT_TRUE(is_in("Garay", 0x10D50));  // 16.0
  EXPECT_FALSE(code_sets::named("Klingon"));
  const auto runs = unicode::script_runs();
  for (std::size_t i = 1; i < runs.size(); ++i) EXPECT_LT(runs[i - 1] >> 8U, runs[i] >> 8U);
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
}  // namespace krait::unicode_test
