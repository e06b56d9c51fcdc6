// Long texts of every kind are encoded in a number of steps that grows with their length: a method
// that is quadratic in a megabyte would not end within the test's time.
#include <gtest/gtest.h>

#include <string>

#include "krait/core/rng.hpp"
#include "krait/text/tokenizer.hpp"
#include "src/core/utf8.hpp"
#include "src/text/models/byte_pairs.hpp"
#include "src/text/unicode/unicode.hpp"
#include "tests/support/support.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::growth_test {
namespace {

constexpr std::size_t megabyte = 1U << 20;

std::string repeated(std::string_view unit) {
  std::string text;
  while (text.size() < megabyte) text += unit;
  return text;
}

nlohmann::json doubling_tokenizer() {
  nlohmann::json file = test::small_tokenizer();
  auto& model = file["model"];
  std::string token = "a";
  for (int id = 259; id < 266; ++id) {
    model["merges"].push_back(token + " " + token);
    token += token;
    model["vocab"][token] = id;
  }
  file["normalizer"] = {{"type", "NFC"}};
  return file;
}

TEST(Growth, MergesTakeStepsInProportionToTheText) {
  BytePairs pairs(8);
  for (Token byte = 0; byte < 256; ++byte) {
    pairs.set_byte(static_cast<unsigned char>(byte), byte);
  }
  pairs.add_merge('a', 'a', 0, 256);
  for (Token k = 0; k < 7; ++k) {
    pairs.add_merge(256 + k, 256 + k, static_cast<std::uint32_t>(k) + 1, 257 + k);
  }
  for (const std::size_t size : {std::size_t{1000}, std::size_t{100000}, megabyte}) {
    BytePairs::Scratch scratch;
    std::vector<Token> tokens;
    pairs.encode(std::string(size, 'a'), scratch, tokens);
    EXPECT_LE(scratch.steps, 3 * size);
    EXPECT_LE(tokens.size(), size / 256 + 8);
  }
}

TEST(Growth, MegabytesOfOneKindEncode) {
  const auto tokenizer = read_tokenizer_json(doubling_tokenizer().dump()).value();
  for (const std::string_view unit :
       {"a", " ", "\n", "'", "' ", "a ", "  a", "7", "\xE4\xB8\x80", "\xCC\x81\xCC\xA3",
        "e\xCC\x81", "\xE1\x84\x80\xE1\x85\xA1", "ab"}) {
    const std::string text = repeated(unit);
    const auto tokens = tokenizer->encode(text);
    ASSERT_TRUE(tokens) << unit;
    EXPECT_EQ(tokenizer->decode(*tokens), unicode::normalized(text, unicode::Form::nfc)) << unit;
  }
}

TEST(Growth, MegabytesOfOneKindEncodeWithEveryModel) {
  const auto folder = test::data_dir() / "golden/tokenizers";
  std::vector<std::shared_ptr<const Tokenizer>> tokenizers;
  for (const char* name : {"chars", "affixes", "unigram", "pieces", "level"}) {
    auto file = nlohmann::json::parse(test::read_file(folder / (std::string(name) + ".json")));
    tokenizers.push_back(read_tokenizer_json(file.dump()).value());
    if (std::string_view(name) == "chars") continue;  // nothing is cut there as it is
    file["pre_tokenizer"] = nullptr;
    file["model"]["max_input_chars_per_word"] = 2 * megabyte;
    tokenizers.push_back(read_tokenizer_json(file.dump()).value());
  }
  for (const char* name : {"bpe", "bpe_rules", "unigram", "unigram_suffix"}) {
    tokenizers.push_back(
        read_sentencepiece(test::read_file(folder / (std::string(name) + ".model"))).value());
  }
  for (const std::string_view unit : {"a", "\xE4\xB8\x80"}) {
    const std::string text = repeated(unit);
    for (const auto& tokenizer : tokenizers) {
      const auto tokens = tokenizer->encode(text);
      ASSERT_TRUE(tokens) << tokens.error().message;
      tokenizer->decode(*tokens);
    }
  }
}

TEST(Growth, MegabytesOfNoKindEncode) {
  const auto tokenizer = read_tokenizer_json(test::small_tokenizer().dump()).value();
  std::string text;
  for (std::uint64_t i = 0; text.size() < megabyte; ++i) {
    utf8::append(text, random_bits({.seed = 1, .position = i})[0] % 256);
  }
  EXPECT_EQ(tokenizer->decode(tokenizer->encode(text).value()), text);
}

TEST(Growth, PatternsOfLaterTokenizersEncodeMegabytes) {
  nlohmann::json file = doubling_tokenizer();
  file["pre_tokenizer"] = nlohmann::json::parse(R"j({"type": "Sequence", "pretokenizers": [
    {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex":
      "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"}},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})j");
  const auto tokenizer = read_tokenizer_json(file.dump()).value();
  for (const std::string_view unit : {"a", " ", "\n", "7", "-", "a1 ", "  -"}) {
    const std::string text = repeated(unit);
    const auto tokens = tokenizer->encode(text);
    ASSERT_TRUE(tokens) << unit << tokens.error().message;
    EXPECT_EQ(tokenizer->decode(*tokens), text) << unit;
  }
}

TEST(Growth, APatternThatNeverEndsIsAnError) {
  nlohmann::json file = test::small_tokenizer();
  file["pre_tokenizer"] = nlohmann::json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": "(a*)*b|(a|a)*c"}},
    {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false}]})");
  const auto tokenizer = read_tokenizer_json(file.dump()).value();
  const auto tokens = tokenizer->encode(std::string(200, 'a') + "d");
  ASSERT_FALSE(tokens);
  EXPECT_EQ(tokens.error().code, ErrorCode::unsupported);
  EXPECT_NE(tokens.error().message.find("[tokenizer] pattern: expected"), std::string::npos);
  EXPECT_EQ(tokens.error().message.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace krait::growth_test
