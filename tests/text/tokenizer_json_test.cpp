// What the fields of tokenizer.json mean, on a small tokenizer.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::tokenizer_json_test {
namespace {

using nlohmann::json;
using Tokens = std::vector<Token>;

std::shared_ptr<const Tokenizer> load(const json& file) {
  return read_tokenizer_json(file.dump()).value();
}

Tokens encoded(const json& file, std::string_view text) { return load(file)->encode(text).value(); }

json added(std::string_view content, Token id, const json& options = json::object()) {
  json token = {{"content", content}, {"id", id}, {"special", false}, {"normalized", false}};
  token.update(options);
  return token;
}

TEST(TokenizerJson, JoinsTheLowestRankFirst) {
  EXPECT_EQ(encoded(test::small_tokenizer(), "the then th"), (Tokens{257, 258, 'n', ' ', 256}));
  // With the ranks turned round, "h e" wins.
  json file = test::small_tokenizer();
  file["model"]["vocab"]["he"] = 259;
  file["model"]["merges"] = json::array({"h e", "t h", "th e"});
  EXPECT_EQ(encoded(file, "the"), (Tokens{'t', 259}));
}

TEST(TokenizerJson, ReadsMergesAsPairsToo) {
  json file = test::small_tokenizer();
  file["model"]["merges"] = json::array({{"t", "h"}, {"th", "e"}, {"\xC4\xA0", "the"}});
  EXPECT_EQ(encoded(file, "the the"), (Tokens{257, 258}));
}

TEST(TokenizerJson, LongPiecesAreJoinedLikeShortOnes) {
  json file = test::small_tokenizer();
  Tokens expected;
  std::string text;
  for (int i = 0; i < 40; ++i) {
    text += "theth";
    expected.insert(expected.end(), {257, 256});
  }
  EXPECT_EQ(encoded(file, text), expected);
}

TEST(TokenizerJson, IgnoreMergesTakesAWholePieceThatIsAToken) {
  json file = test::small_tokenizer();
  file["model"]["vocab"]["hi"] = 259;  // no merge leads there
  EXPECT_EQ(encoded(file, "hi"), (Tokens{'h', 'i'}));
  file["model"]["ignore_merges"] = true;
  EXPECT_EQ(encoded(file, "hi"), (Tokens{259}));
  EXPECT_EQ(encoded(file, "hit"), (Tokens{'h', 'i', 't'}));
}

TEST(TokenizerJson, FindsAddedTokensLongestFirst) {
  json file = test::small_tokenizer();
  file["added_tokens"] = json::array({added("<a>", 259), added("<a><b>", 260), added("<b", 261)});
  EXPECT_EQ(encoded(file, "<a><b><a>x<b"), (Tokens{260, 259, 'x', 261}));
  EXPECT_EQ(load(file)->find("<a><b>"), 260);
}

TEST(TokenizerJson, HonoursTheOptionsOfAddedTokens) {
  json file = test::small_tokenizer();
  file["added_tokens"] = json::array(
      {added("<l>", 259, {{"lstrip", true}}), added("<r>", 260, {{"rstrip", true}}),
       added("ww", 261, {{"single_word", true}}), added("<s>", 262, {{"special", true}})});
  EXPECT_EQ(encoded(file, "a  <l>  b"), (Tokens{'a', 259, ' ', ' ', 'b'}));
  EXPECT_EQ(encoded(file,
                    "a <r> \n\xE2\x80\x83"
                    "b"),
            (Tokens{'a', ' ', 260, 'b'}));
  EXPECT_EQ(encoded(file, "ww-ww wwo"), (Tokens{261, '-', 261, ' ', 'w', 'w', 'o'}));
  EXPECT_EQ(encoded(file, "\xC3\xA9ww"), (Tokens{0xC3, 0xA9, 'w', 'w'}));
  const auto tokenizer = load(file);
  EXPECT_TRUE(tokenizer->is_special(262));
  EXPECT_FALSE(tokenizer->is_special(261));
  EXPECT_EQ(tokenizer->decode({'a', 262, 'b'}, false), "ab");
}

TEST(TokenizerJson, NormalizedTokensAreFoundInNormalizedText) {
  json file = test::small_tokenizer();
  file["normalizer"] = {{"type", "Lowercase"}};
  file["added_tokens"] = json::array({added("Yes", 259, {{"normalized", true}}), added("No", 260)});
  EXPECT_EQ(encoded(file, "YES"), (Tokens{259}));
  EXPECT_EQ(encoded(file, "No"), (Tokens{260}));
  EXPECT_EQ(encoded(file, "NO"), (Tokens{'n', 'o'}));
  EXPECT_EQ(load(file)->bytes(259), "Yes");
}

TEST(TokenizerJson, RunsNormalizersInOrder) {
  json file = test::small_tokenizer();
  file["normalizer"] = json::parse(R"({"type": "Sequence", "normalizers": [
    {"type": "Strip", "strip_left": true, "strip_right": true}, {"type": "NFKC"},
    {"type": "Replace", "pattern": {"String": "x"}, "content": "yy"},
    {"type": "Replace", "pattern": {"Regex": "[0-9]+"}, "content": "#"},
    {"type": "Prepend", "prepend": "_"}]})");
  EXPECT_EQ(load(file)->decode(encoded(file, " x12\xEF\xAC\x81 3\t")), "_yy#fi #");
  EXPECT_TRUE(encoded(file, "").empty());
  EXPECT_TRUE(encoded(file, "  ").empty());
}

TEST(TokenizerJson, IdsMayLeaveGaps) {
  json file = test::small_tokenizer();
  file["added_tokens"] = json::array({added("<a>", 300)});
  const auto tokenizer = load(file);
  EXPECT_EQ(tokenizer->vocab(), 301);
  EXPECT_EQ(tokenizer->bytes(299), "");
  EXPECT_EQ(tokenizer->bytes(300), "<a>");
}

TEST(TokenizerJson, TokensOutsideTheByteAlphabetAreTheirOwnText) {
  json file = test::small_tokenizer();
  file["model"]["vocab"]["<|a b|>"] = 259;
  file["added_tokens"] = json::array({added("<|a b|>", 259, {{"special", true}})});
  EXPECT_EQ(encoded(file, "x<|a b|>"), (Tokens{'x', 259}));
  EXPECT_EQ(load(file)->bytes(259), "<|a b|>");
}

json with_special(json post_processor) {
  json file = test::small_tokenizer();
  file["added_tokens"] =
      json::array({added("<s>", 259, {{"special", true}}), added("</s>", 260, {{"special", true}}),
                   added("<tag>", 261)});
  file["post_processor"] = std::move(post_processor);
  return file;
}

TEST(TokenizerJson, PutsAroundATextWhatItsFileSays) {
  const EncodeOptions special{.add_special = true};
  const json one = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}},
               {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "special_tokens": {"<s>": {"id": "<s>", "ids": [259], "tokens": ["<s>"]},
                       "</s>": {"id": "</s>", "ids": [260, 7], "tokens": ["</s>", "x"]}}})");
  const auto once = load(with_special(one));
  EXPECT_EQ(once->encode("the", special).value(), (Tokens{259, 257, 260, 7}));
  EXPECT_EQ(once->encode("", special).value(), (Tokens{259, 260, 7}));
  EXPECT_EQ(once->encode("the").value(), (Tokens{257}));
  const json bytes = {{"type", "ByteLevel"}, {"trim_offsets", true}};
  const json pair = {{"type", "RobertaProcessing"}, {"cls", {"a", 1}}, {"sep", {"b", 2}}};
  const auto twice =
      load(with_special({{"type", "Sequence"}, {"processors", {bytes, one, bytes}}}));
  EXPECT_EQ(twice->encode("the", special).value(), (Tokens{259, 257, 260, 7}));
  EXPECT_EQ(load(with_special(pair))->encode("the", special).value(), (Tokens{1, 257, 2}));
  EXPECT_EQ(load(with_special(bytes))->encode("the", special).value(), (Tokens{257}));
  EXPECT_EQ(load(with_special(nullptr))->encode("", special).value(), Tokens{});
}

TEST(TokenizerJson, LeavesSpecialTokensAsTextIfAsked) {
  json file = with_special(nullptr);
  const EncodeOptions plain{.parse_special = false};
  EXPECT_EQ(load(file)->encode("<s><tag>").value(), (Tokens{259, 261}));
  EXPECT_EQ(load(file)->encode("<s><tag>", plain).value(), (Tokens{'<', 's', '>', 261}));
  file["model"]["vocab"]["<s>"] = 259;
  file["model"]["ignore_merges"] = true;
  file["pre_tokenizer"]["use_regex"] = false;
  EXPECT_EQ(load(file)->encode("<s>", plain).value(), (Tokens{'<', 's', '>'}));
}

TEST(TokenizerJson, LeavesSpecialTokensAsTextInLiteralParts) {
  json file = with_special(nullptr);
  const auto encoded = [&](std::string_view text, std::vector<ByteRange> literal) {
    return load(file)->encode(text, {.literal = literal}).value();
  };
  const Tokens spelled{'<', 's', '>'};
  EXPECT_EQ(encoded("<s><s><s>", {{3, 6}}), (Tokens{259, '<', 's', '>', 259}));
  // A token that is partly in one, and one that only touches it.
  EXPECT_EQ(encoded("<s>", {{1, 2}}), spelled);
  EXPECT_EQ(encoded("<s>", {{0, 1}}), spelled);
  EXPECT_EQ(encoded("<s>", {{2, 3}}), spelled);
  EXPECT_EQ(encoded("<s>", {{3, 3}}), (Tokens{259}));
  EXPECT_EQ(encoded("a<s>b", {{0, 1}, {4, 5}}), (Tokens{'a', 259, 'b'}));
  // Tokens that are not special are found everywhere.
  EXPECT_EQ(encoded("<tag><s>", {{0, 8}}), (Tokens{261, '<', 's', '>'}));
  // A token that is looked for in normalized text.
  for (json& token : file["added_tokens"]) token["normalized"] = true;
  EXPECT_EQ(encoded("<s><s>", {{3, 6}}), (Tokens{259, '<', 's', '>'}));
  file["normalizer"] = {{"type", "Lowercase"}};
  EXPECT_EQ(encoded("A<s>", {{0, 1}}), (Tokens{'a', '<', 's', '>'}));
  EXPECT_EQ(encoded("<s>", {}), (Tokens{259}));
}

TEST(TokenizerJson, TheVocabularysIdGoesBeforeThatOfAnAddedToken) {
  json file = test::small_tokenizer();
  file["added_tokens"] = json::array({added("the", 300, {{"special", true}})});
  const auto tokenizer = load(file);
  EXPECT_EQ(tokenizer->encode("the").value(), (Tokens{257}));
  EXPECT_EQ(tokenizer->vocab(), 259);
  EXPECT_TRUE(tokenizer->is_special(257));
  EXPECT_EQ(tokenizer->find("the"), 257);
  EXPECT_EQ(tokenizer->bytes(257), "the");
}

TEST(TokenizerJson, BytesWithoutATokenAreLeftOut) {
  json file = test::small_tokenizer();
  file["model"]["vocab"].erase("!");
  EXPECT_EQ(encoded(file, "th!!e"), (Tokens{256, 'e'}));
  EXPECT_TRUE(encoded(file, "!").empty());
  file["model"]["vocab"]["?!"] = '!';
  file["model"]["unk_token"] = "?!";
  EXPECT_EQ(encoded(file, "t!he"), (Tokens{'t', '!', 'h', 'e'}));
}

TEST(TokenizerJson, OldFilesDoNotNameTheModelsType) {
  json file = test::small_tokenizer();
  file["model"].erase("type");
  EXPECT_EQ(encoded(file, " the"), (Tokens{258}));
}

}  // namespace
}  // namespace krait::tokenizer_json_test
