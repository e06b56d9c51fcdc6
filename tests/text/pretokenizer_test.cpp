#include "src/text/stages/pretokenizer.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <tuple>

#include "src/core/utf8.hpp"
#include "src/io/json.hpp"

namespace krait::pretokenizer_test {
namespace {

using nlohmann::json;
using Pieces = std::vector<std::string>;

constexpr const char* bytes_only =
    R"({"type": "ByteLevel", "add_prefix_space": false, "use_regex": false})";

PreTokenizer read(const std::string& steps) {
  const std::string text = R"({"type": "Sequence", "pretokenizers": [)" + steps + "]}";
  return PreTokenizer::read(parse_json(text, "test").value()).value();
}

Pieces cut(const PreTokenizer& pre_tokenizer, std::string_view text) {
  PreTokenizer::Scratch scratch;
  pre_tokenizer.split(text, scratch).value();
  Pieces pieces;
  for (const auto piece : scratch.pieces) {
    pieces.emplace_back(scratch.text.substr(piece.begin, piece.end - piece.begin));
  }
  return pieces;
}

Pieces cut(const std::string& steps, std::string_view text) { return cut(read(steps), text); }

std::string split_step(const char* pattern, const char* behavior, bool invert) {
  const json step = {{"type", "Split"},
                     {"pattern", {{"Regex", pattern}}},
                     {"behavior", behavior},
                     {"invert", invert}};
  return step.dump() + "," + bytes_only;
}

Pieces split(const char* pattern, const char* behavior, bool invert, std::string_view text) {
  return cut(split_step(pattern, behavior, invert), text);
}

TEST(PreTokenizer, CutsLikeGpt2) {
  const auto gpt2 = [](std::string_view text) {
    return cut(R"({"type": "ByteLevel", "add_prefix_space": false})", text);
  };
  EXPECT_EQ(
      gpt2("Hello there,  it's 12x\n\n \ty "),
      (Pieces{"Hello", " there", ",", " ", " it", "'s", " 12", "x", "\n\n ", "\t", "y", " "}));
  EXPECT_EQ(gpt2("we'll 'round'LL"), (Pieces{"we", "'ll", " '", "round", "'", "LL"}));
  EXPECT_EQ(gpt2("'"), (Pieces{"'"}));
  EXPECT_EQ(gpt2("   "), (Pieces{"   "}));
  EXPECT_EQ(gpt2("a\xC2\xA0\xC2\xA0"
                 "b"),
            (Pieces{"a", "\xC2\xA0", "\xC2\xA0", "b"}));
  EXPECT_EQ(gpt2(""), Pieces{});
}

// The same pattern written so that PCRE2 runs it.
TEST(PreTokenizer, TheWrittenOutPatternIsThePattern) {
  const char* const pattern =
      R"((?:'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+))";
  const std::string_view parts[] = {
      "a",        "'", "s",        "re",           " ",           "  ", "\n", "7",
      "\xC2\xA0", "-", "\xCC\x81", "\xE4\xB8\x80", "\xE1\xA0\x8E"};
  constexpr std::size_t count = std::size(parts);
  const PreTokenizer written_out = read(R"({"type": "ByteLevel", "add_prefix_space": false})");
  const PreTokenizer by_pattern = read(split_step(pattern, "Isolated", false));
  for (std::size_t i = 0; i < count * count * count * count; ++i) {
    std::string text;
    for (std::size_t rest = i, k = 0; k < 4; ++k, rest /= count) text += parts[rest % count];
    ASSERT_EQ(cut(written_out, text), cut(by_pattern, text)) << text;
  }
}

TEST(PreTokenizer, BehavesAsAsked) {
  EXPECT_EQ(split("-", "Removed", false, "a--b-"), (Pieces{"a", "b"}));
  EXPECT_EQ(split("-", "Isolated", false, "a--b-"), (Pieces{"a", "-", "-", "b", "-"}));
  EXPECT_EQ(split("-", "MergedWithPrevious", false, "a--b-"), (Pieces{"a-", "-", "b-"}));
  EXPECT_EQ(split("-", "MergedWithNext", false, "a--b-"), (Pieces{"a", "-", "-b", "-"}));
  EXPECT_EQ(split("-", "Contiguous", false, "a--b-"), (Pieces{"a", "--", "b", "-"}));
  EXPECT_EQ(split("-", "Removed", true, "a--b-"), (Pieces{"-", "-", "-"}));
  EXPECT_EQ(split("$|(?=b)", "Isolated", false, "abb"), (Pieces{"a", "b", "b"}));
}

TEST(PreTokenizer, CutsDigitsAndPunctuation) {
  const std::string rest = std::string(",") + bytes_only;
  EXPECT_EQ(cut(R"({"type": "Digits", "individual_digits": true})" + rest, "a12"),
            (Pieces{"a", "1", "2"}));
  EXPECT_EQ(cut(R"({"type": "Digits", "individual_digits": false})" + rest, "a12b"),
            (Pieces{"a", "12", "b"}));
  EXPECT_EQ(cut(R"({"type": "Punctuation", "behavior": "Contiguous"})" + rest,
                "a?!\xC2\xBF"
                "b"),
            (Pieces{"a", "?!\xC2\xBF", "b"}));
}

TEST(PreTokenizer, AddsPrefixSpaces) {
  EXPECT_EQ(cut(R"({"type": "ByteLevel", "add_prefix_space": true})", "a b"), (Pieces{" a", " b"}));
  EXPECT_EQ(cut(R"({"type": "ByteLevel", "add_prefix_space": true})", " a"), (Pieces{" a"}));
  EXPECT_EQ(cut(R"({"type": "ByteLevel", "add_prefix_space": true})", ""), Pieces{});
}

TEST(PreTokenizer, StepsAfterByteLevelSeeTheByteAlphabet) {
  const json literal = {{"type", "Split"},
                        {"pattern", {{"String", "\xC4\xA0"}}},  // how a space is written
                        {"behavior", "Isolated"},
                        {"invert", false}};
  EXPECT_EQ(cut(std::string(bytes_only) + "," + literal.dump(), "a b\xC3\xA9"),
            (Pieces{"a", " ", "b\xC3\xA9"}));
}

// Characters of Unicode 14 to 17: an installed engine knows some of them, krait those up to 16.
TEST(PreTokenizer, ClassesAreThoseOfOneVersionOfUnicode) {
  const auto matched = [](const char* pattern, char32_t code) {
    std::string text = "(";
    utf8::append(text, code);
    return split(pattern, "Removed", false, text + ")").size() == 2;
  };
  const char32_t letters[] = {0x10570, 0x1DF00, 0x31350, 0x1E4D0, 0x2EBF0, 0x2EE5D,
                              0x1C89,  0x1C8A,  0xA7CB,  0x10D4A, 0x1E5D0, 0x11BC0};
  const char32_t digits[] = {0x11F50, 0x1E4F0, 0x10D40, 0x16D70, 0x1CCF0, 0x11BF0};
  const char32_t unassigned[] = {0xA7CE, 0x323B0, 0x16EA0, 0x11DB0, 0x11DE0, 0x16EFF, 0x378};
  for (const char32_t code : letters) {
    for (const char* const yes :
         {R"(\p{L})", R"([\p{L}\p{N}])", R"(\pL)", R"(\w)", R"([^\s\p{N}()])", R"(\P{N}(?=\)))",
          R"([[:alpha:]])", R"(\p{^P}(?=\)))"}) {
      EXPECT_TRUE(matched(yes, code)) << yes << std::hex << static_cast<unsigned>(code);
    }
    EXPECT_FALSE(matched(R"([^\s\p{L}()])", code)) << std::hex << static_cast<unsigned>(code);
  }
  for (const char32_t code : digits) {
    for (const char* const yes : {R"(\p{N})", R"(\d)", R"([\d])", R"(\p{Nd})", R"([[:digit:]])"}) {
      EXPECT_TRUE(matched(yes, code)) << yes << std::hex << static_cast<unsigned>(code);
    }
    EXPECT_FALSE(matched(R"([^\p{N}()])", code)) << std::hex << static_cast<unsigned>(code);
  }
  for (const char32_t code : unassigned) {
    for (const char* const no :
         {R"(\p{L})", R"(\p{N})", R"(\w)", R"(\d)", R"(\p{Lu})", R"(\p{S})"}) {
      EXPECT_FALSE(matched(no, code)) << no << std::hex << static_cast<unsigned>(code);
    }
    EXPECT_TRUE(matched(R"([^\s\p{L}\p{N}()])", code)) << std::hex << static_cast<unsigned>(code);
    EXPECT_TRUE(matched(R"(\p{Cn})", code)) << std::hex << static_cast<unsigned>(code);
  }
  EXPECT_TRUE(matched(R"(\p{Lu})", 0x1C89));
  EXPECT_TRUE(matched(R"(\p{Uppercase_Letter})", 0x1C89));
  EXPECT_TRUE(matched(R"(\p{Ll})", 0x1C8A));
  EXPECT_TRUE(matched(R"([\p{Mn}])", 0x897));
  EXPECT_TRUE(matched(R"((?i:\p{Lu}))", 0x1C89));
}

// Spelled for the engine's version and spelled out, a class matches the same code points.
TEST(PreTokenizer, ClassesDoNotDependOnTheEnginesVersion) {
  std::string all;
  for (char32_t code = 0; code < 0x110000; ++code) {
    if (code < 0xD800 || code >= 0xE000) utf8::append(all, code);
  }
  for (const char* const pattern :
       {R"(\p{L}+)", R"(\p{M}+)", R"(\p{N}+)", R"(\p{P}+)", R"(\p{S}+)", R"(\p{Z}+)", R"(\P{C}+)",
        R"(\p{Lu}+)", R"(\p{Ll}+)", R"(\p{Lo}+)", R"(\p{Mn}+)", R"(\p{Mc}+)", R"(\p{Nd}+)",
        R"(\p{Po}+)", R"([^\s\p{L}\p{N}]+)", R"([\P{L}]+)", R"(\d+)", R"([^\p{L&}\D]+)"}) {
    const Regex regexes[] = {Regex::compile(pattern).value(), Regex::compile(pattern, "").value()};
    RegexSearch one(regexes[0]);
    RegexSearch other(regexes[1]);
    for (std::size_t from = 0;;) {
      const RegexMatch a = one.find(all, from).value();
      const RegexMatch b = other.find(all, from).value();
      ASSERT_EQ(a.found, b.found) << pattern;
      if (!a.found) break;
      ASSERT_EQ(a.begin, b.begin) << pattern;
      ASSERT_EQ(a.end, b.end) << pattern;
      from = a.end;
    }
  }
}

TEST(PreTokenizer, WordBoundariesAreThoseOfWords) {
  EXPECT_EQ(split(R"(\b)", "Isolated", false, "ab-c"), (Pieces{"ab", "-", "c"}));
  EXPECT_EQ(split(R"(\Bb)", "Removed", false, "ab-b"), (Pieces{"a", "-b"}));
}

TEST(PreTokenizer, ReadsPatternsAsTheirEngineDoes) {
  EXPECT_EQ(split(R"(\s)", "Isolated", false,
                  "a\xE1\xA0\x8E"
                  "b"),
            (Pieces{"a\xE1\xA0\x8E"
                    "b"}));
  EXPECT_EQ(split(R"([\s])", "Removed", false,
                  "a\xE3\x80\x80"
                  "b"),
            (Pieces{"a", "b"}));
  EXPECT_EQ(split(R"([^\S ])", "Removed", false, "a b\nc"), (Pieces{"a b", "c"}));
  EXPECT_EQ(split(R"(\S+)", "Removed", true, "a b"), (Pieces{"a", "b"}));
  EXPECT_EQ(split(R"(\w+)", "Removed", true, "e\xCC\x81-x"), (Pieces{"e\xCC\x81", "x"}));
  EXPECT_EQ(split(R"([]\\[:digit:]])", "Removed", false, "a]b\\c1d"), (Pieces{"a", "b", "c", "d"}));
  EXPECT_EQ(split("^b", "Isolated", false, "a\nbb"), (Pieces{"a\n", "b", "b"}));
}

// Checked with the `tokenizers` package.
TEST(PreTokenizer, ReadsRepetitionsAsTheirEngineDoes) {
  const std::tuple<const char*, const char*, Pieces> cases[] = {
      {R"(\A\p{Nd}{1,2}(?=\p{Nd}{3}+\z))", "1234567", {"1", "234567"}},
      {R"(\p{N}{1,3}+)", "12345", {"12345"}},
      {R"(\p{N}{1,3})", "12345", {"123", "45"}},
      {R"((?:a|bc){2}+)", "aabcab", {"aabca", "b"}},
      {R"(\d{,2})", "12345", {"12", "34", "5"}},
      {R"(\p{N}{3}?)", "a12b", {"a", "1", "2", "b"}},
      {R"(\p{N}{2,3}?)", "12345", {"12", "34", "5"}},
      {R"([0-9]{2}+)", "12345", {"1234", "5"}},
      {R"(\u00e9{2}+)", "\xC3\xA9\xC3\xA9", {"\xC3\xA9\xC3\xA9"}},
      {R"(a{,})", "aa{,}a", {"a", "a{,}", "a"}},
      {R"([\u4E00-\u9FFF]+)", "a\xE4\xB8\x80z", {"a", "\xE4\xB8\x80", "z"}},
  };
  for (const auto& [pattern, text, expected] : cases) {
    EXPECT_EQ(split(pattern, "Isolated", false, text), expected) << pattern;
  }
}

TEST(PreTokenizer, ClassesInBracketsAreTheirEngines) {
  const auto is_in = [](const char* pattern, const char* character) {
    return split(pattern, "Removed", false, std::string("\x01") + character + "\x01").size() == 2;
  };
  const char* const euro = "\xE2\x82\xAC";
  const char* const four = "\xE2\x85\xA3";  // a Roman numeral
  const char* const half = "\xC2\xBD";
  const char* const small_h = "\xCA\xB0";  // a modifier letter
  EXPECT_TRUE(is_in("[[:punct:]]", euro));
  EXPECT_TRUE(is_in("[[:punct:]]", "$"));
  EXPECT_FALSE(is_in(R"(\p{Punct})", "$"));
  EXPECT_TRUE(is_in(R"(\p{Punct})", "-"));
  EXPECT_TRUE(is_in("[[:alpha:]]", four));
  EXPECT_TRUE(is_in("[[:alpha:]]", "\xD9\x8B"));  // an Arabic vowel sign
  EXPECT_TRUE(is_in("[[:upper:]]", four));
  EXPECT_TRUE(is_in("[[:lower:]]", small_h));
  EXPECT_FALSE(is_in("[[:alnum:]]", half));
  EXPECT_TRUE(is_in(R"(\w)", half));
  EXPECT_FALSE(is_in(R"([\w])", half));
}

}  // namespace
}  // namespace krait::pretokenizer_test
