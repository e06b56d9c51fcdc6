// Vocabularies as GGUF files have them give the ids of the files they were made from.
#include "krait/text/token_table.hpp"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "tests/support/support.hpp"

namespace krait::token_table_test {
namespace {

using nlohmann::json;
using Tokens = std::vector<Token>;

json golden(const std::string& name) {
  return json::parse(test::read_file(test::data_dir() / "golden/tokenizers" / name));
}

const json& cases() {
  static const json file = golden("cases.json");
  return file;
}

const json& variant(std::string_view name) {
  for (const json& one : cases()["variants"]) {
    if (one["name"] == name) return one;
  }
  throw std::invalid_argument("no such variant");
}

TokenTable scored_table(const char* name, const char* model) {
  const json& file = cases()["tables"][name];
  TokenTable table;
  table.model = model;
  table.tokens = file["tokens"].get<std::vector<std::string>>();
  table.scores = file["scores"].get<std::vector<float>>();
  table.types = file["types"].get<std::vector<std::int32_t>>();
  for (const int byte : file["charsmap"]) {
    table.precompiled_charsmap += static_cast<char>(static_cast<unsigned char>(byte));
  }
  return table;
}

TokenTable byte_pair_table() {
  const json file = golden("bytes.json");
  TokenTable table;
  table.model = "gpt2";
  table.pre = "gpt-2";
  table.tokens.resize(file["model"]["vocab"].size());
  for (const auto& [text, id] : file["model"]["vocab"].items()) {
    table.tokens[id.get<std::size_t>()] = text;
  }
  for (const json& merge : file["model"]["merges"]) {
    table.merges.push_back(merge[0].get<std::string>() + " " + merge[1].get<std::string>());
  }
  table.types.assign(table.tokens.size(), 1);
  for (const json& token : file["added_tokens"]) table.types[token["id"].get<std::size_t>()] = 3;
  return table;
}

TokenTable word_table() {
  const json file = golden("pieces.json");
  TokenTable table;
  table.model = "bert";
  table.tokens.resize(file["model"]["vocab"].size());
  table.types.assign(table.tokens.size(), 1);
  for (const auto& [text, id] : file["model"]["vocab"].items()) {
    std::string& token = table.tokens[id.get<std::size_t>()];
    if (text.starts_with("[") && text.size() > 2) {
      token = text;
      table.types[id.get<std::size_t>()] = 3;
    } else {
      token = text.starts_with("##") ? text.substr(2) : "\xE2\x96\x81" + text;
    }
  }
  table.bos = 2;
  table.separator = 3;
  table.unknown = 1;
  return table;
}

Tokens encoded(const Tokenizer& tokenizer, const std::string& text, bool parse_special) {
  return tokenizer.encode(text, {.parse_special = parse_special}).value();
}

TEST(TokenTable, ScoredVocabulariesGiveTheIdsOfSentencePiece) {
  for (const auto& [name, model] : {std::pair("bpe", "llama"), std::pair("unigram", "t5")}) {
    TokenTable table = scored_table(name, model);
    if (table.model == "t5") {
      table.add_space_prefix = true;
      table.remove_extra_whitespaces = true;
      table.unknown = 0;
      table.eos = 2;
    }
    const auto tokenizer = read_token_table(table).value();
    const json& texts = cases()["texts"];
    for (std::size_t i = 0; i < texts.size(); ++i) {
      const auto text = texts[i].get<std::string>();
      bool is_cut = false;  // then spaces are put before what follows
      for (const json& symbol : cases()["tables"][name]["user_defined"]) {
        is_cut = is_cut || text.find(symbol.get<std::string>()) != text.npos;
      }
      if (is_cut) continue;
      EXPECT_EQ(encoded(*tokenizer, text, false),
                cases()["sentencepiece"][name]["ids"][i].get<Tokens>())
          << name << ": " << text;
    }
  }
}

TEST(TokenTable, BytePairsGiveTheIdsOfTheirFile) {
  const auto tokenizer = read_token_table(byte_pair_table()).value();
  const json& expected = variant("bytes")["ids"];
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto text = cases()["texts"][i].get<std::string>();
    EXPECT_EQ(encoded(*tokenizer, text, true), expected[i].get<Tokens>()) << text;
    EXPECT_EQ(tokenizer->decode(expected[i].get<Tokens>()), text);
  }
}

TEST(TokenTable, WordsGiveTheIdsOfTheirFile) {
  const auto tokenizer = read_token_table(word_table()).value();
  const json& expected = variant("pieces")["ids"];
  for (std::size_t i = 0; i < expected.size(); ++i) {
    const auto text = cases()["texts"][i].get<std::string>();
    // There words have no longest length, and begin with a mark.
    if (text.size() > 100 || text.find("\xE2\x96\x81") != text.npos) continue;
    EXPECT_EQ(encoded(*tokenizer, text, true), expected[i].get<Tokens>()) << text;
  }
  EXPECT_EQ(tokenizer->encode("", {.add_special = true}).value(), (Tokens{2, 3}));
}

TEST(TokenTable, AddsTheMarksThatTheFileNames) {
  const EncodeOptions special{.add_special = true};
  TokenTable table = byte_pair_table();
  EXPECT_TRUE(read_token_table(table).value()->encode("", special).value().empty());
  table.add_bos = true;
  table.bos = 1;
  table.add_eos = true;
  table.eos = 2;
  EXPECT_EQ(read_token_table(table).value()->encode("", special).value(), (Tokens{1, 2}));
  TokenTable llama = scored_table("bpe", "llama");
  EXPECT_EQ(read_token_table(llama).value()->encode("", special).value(), (Tokens{1}));
  llama.add_bos = false;
  EXPECT_TRUE(read_token_table(llama).value()->encode("", special).value().empty());
}

TEST(TokenTable, SpacesGoBeforeTextsAndBehindControlTokens) {
  TokenTable table = scored_table("bpe", "llama");
  const auto with = read_token_table(table).value();
  table.add_space_prefix = false;
  const auto without = read_token_table(table).value();
  EXPECT_EQ(encoded(*with, "e</s>e", true), encoded(*without, " e</s> e", true));
  EXPECT_NE(encoded(*with, "e</s>e", true), encoded(*without, "e</s>e", true));
  const Tokens tokens = encoded(*with, "e", true);
  EXPECT_EQ(with->decode(tokens), "e");
  EXPECT_EQ(with->bytes(tokens.front()), " e");
}

TEST(TokenTable, KnowsTheNamesOfPreTokenizers) {
  TokenTable table = byte_pair_table();
  const auto count = [&](const char* pre, const char* text) {
    table.pre = pre;
    return read_token_table(table).value()->encode(text).value().size();
  };
  EXPECT_EQ(count("smollm", "1234567"), 7U);
  EXPECT_LT(count("llama-bpe", "1234567"), 7U);
  for (const char* name : {"", "default", "falcon", "qwen2", "tekken", "gpt-4o", "deepseek-v3",
                           "bloom", "viking", "superbpe", "olmo", "qwen35", "dbrx", "pixtral"}) {
    table.pre = name;
    const auto tokenizer = read_token_table(table);
    ASSERT_TRUE(tokenizer) << name << ": " << tokenizer.error().message;
    const std::string text =
        "I'll go, it's 12345 o'clock!\r\n\n  x\xC3\xA9 \xE4\xB8\x80\xE3\x81\x82";
    EXPECT_EQ((*tokenizer)->decode((*tokenizer)->encode(text).value()), text) << name;
  }
}

// Whether a piece that is a token stays whole where no merges make it.
TEST(TokenTable, IgnoresMergesWhereLlamaCppDoes) {
  TokenTable table = byte_pair_table();
  table.tokens.emplace_back("qzqzq");
  table.types.push_back(1);
  for (const auto& [pre, ignores] :
       {std::pair("llama-bpe", true), std::pair("tekken", true), std::pair("glm4", false),
        std::pair("chatglm-bpe", false), std::pair("gpt-2", false)}) {
    table.pre = pre;
    const auto tokenizer = read_token_table(table);
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    EXPECT_EQ((*tokenizer)->encode("qzqzq").value().size() == 1, ignores) << pre;
  }
}

void expect_error(const TokenTable& table, ErrorCode code, const std::string& part) {
  const auto result = read_token_table(table);
  ASSERT_FALSE(result) << part;
  const std::string& message = result.error().message;
  EXPECT_EQ(result.error().code, code) << message;
  EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks " << part;
  EXPECT_TRUE(message.starts_with("[tokenizer] ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
}

TEST(TokenTable, WrongTablesAreErrors) {
  constexpr ErrorCode bad_format = ErrorCode::bad_format;
  const auto with = [](TokenTable table, const auto& spoil) {
    spoil(table);
    return table;
  };
  using Table = TokenTable;
  expect_error({}, bad_format, "tokenizer.ggml.tokens: expected 1 to 16777216 tokens, found 0");
  expect_error(with(byte_pair_table(), [](Table& t) { t.model = "rwkv"; }), ErrorCode::unsupported,
               "tokenizer.ggml.model: expected gpt2, llama, t5 or bert, found \"rwkv\"");
  expect_error(with(byte_pair_table(), [](Table& t) { t.pre = "kimi"; }), ErrorCode::unsupported,
               "tokenizer.ggml.pre: expected default, gpt-2, mpt, ");
  expect_error(with(byte_pair_table(), [](Table& t) { t.pre = "gpt-2 mpt"; }),
               ErrorCode::unsupported, "found \"gpt-2 mpt\"");
  expect_error(with(byte_pair_table(), [](Table& t) { t.types.pop_back(); }), bad_format,
               "tokenizer.ggml.token_type: expected ");
  expect_error(with(byte_pair_table(), [](Table& t) { t.types[7] = 9; }), bad_format,
               "tokenizer.ggml.token_type[7]: expected 1 to 6, found 9");
  expect_error(with(byte_pair_table(), [](Table& t) { t.tokens[300] = t.tokens[301]; }), bad_format,
               "tokenizer.ggml.tokens[301]: expected every text once, found ");
  expect_error(with(byte_pair_table(), [](Table& t) { t.tokens[300] = "\xC3("; }), bad_format,
               "tokenizer.ggml.tokens[300]: expected UTF-8");
  expect_error(with(byte_pair_table(), [](Table& t) { t.merges[3] = "ab"; }), bad_format,
               "tokenizer.ggml.merges[3]: expected two tokens, found \"ab\"");
  expect_error(with(byte_pair_table(), [](Table& t) { t.merges[3] = "zq zq"; }), bad_format,
               "tokenizer.ggml.merges[3]: expected tokens of tokenizer.ggml.tokens, found \"zq\"");
  expect_error(with(byte_pair_table(),
                    [](Table& t) {
                      t.add_bos = true;
                      t.bos = 100000;
                    }),
               bad_format, "tokenizer.ggml.bos_token_id: expected an id below ");
  expect_error(with(scored_table("bpe", "llama"), [](Table& t) { t.scores[9] = NAN; }), bad_format,
               "tokenizer.ggml.tokens[9]: expected a finite score, found nan");
  expect_error(with(scored_table("bpe", "llama"), [](Table& t) { t.scores.resize(3); }), bad_format,
               "tokenizer.ggml.scores: expected ");
  expect_error(
      with(scored_table("unigram", "t5"), [](Table& t) { t.precompiled_charsmap = "\xFF\xFF"; }),
      bad_format, "precompiled_charsmap: expected a table of as many bytes");
}

TEST(TokenTable, TokensWithoutATextAreAllowed) {
  TokenTable table = byte_pair_table();
  table.tokens.insert(table.tokens.end(), 3, "");
  table.types.insert(table.types.end(), 3, 5);
  EXPECT_EQ(read_token_table(table).value()->vocab(), static_cast<Index>(table.tokens.size()));
}

}  // namespace
}  // namespace krait::token_table_test
