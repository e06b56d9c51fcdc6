// Files that are wrong in one place each: the error names the place, on one line.
#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "krait/text/tokenizer.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::hostile_tokenizer_test {
namespace {

using nlohmann::json;

constexpr ErrorCode bad_format = ErrorCode::bad_format;
constexpr ErrorCode unsupported = ErrorCode::unsupported;

struct Case {
  std::function<void(json&)> spoil;
  ErrorCode code;
  std::string message;  // a part of it
};

json added(json content, json id) {
  return json::array({{{"content", std::move(content)}, {"id", std::move(id)}}});
}

json split(const std::string& pattern) {
  return json::parse(R"({"type": "Sequence", "pretokenizers": [
    {"type": "Split", "behavior": "Isolated", "invert": false, "pattern": {"Regex": ""}},
    {"type": "ByteLevel", "add_prefix_space": false}]})")
      .patch(json::array(
          {{{"op", "replace"}, {"path", "/pretokenizers/0/pattern/Regex"}, {"value", pattern}}}));
}

std::vector<Case> model_cases() {
  return {
      {[](json& f) { f = json::array(); }, bad_format, "file: expected an object, found an array"},
      {[](json& f) { f.erase("model"); }, bad_format, "model: expected an object, found null"},
      {[](json& f) { f["model"]["type"] = "Unigram"; }, bad_format,
       "model.vocab: expected an array, found an object"},
      {[](json& f) { f["model"]["type"] = 7; }, unsupported,
       "model.type: expected BPE, Unigram, WordPiece or WordLevel, found 7"},
      {[](json& f) { f["model"]["dropout"] = 0.1; }, unsupported, "model.dropout: expected null"},
      {[](json& f) { f["model"]["end_of_word_suffix"] = 7; }, bad_format,
       "model.end_of_word_suffix: expected a string, found 7"},
      {[](json& f) { f["model"]["continuing_subword_prefix"] = "the"; }, bad_format,
       "model.merges[0]: expected a token that begins with \"the\", found \"h\""},
      {[](json& f) { f["model"]["byte_fallback"] = 1; }, bad_format,
       "model.byte_fallback: expected true or false, found 1"},
      {[](json& f) {
         f["model"]["unk_token"] = "<none>";
         f["pre_tokenizer"] = nullptr;
       },
       bad_format, "model.unk_token: expected a token of model.vocab, found \"<none>\""},
      {[](json& f) { f["model"]["ignore_merges"] = "yes"; }, bad_format,
       "model.ignore_merges: expected true or false, found \"yes\""},
      {[](json& f) { f["model"]["vocab"] = json::array(); }, bad_format,
       "model.vocab: expected an object, found an array"},
      {[](json& f) { f["model"]["vocab"] = json::object(); }, bad_format,
       "model.merges[0]: expected tokens of model.vocab, found \"t\""},
      {[](json& f) { f["model"]["vocab"]["the"] = 256; }, bad_format,
       "model.vocab: expected every id once, found 256 for"},
      {[](json& f) { f["model"]["vocab"]["the"] = -1; }, bad_format,
       "model.vocab[\"the\"]: expected an id below 16777216, found -1"},
      {[](json& f) { f["model"]["vocab"]["the"] = 1ULL << 63; }, bad_format,
       "found 9223372036854775808"},
      {[](json& f) { f["model"]["vocab"]["the"] = 16777215; }, bad_format,
       "model.vocab: expected ids below 4614 for 259 tokens, found 16777215"},
      {[](json& f) { f["model"]["vocab"]["the"] = 257.5; }, bad_format, "found 257.5"},
      {[](json& f) { f["model"]["vocab"]["the"] = json::array(); }, bad_format,
       "expected an id below 16777216, found an array"},
      {[](json& f) { f["model"]["merges"] = json::object(); }, bad_format,
       "model.merges: expected an array, found an object"},
      {[](json& f) { f["model"]["merges"][1] = 5; }, bad_format,
       "model.merges[1]: expected two tokens, found 5"},
      {[](json& f) { f["model"]["merges"][1] = "the"; }, bad_format, "expected two tokens"},
      {[](json& f) { f["model"]["merges"][1] = " e"; }, bad_format, "expected two tokens"},
      {[](json& f) { f["model"]["merges"][1] = json::array({"t"}); }, bad_format,
       "model.merges[1]: expected two tokens, found an array"},
      {[](json& f) {
         f["model"]["merges"][1] = json::array({"t", 1});
       },
       bad_format, "expected two tokens"},
      {[](json& f) { f["model"]["merges"][0] = "t zz"; }, bad_format,
       "model.merges[0]: expected tokens of model.vocab, found \"zz\""},
      {[](json& f) { f["model"]["merges"][0] = "h t"; }, bad_format,
       "expected tokens of model.vocab, found \"ht\""},
      {[](json& f) { f["model"]["merges"][0] = "t\n\x1B[31m zz"; }, bad_format, "\\n\\u001b[31m"},
  };
}

std::vector<Case> other_cases() {
  return {
      {[](json& f) {
         f["normalizer"] = {{"type", "Upper"}};
       },
       unsupported, "normalizer.type: expected NFC, NFD"},
      {[](json& f) {
         f["normalizer"] = {{"type", "BertNormalizer"}};
       },
       bad_format, "normalizer.clean_text: expected true or false, found null"},
      {[](json& f) { f["normalizer"] = "NFC"; }, bad_format, "normalizer.type: expected a string"},
      {[](json& f) {
         f["normalizer"] = {{"type", "Sequence"}};
       },
       bad_format, "normalizer.normalizers: expected an array, found null"},
      {[](json& f) {
         f["normalizer"] = {{"type", "Sequence"},
                            {"normalizers", json::array({{{"type", "NFC"}}, {{"type", "Other"}}})}};
       },
       unsupported, "normalizer.normalizers[1].type"},
      {[](json& f) {
         f["normalizer"] = {{"type", "Replace"}, {"pattern", {{"String", ""}}}, {"content", "x"}};
       },
       unsupported, "normalizer.pattern: expected a pattern, found an empty string"},
      {[](json& f) {
         f["normalizer"] = {{"type", "Sequence"},
                            {"normalizers", std::vector<json>(1000, {{"type", "NFC"}})}};
       },
       unsupported, "expected at most 64 steps"},
      {[](json& f) {
         f["pre_tokenizer"] = {{"type", "Sequence"},
                               {"pretokenizers", {f["pre_tokenizer"], f["pre_tokenizer"]}}};
       },
       unsupported, "pre_tokenizer: expected one step ByteLevel, found several"},
      {[](json& f) {
         f["pre_tokenizer"] = {{"type", "Metaspace"}, {"replacement", "ab"}};
       },
       bad_format, "pre_tokenizer.replacement: expected one character, found \"ab\""},
      {[](json& f) {
         f["pre_tokenizer"] = {{"type", "Cutter"}};
       },
       unsupported, "pre_tokenizer.type: expected ByteLevel, Split, Digits, Punctuation, "},
      {[](json& f) {
         f["pre_tokenizer"] = {{"type", "FixedLength"}, {"length", 0}};
       },
       bad_format, "pre_tokenizer.length: expected a number from 1 on, found 0"},
      {[](json& f) {
         f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "A?=="}};
       },
       bad_format, "normalizer.precompiled_charsmap: expected base64, found byte 0x3f"},
      {[](json& f) {
         f["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", "////////AAAA"}};
       },
       bad_format, "expected a table of as many bytes as its head says, found 9 of 4294967295"},
      {[](json& f) {
         f["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", 1}};
       },
       bad_format, "pre_tokenizer.pretokenizers: expected an array, found 1"},
      {[](json& f) { f["pre_tokenizer"].erase("add_prefix_space"); }, bad_format,
       "pre_tokenizer.add_prefix_space: expected true or false, found null"},
      {[](json& f) { f["pre_tokenizer"] = split("a("); }, unsupported,
       "pre_tokenizer.pretokenizers[0].pattern: expected a pattern, found one with an error"},
      {[](json& f) { f["pre_tokenizer"] = split("[a-z&&[^b]]"); }, unsupported,
       "without operations on sets"},
      {[](json& f) { f["pre_tokenizer"] = split("(?m).*"); }, unsupported, "without (?m)"},
      {[](json& f) { f["pre_tokenizer"] = split("\\p{Klingon}"); }, unsupported,
       "without the property \"Klingon\" (general categories and scripts are known)"},
      {[](json& f) { f["pre_tokenizer"] = split("[a\\P{Xwd\n}]"); }, unsupported,
       "without the property \"Xwd\\n\""},
      {[](json& f) { f["pre_tokenizer"] = split("\\p{L"); }, unsupported, "\\p{ without its end"},
      {[](json& f) { f["pre_tokenizer"] = split("\\p"); }, unsupported, "the property \"\""},
      {[](json& f) { f["pre_tokenizer"] = split("[[:graph:]]"); }, unsupported,
       "the class \"graph\""},
      {[](json& f) { f["pre_tokenizer"] = split("[[:"); }, unsupported, "the class \"\""},
      {[](json& f) { f["pre_tokenizer"] = split("\\X"); }, unsupported, "without \\X"},
      {[](json& f) {
         std::string all;
         // Written out whatever the library's version of Unicode.
         for (int i = 0; i < 1000; ++i) all += "[\\P{L}]";
         f["pre_tokenizer"] = split(all);
       },
       unsupported, "without so many classes of characters"},
      {[](json& f) { f["pre_tokenizer"] = split("\\C"); }, unsupported, "one with an error"},
      {[](json& f) { f["pre_tokenizer"] = split("a\\"); }, unsupported, "one with an error"},
      {[](json& f) { f["pre_tokenizer"] = split(std::string(100000, '(')); }, unsupported,
       "at most 8192 bytes"},
      {[](json& f) { f["pre_tokenizer"] = split("(((a{900}){900}){900}){900}"); }, unsupported,
       "one with an error"},
      {[](json& f) {
         f["decoder"] = {{"type", "Reader"}};
       },
       unsupported, "decoder.type: expected ByteLevel, ByteFallback, Metaspace, "},
      {[](json& f) {
         f["decoder"] = {{"type", "Strip"}, {"content", " "}, {"start", -1}, {"stop", 0}};
       },
       bad_format, "decoder.start: expected a number up to 1000000, found -1"},
      {[](json& f) {
         f["decoder"] = {{"type", "BPEDecoder"}, {"suffix", ""}};
       },
       unsupported, "decoder.suffix: expected a string, found an empty one"},
      {[](json& f) {
         json step = {{"type", "Replace"}, {"pattern", {{"String", "a"}}}, {"content", "aaaaaaaa"}};
         f["decoder"] = {{"type", "Sequence"}, {"decoders", std::vector<json>(60, step)}};
       },
       unsupported, "decoder: expected steps that make at most 72 bytes of a text, found more"},
      {[](json& f) { f["added_tokens"] = 1; }, bad_format,
       "added_tokens: expected an array, found 1"},
      {[](json& f) { f["added_tokens"] = json::array({1}); }, bad_format,
       "added_tokens[0].content: expected a string, found null"},
      {[](json& f) { f["added_tokens"] = added("", 259); }, unsupported,
       "added_tokens[0].content: expected 1 to 1024 bytes, found 0"},
      {[](json& f) { f["added_tokens"] = added(std::string(5000, 'x'), 259); }, unsupported,
       "expected 1 to 1024 bytes, found 5000"},
      {[](json& f) { f["added_tokens"] = added("<x>", -5); }, bad_format,
       "added_tokens[0].id: expected an id below 16777216, found -5"},
      {[](json& f) { f["added_tokens"] = added("<x>", 1 << 23); }, bad_format,
       "added_tokens: expected ids below"},
      {[](json& f) { f["added_tokens"] = added("<x>", 'A'); }, bad_format,
       "added_tokens[0].id: expected an id no other token has, found 65, of \"A\""},
      {[](json& f) {
         f["added_tokens"] = added("<x>", 259);
         f["added_tokens"].push_back(f["added_tokens"][0]);
       },
       bad_format, "added_tokens[1].id: expected an id no other token has"},
      {[](json& f) {
         f["added_tokens"] = added("<x>", 259);
         f["added_tokens"][0]["lstrip"] = 1;
       },
       bad_format, "added_tokens[0].lstrip: expected true or false, found 1"},
  };
}

json after(const json& steps) { return {{"type", "Sequence"}, {"processors", steps}}; }

json begins_with(json ids) {
  json step = json::parse(R"({"type": "TemplateProcessing",
    "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A"}}],
    "special_tokens": {"<s>": {"id": "<s>", "tokens": ["<s>"]}}})");
  step["special_tokens"]["<s>"]["ids"] = std::move(ids);
  return step;
}

json replacing(const std::string& from, const std::string& to, std::size_t times) {
  const json step = {{"type", "Replace"}, {"pattern", {{"String", from}}}, {"content", to}};
  return {{"type", "Sequence"}, {"normalizers", std::vector<json>(times, step)}};
}

constexpr const char* no_room =
    "normalizer: expected steps that make at most 16384 bytes of a text";

json normalized(const std::string& content) {
  json token = added(content, 259);
  token[0]["normalized"] = true;
  return token;
}

std::vector<Case> post_processor_cases() {
  const auto with = [](json value) { return [value](json& f) { f["post_processor"] = value; }; };
  return {
      {with(1), bad_format, "post_processor.type: expected a string, found null"},
      {with({{"type", 7}}), bad_format, "post_processor.type: expected a string, found 7"},
      {with({{"type", "Other\n"}}), unsupported,
       "post_processor.type: expected TemplateProcessing, ByteLevel, BertProcessing, "},
      {with({{"type", "Sequence"}}), bad_format, "post_processor.processors: expected an array"},
      {with(after({1})), bad_format, "post_processor.processors[0].type: expected a string"},
      {with(after(std::vector<json>(1000, {{"type", "ByteLevel"}}))), unsupported,
       "expected at most 64 steps"},
      {with({{"type", "TemplateProcessing"}}), bad_format,
       "post_processor.single: expected an array, found null"},
      {with({{"type", "TemplateProcessing"}, {"single", "$A"}}), bad_format,
       "post_processor.single: expected an array, found \"$A\""},
      {with({{"type", "TemplateProcessing"}, {"single", json::array()}}), unsupported,
       "post_processor.single: expected the text A once, found no text"},
      {with({{"type", "TemplateProcessing"},
             {"single", {{{"Sequence", {{"id", "A"}}}}, {{"Sequence", {{"id", "A"}}}}}}}),
       unsupported, "post_processor.single: expected the text A once, found it twice"},
      {with({{"type", "TemplateProcessing"}, {"single", {{{"Sequence", {{"id", "B"}}}}}}}),
       unsupported, "post_processor.single: expected the text A once, found \"B\""},
      {with({{"type", "TemplateProcessing"}, {"single", {{{"Sequence", 5}}}}}), bad_format,
       "post_processor.single[0].Sequence.id: expected a string"},
      {with({{"type", "TemplateProcessing"}, {"single", json::array({5})}}), bad_format,
       "post_processor.single[0].SpecialToken.id: expected a string"},
      {with({{"type", "TemplateProcessing"}, {"single", {{{"SpecialToken", {{"id", "<s>"}}}}}}}),
       bad_format, "post_processor.special_tokens[\"<s>\"].ids: expected an array, found null"},
      {with(begins_with(3)), bad_format, "special_tokens[\"<s>\"].ids: expected an array, found 3"},
      {with(begins_with({259})), bad_format, "ids[0]: expected an id below 259, found 259"},
      {with(begins_with({-1})), bad_format, "ids[0]: expected an id below 259, found -1"},
      {with(begins_with({1, 1.5})), bad_format, "ids[1]: expected an id below 259, found 1.5"},
      {with(begins_with({18446744073709551615ULL})), bad_format, "found 18446744073709551615"},
      {with(begins_with(std::vector<int>(300, 1))), unsupported,
       "post_processor: expected at most 256 ids around a text"},
      {with(after(std::vector<json>(60, begins_with(std::vector<int>(200, 1))))), unsupported,
       "post_processor.processors[1]: expected one step that adds ids, found another"},
      {with({{"type", "BertProcessing"}, {"sep", {"</s>", 2}}}), bad_format,
       "post_processor.cls: expected a token and its id, found null"},
      {with({{"type", "RobertaProcessing"}, {"cls", {"<s>", 2}}, {"sep", {"</s>"}}}), bad_format,
       "post_processor.sep: expected a token and its id, found an array"},
      {with({{"type", "RobertaProcessing"}, {"cls", {"<s>", "2"}}}), bad_format,
       "post_processor.cls[1]: expected an id below 259, found \"2\""},
  };
}

// Files of a few hundred bytes that ask for more than any memory.
std::vector<Case> growth_cases() {
  return {
      {[](json& f) {
         f["normalizer"] = replacing("a", std::string(16, 'a'), 12);
         f["added_tokens"] = normalized("a");
       },
       unsupported, no_room},
      {[](json& f) {
         f["normalizer"] = {
             {"type", "Sequence"},
             {"normalizers",
              std::vector<json>(64, {{"type", "Prepend"}, {"prepend", std::string(1000, 'x')}})}};
         f["added_tokens"] = normalized("a");
       },
       unsupported, no_room},
      {[](json& f) {
         f["normalizer"] = {{"type", "Replace"},
                            {"pattern", {{"Regex", "|."}}},
                            {"content", std::string(20000, 'b')}};
         f["added_tokens"] = normalized("a");
       },
       unsupported, no_room},
  };
}

void expect_error(const std::string& file, ErrorCode code, const std::string& part) {
  const auto result = read_tokenizer_json(file);
  ASSERT_FALSE(result) << part;
  const std::string& message = result.error().message;
  EXPECT_EQ(to_string(result.error().code), to_string(code)) << message;
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks " << part;
  EXPECT_TRUE(message.starts_with("[tokenizer] ")) << message;
  EXPECT_EQ(message.find_first_of("\n\r\x1B"), std::string::npos) << message;
  EXPECT_LT(message.size(), 400U) << message;
}

TEST(HostileTokenizer, WrongModelsAreErrors) {
  for (const Case& one : model_cases()) {
    json file = test::small_tokenizer();
    one.spoil(file);
    expect_error(file.dump(), one.code, one.message);
  }
}

TEST(HostileTokenizer, WrongStepsAreErrors) {
  for (const Case& one : other_cases()) {
    json file = test::small_tokenizer();
    one.spoil(file);
    expect_error(file.dump(), one.code, one.message);
  }
}

TEST(HostileTokenizer, WrongPostProcessorsAreErrors) {
  for (const Case& one : post_processor_cases()) {
    json file = test::small_tokenizer();
    one.spoil(file);
    expect_error(file.dump(), one.code, one.message);
  }
}

TEST(HostileTokenizer, StepsThatMultiplyEachOtherAreErrors) {
  for (const Case& one : growth_cases()) {
    json file = test::small_tokenizer();
    one.spoil(file);
    expect_error(file.dump(), one.code, one.message);
    // Without the token the file loads, and a text meets the same bound.
    file["added_tokens"] = json::array();
    const auto tokens = read_tokenizer_json(file.dump()).value()->encode("a");
    ASSERT_FALSE(tokens);
    EXPECT_EQ(tokens.error().code, unsupported);
    EXPECT_NE(tokens.error().message.find("at most 4160 bytes"), std::string::npos)
        << tokens.error().message;
  }
}

TEST(HostileTokenizer, ManyShortPartsHaveTheRoomOfOneText) {
  json file = test::small_tokenizer();
  file["normalizer"] = {{"type", "Prepend"}, {"prepend", std::string(4000, 'x')}};
  file["added_tokens"] = added("<s>", 259);
  file["added_tokens"][0]["normalized"] = false;  // each part between tokens is normalized alone
  const auto tokenizer = read_tokenizer_json(file.dump()).value();
  EXPECT_TRUE(tokenizer->encode("a<s>"));
  std::string text;
  for (int i = 0; i < 100; ++i) text += "a<s>";
  EXPECT_FALSE(tokenizer->encode(text));
}

TEST(HostileTokenizer, WhatIsNotJsonIsAnError) {
  expect_error("", bad_format, "[tokenizer] file: expected");
  expect_error("{", bad_format, "[tokenizer] file: expected JSON");
  expect_error("{\"model\": 1, \"model\": 2}", bad_format, "\"model\" twice");
  expect_error(std::string(100000, '['), bad_format, "levels");
  expect_error("\xFF\xFE{}", bad_format, "expected JSON");
  expect_error("{\"model\": \"\xC3\"}", bad_format, "expected JSON");
  expect_error(test::small_tokenizer().dump() + "x", bad_format, "expected JSON");
}

TEST(HostileTokenizer, EveryTruncationIsAnError) {
  const std::string file = test::small_tokenizer().dump();
  for (std::size_t size = 0; size < file.size(); size += 7) {
    EXPECT_FALSE(read_tokenizer_json(std::string_view(file).substr(0, size))) << size;
  }
}

}  // namespace
}  // namespace krait::hostile_tokenizer_test
