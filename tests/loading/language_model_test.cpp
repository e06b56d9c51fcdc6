// Where a checkpoint's files say that texts begin and end.
#include "krait/loading/language_model.hpp"

#include <gtest/gtest.h>

#include <filesystem>

#include "tests/support/support.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::language_model_test {
namespace {

using nlohmann::json;
using Tokens = std::vector<Token>;

// A tiny model whose tokenizer has the bytes, three words and "<s>", "</s>", "<end>" as 259 to 261,
// and "<pad>" far behind the rows of the model.
class Folder {
 public:
  Folder() {
    const auto source = test::data_dir() / "golden/hf_f32";
    for (const char* name : {"config.json", "model.safetensors"}) {
      std::filesystem::copy_file(source / name, folder_.path() / name);
    }
    config = json::parse(test::read_file(source / "config.json"));
    config.erase("bos_token_id");
    config.erase("eos_token_id");
    tokenizer = test::small_tokenizer();
    const char* const marks[] = {"<s>", "</s>", "<end>"};
    for (int i = 0; i < 3; ++i) add(marks[i], 259 + i);
    add("<pad>", 900);
  }

  void add(const char* content, int id) {
    tokenizer["added_tokens"].push_back(
        {{"content", content}, {"id", id}, {"special", true}, {"normalized", false}});
  }

  void write(const char* name, const json& file) const {
    test::write_file(folder_.path() / name, file.dump());
  }

  Result<LanguageModel> load() const {
    write("config.json", config);
    write("tokenizer.json", tokenizer);
    return load_language_model(folder_.path().string());
  }

  // Those of the files, also without rows in the model.
  Tokens ends() const {
    const auto loaded = load().value();
    const Checkpoint checkpoint = open_checkpoint(folder_.path().string()).value();
    return read_text_marks(checkpoint, *loaded.tokenizer).value().ends;
  }

  json config, tokenizer;

 private:
  test::TemporaryDirectory folder_;
};

TEST(LanguageModel, EndsATextWhereAnyOfItsFilesSays) {
  Folder folder;
  EXPECT_EQ(folder.ends(), Tokens{});
  folder.config["eos_token_id"] = 7;
  EXPECT_EQ(folder.ends(), Tokens{7});
  folder.write("generation_config.json", {{"eos_token_id", {7, 9}}});
  EXPECT_EQ(folder.ends(), (Tokens{7, 9}));
  folder.write("tokenizer_config.json", {{"eos_token", "<end>"}});
  EXPECT_EQ(folder.ends(), (Tokens{7, 9, 261}));
  folder.write("special_tokens_map.json", {{"eos_token", {{"content", "</s>"}}}});
  EXPECT_EQ(folder.ends(), (Tokens{7, 9, 261, 260}));
}

TEST(LanguageModel, EndsATextOfAnOriginalCheckpointAtTheMarkOfItsTokenizer) {
  Folder folder;
  folder.add("<|endoftext|>", 262);
  EXPECT_EQ(folder.ends(), Tokens{262});
}

// Added tokens may have ids beyond the model's rows.
TEST(LanguageModel, AnEndWithoutARowEndsNothing) {
  Folder folder;
  folder.add("<far>", 4200);
  folder.write("tokenizer_config.json", {{"eos_token", "<far>"}});
  folder.write("generation_config.json", {{"eos_token_id", {9, 4000}}});
  const auto loaded = folder.load();
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->stop_tokens, Tokens{9});
}

TEST(LanguageModel, WrongMarksAreErrors) {
  const struct {
    const char* file;
    json content;
    const char* message;
  } cases[] = {
      {"generation_config.json", 5, "[config] expected an object, found 5"},
      {"generation_config.json", {{"eos_token_id", "x"}}, "eos_token_id: expected a token id or a"},
      {"generation_config.json", {{"bos_token_id", {1, 1.5}}}, "bos_token_id: expected a token id"},
      {"tokenizer_config.json", {{"eos_token", 5}}, "eos_token: expected a token's text, found 5"},
      {"special_tokens_map.json", {{"bos_token", {{"content", 1}}}}, "bos_token: expected a token"},
  };
  for (const auto& one : cases) {
    Folder folder;
    folder.write(one.file, one.content);
    const auto loaded = folder.load();
    ASSERT_FALSE(loaded) << one.message;
    EXPECT_EQ(loaded.error().code, ErrorCode::bad_config);
    EXPECT_NE(loaded.error().message.find(one.message), std::string::npos)
        << loaded.error().message;
    EXPECT_NE(loaded.error().message.find(one.file), std::string::npos) << loaded.error().message;
  }
  Folder folder;  // none, and what no vocabulary has
  folder.write("generation_config.json", {{"bos_token_id", nullptr}, {"eos_token_id", -1}});
  folder.write("tokenizer_config.json", {{"eos_token", nullptr}, {"bos_token", "<unknown>"}});
  EXPECT_EQ(folder.load()->stop_tokens, Tokens{});
  EXPECT_EQ(folder.load()->bos, std::nullopt);
}

TEST(LanguageModel, BeginsAnEmptyPromptWithWhatItsFilesSay) {
  Folder folder;
  EXPECT_EQ(folder.load()->encode_prompt("").value(), Tokens{'\n'});
  folder.write("special_tokens_map.json", {{"bos_token", "\x03"}});
  EXPECT_EQ(folder.load()->encode_prompt("").value(), Tokens{3});
  folder.config["bos_token_id"] = 0;
  EXPECT_EQ(folder.load()->bos, 0);
  EXPECT_EQ(folder.load()->encode_prompt("").value(), Tokens{0});
  EXPECT_EQ(folder.load()->encode_prompt("\x05").value(), Tokens{5});
  folder.write("generation_config.json", {{"bos_token_id", 2}});
  EXPECT_EQ(folder.load()->bos, 2);
  folder.tokenizer["post_processor"] = {
      {"type", "RobertaProcessing"}, {"cls", {"a", 1}}, {"sep", {"b", 4}}};
  EXPECT_EQ(folder.load()->encode_prompt("").value(), (Tokens{1, 4}));
  EXPECT_EQ(folder.load()->encode_prompt("\x05").value(), (Tokens{1, 5, 4}));
}

// In steps that grow with their length: quadratic ones would not end within the test's time.
TEST(LanguageModel, ReadsLongLists) {
  constexpr int count = 200'000;
  json ends = json::array();
  json templates = json::array();
  for (int i = 0; i < count; ++i) {
    ends.push_back(i);
    templates.push_back({{"name", std::to_string(i)}, {"template", ""}});
  }
  Folder folder;
  folder.write("generation_config.json", {{"eos_token_id", ends}});
  folder.write("tokenizer_config.json", {{"chat_template", templates}});
  const auto loaded = folder.load().value();
  EXPECT_EQ(std::ssize(loaded.stop_tokens), loaded.model.vocab());
  EXPECT_EQ(loaded.chat_templates.sources.size(), static_cast<std::size_t>(count));
}

// As AutoTokenizer of transformers 5.24 has it with all these classes: beside a tokenizer.json it
// drops the two switches. (Version 4 followed them in the classes of Llama and GPT-NeoX, and wrote
// a post-processor that says the same when it saved them.)
TEST(LanguageModel, WhatStandsAroundATextIsThePostProcessorsToSay) {
  const json with_beginning = {
      {"type", "TemplateProcessing"},
      {"single", {{{"SpecialToken", {{"id", "<s>"}}}}, {{"Sequence", {{"id", "A"}}}}}},
      {"special_tokens", {{"<s>", {{"id", "<s>"}, {"ids", {3}}}}}}};
  for (const char* name : {"PreTrainedTokenizerFast", "LlamaTokenizerFast", "GPT2Tokenizer"}) {
    for (const bool bos : {false, true}) {
      for (const bool eos : {false, true}) {
        Folder folder;
        folder.write("tokenizer_config.json", {{"tokenizer_class", name},
                                               {"bos_token", "\x01"},
                                               {"eos_token", "\x02"},
                                               {"add_bos_token", bos},
                                               {"add_eos_token", eos}});
        EXPECT_EQ(folder.load()->encode_prompt("\x05").value(), Tokens{5}) << name;
        folder.tokenizer["post_processor"] = with_beginning;
        EXPECT_EQ(folder.load()->encode_prompt("\x05").value(), (Tokens{3, 5})) << name;
        EXPECT_EQ(folder.load()->bos, 1) << name;  // of texts without anything
      }
    }
  }
}

TEST(LanguageModel, RefusesAnIdItHasNoRowForWhenItIsFed) {
  const auto loaded = Folder().load().value();
  ASSERT_LT(loaded.model.vocab_padded(), loaded.tokenizer->vocab());
  EXPECT_TRUE(loaded.encode_prompt("\x05"));
  const auto tokens = loaded.encode_prompt("\x05<pad>");
  ASSERT_FALSE(tokens);
  EXPECT_EQ(tokens.error(),
            (Error{ErrorCode::bad_argument, "[tokenizer] prompt: expected ids below " +
                                                std::to_string(loaded.model.vocab_padded()) +
                                                ", the rows of the model, found 900, \"<pad>\""}));
}

}  // namespace
}  // namespace krait::language_model_test
