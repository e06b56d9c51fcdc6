// The GPT-NeoX tokenizer against ids from other implementations.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "krait/core/rng.hpp"
#include "krait/text/stream_decoder.hpp"
#include "krait/text/tokenizer.hpp"
#include "src/core/utf8.hpp"
#include "src/text/unicode/unicode.hpp"
#include "tests/support/support.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::tokenizer_cases_test {
namespace {

const Tokenizer& neox() {
  static const auto tokenizer =
      read_tokenizer_json(test::read_file(test::data_dir() / "data/gpt-neox-20b/tokenizer.json"))
          .value();
  return *tokenizer;
}

TEST(GptNeox, HasItsVocabulary) {
  EXPECT_EQ(neox().vocab(), 50277);
  EXPECT_EQ(neox().find("<|endoftext|>"), 0);
  EXPECT_EQ(neox().find("<|padding|>"), 1);
  EXPECT_EQ(neox().find(" the"), 253);
  EXPECT_EQ(neox().find("no token is written so"), std::nullopt);
  EXPECT_TRUE(neox().is_special(0));
  EXPECT_FALSE(neox().is_special(253));
  EXPECT_FALSE(neox().is_special(50276));  // two spaces: added, but text
  EXPECT_EQ(neox().bytes(50276), "  ");
  EXPECT_EQ(neox().bytes(50277), "");
  EXPECT_EQ(neox().bytes(-1), "");
  EXPECT_EQ(neox().decode({0, 253, 1}, false), " the");
  EXPECT_EQ(neox().decode({0, 253, 1}), "<|endoftext|> the<|padding|>");
}

TEST(GptNeox, AgreesWithThePublishedVectors) {
  const auto folder = test::data_dir() / "data/gpt-neox-20b";
  const std::string texts = test::read_file(folder / "vectors.inp");
  std::istringstream lines(test::read_file(folder / "vectors.out"));
  const std::string separator = "\n__ggml_vocab_test__\n";
  int count = 0;
  std::string line;
  for (std::size_t begin = 0; std::getline(lines, line); ++count) {
    const std::size_t end = texts.find(separator, begin);
    ASSERT_NE(end, std::string::npos);
    std::vector<Token> expected;
    std::istringstream ids(line);
    for (Token id = 0; ids >> id;) expected.push_back(id);
    const std::string text = texts.substr(begin, end - begin);
    EXPECT_EQ(neox().encode(text).value(), expected) << text;
    begin = end + separator.size();
  }
  EXPECT_EQ(count, 46);
}

TEST(GptNeox, AgreesWithTheGoldenCases) {
  const auto file =
      nlohmann::json::parse(test::read_file(test::data_dir() / "golden/tokenizer_cases.json"));
  const auto& cases = file.at("cases");
  EXPECT_GE(cases.size(), 150U);
  for (const auto& one : cases) {
    const auto name = one.at("name").get<std::string>();
    const auto tokens = neox().encode(one.at("text").get<std::string>()).value();
    EXPECT_EQ(tokens, one.at("ids").get<std::vector<Token>>()) << name;
    StreamDecoder decoder;
    std::string decoded{decoder.push(neox().decode(tokens))};
    decoded += decoder.finish();
    EXPECT_EQ(decoded, one.at("decoded").get<std::string>()) << name;
  }
}

TEST(PostProcessors, AgreeWithTheGoldenCases) {
  const auto file =
      nlohmann::json::parse(test::read_file(test::data_dir() / "golden/post_processor_cases.json"));
  EXPECT_GE(file.at("cases").size(), 10U);
  for (const auto& one : file.at("cases")) {
    nlohmann::json described = test::small_tokenizer();
    for (const char* const word : {"th", "the", "\u0120the"})
      described["model"]["vocab"].erase(word);
    described["model"]["merges"] = nlohmann::json::array();
    int id = 256;
    for (const char* const mark : {"<s>", "</s>"}) {
      described["added_tokens"].push_back(
          {{"content", mark}, {"id", id++}, {"special", true}, {"normalized", false}});
    }
    described["post_processor"] = one.at("post_processor");
    const auto tokenizer = read_tokenizer_json(described.dump()).value();
    for (const auto& [text, ids] : one.at("ids").items()) {
      EXPECT_EQ(tokenizer->encode(text, {.add_special = true}).value(),
                ids.get<std::vector<Token>>())
          << one.at("post_processor") << text;
    }
  }
}

std::string random_text(std::uint64_t seed) {
  std::string text;
  const auto draw = [&](std::uint64_t position, std::uint32_t below) {
    return random_bits({.seed = seed, .position = position})[0] % below;
  };
  const std::uint32_t length = draw(0, 40);
  for (std::uint32_t i = 0; i < length; ++i) {
    const std::uint32_t limits[] = {0x80, 0x250, 0x3000, 0x110000};
    const std::uint32_t code = draw(2 * i + 1, limits[draw(2 * i + 2, 4)]);
    utf8::append(text, code >= 0xD800 && code < 0xE000 ? U' ' : char32_t{code});
  }
  return text;
}

TEST(GptNeox, DecodesWhatItEncodes) {
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    const std::string text = random_text(seed);
    const auto tokens = neox().encode(text).value();
    ASSERT_EQ(neox().decode(tokens), unicode::normalized(text, unicode::Form::nfc)) << text;
  }
}

TEST(GptNeox, RefusesWhatIsNotUtf8) {
  const struct {
    std::string_view text, message;
  } cases[] = {
      {"twelve bytes\xFF", "[tokenizer] text: expected UTF-8, found byte 0xff at offset 12"},
      {"\xE2\x82", "[tokenizer] text: expected UTF-8, found byte 0xe2 at offset 0"},
      {"ab\xED\xA0\x80", "[tokenizer] text: expected UTF-8, found byte 0xed at offset 2"},
      {"\xC0\xAF", "[tokenizer] text: expected UTF-8, found byte 0xc0 at offset 0"},
  };
  for (const auto& one : cases) {
    const auto result = neox().encode(one.text);
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error(), (Error{ErrorCode::bad_argument, std::string(one.message)}));
  }
}

TEST(GptNeox, EncodesWholeTextsLikeTheirLines) {
  // Newlines end pieces, so a text's tokens are its lines' tokens, whatever the cache does.
  std::string text;
  std::vector<Token> expected;
  for (int i = 0; i < 3000; ++i) {
    const std::string line = "word" + std::to_string(i % 700) + " and the other\n";
    text += line;
    const auto tokens = neox().encode(line).value();
    expected.insert(expected.end(), tokens.begin(), tokens.end());
  }
  EXPECT_EQ(neox().encode(text).value(), expected);
}

}  // namespace
}  // namespace krait::tokenizer_cases_test
