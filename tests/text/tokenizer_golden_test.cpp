// Tokenizer files of every kind give the ids and the texts of the `tokenizers` and `sentencepiece`
// packages; tests/golden/make_tokenizers.py made both.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "krait/text/stream_decoder.hpp"
#include "krait/text/tokenizer.hpp"
#include "tests/support/support.hpp"

namespace krait::tokenizer_golden_test {
namespace {

using nlohmann::json;
using Tokens = std::vector<Token>;

std::string read_file(const std::string& name) {
  return test::read_file(test::data_dir() / "golden/tokenizers" / name);
}

const json& cases() {
  static const json file = json::parse(read_file("cases.json"));
  return file;
}

// A merge patch, but objects that name a type replace what was there.
void patch(json& target, const json& changes) {
  for (const auto& [key, value] : changes.items()) {
    if (value.is_null()) {
      target.erase(key);
    } else if (value.is_object() && !value.contains("type") && target.contains(key)) {
      patch(target[key], value);
    } else {
      target[key] = value;
    }
  }
}

std::string shown(std::string_view bytes) {
  StreamDecoder decoder;
  std::string text(decoder.push(bytes));
  return text += decoder.finish();
}

// Runs of U+FFFD are one: the package writes one for each byte that is no text.
std::string with_one_replacement(std::string_view text) {
  constexpr std::string_view replacement = "\xEF\xBF\xBD";
  std::string result;
  for (std::size_t i = 0; i < text.size();) {
    if (text.substr(i).starts_with(replacement)) {
      if (!result.ends_with(replacement)) result += replacement;
      i += replacement.size();
    } else {
      result += text[i++];
    }
  }
  return result;
}

void expect_results(const Tokenizer& tokenizer, const json& expected, bool add_special,
                    bool parse_special, bool decodes) {
  const json& texts = cases()["texts"];
  for (std::size_t i = 0; i < texts.size(); ++i) {
    const auto text = texts[i].get<std::string>();
    const auto tokens =
        tokenizer.encode(text, {.add_special = add_special, .parse_special = parse_special});
    if (expected["ids"][i].is_null()) {
      EXPECT_FALSE(tokens) << text;
      continue;
    }
    ASSERT_TRUE(tokens) << text << ": " << tokens.error().message;
    EXPECT_EQ(*tokens, expected["ids"][i].get<Tokens>()) << i << ": " << text;
    if (!decodes) continue;
    const json& decoded = expected["decoded"][i];
    const std::string back = decoded.is_null() ? text : decoded.get<std::string>();
    EXPECT_EQ(with_one_replacement(shown(tokenizer.decode(expected["ids"][i].get<Tokens>()))),
              with_one_replacement(back))
        << i << ": " << text;
  }
}

class GoldenTokenizer : public testing::TestWithParam<std::size_t> {};

TEST_P(GoldenTokenizer, GivesTheIdsAndTextsOfThePackage) {
  const json& one = cases()["variants"][GetParam()];
  SCOPED_TRACE(one["name"].get<std::string>());
  json file = json::parse(read_file(one["base"].get<std::string>() + ".json"));
  patch(file, one["patch"]);
  const auto tokenizer = read_tokenizer_json(file.dump());
  ASSERT_TRUE(tokenizer) << tokenizer.error().message;
  expect_results(**tokenizer, one, true, true, one.contains("decoded"));
}

INSTANTIATE_TEST_SUITE_P(Variants, GoldenTokenizer,
                         testing::Range(std::size_t{0}, cases()["variants"].size()));

std::string spelled(const Tokenizer& tokenizer, const Tokens& tokens) {
  std::string text;
  for (const Token token : tokens) text += tokenizer.bytes(token);
  return text;
}

// Tokens behind a text spell what stands there, and no space that does not.
TEST(GoldenTokenizers, GoOnWithinAText) {
  const std::string whole = "the same word again and then  the others";
  for (const char* name :
       {"bytes.json", "chars.json", "unigram.json", "bpe.model", "unigram.model"}) {
    const std::string file = read_file(name);
    const auto tokenizer = std::string_view(name).ends_with(".json")
                               ? read_tokenizer_json(file).value()
                               : read_sentencepiece(file).value();
    const Tokens all = tokenizer->encode(whole).value();
    const std::string seen = tokenizer->decode(all);  // some leave extra spaces out
    EXPECT_EQ(seen.substr(0, 28), whole.substr(0, 28)) << name;
    for (std::size_t cut = 1; cut < 26; ++cut) {
      Tokens tokens = tokenizer->encode(whole.substr(0, cut)).value();
      if (whole[cut - 1] == ' ') continue;  // which some do not keep at the end
      const std::string rest = whole.substr(cut, 27 - cut);
      const Tokens more = tokenizer->encode(rest, {.before = TextBefore::text}).value();
      EXPECT_EQ(spelled(*tokenizer, more), rest) << name << cut;
      tokens.insert(tokens.end(), more.begin(), more.end());
      EXPECT_EQ(tokenizer->decode(tokens), whole.substr(0, 27)) << name << cut;
    }
    EXPECT_EQ(tokenizer->encode(whole, {.before = TextBefore::nothing}).value(), all);
  }
}

TEST(GoldenSentencePiece, GivesTheIdsOfThePackage) {
  for (const auto& [name, expected] : cases()["sentencepiece"].items()) {
    SCOPED_TRACE(name);
    const auto tokenizer = read_sentencepiece(read_file(name + ".model"));
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    expect_results(**tokenizer, expected, false, false, false);
  }
}

}  // namespace
}  // namespace krait::tokenizer_golden_test
