// The files of tokenizers and chat templates, as conversions write them.

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "io/gguf.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/loading/registry.hpp"
#include "krait/tools/convert.hpp"
#include "krait/tools/quantize.hpp"
#include "krait/training/train.hpp"
#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::convert_tokenizer_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using namespace std::string_literals;

class ConvertTokenizer : public testing::Test {
 protected:
  std::string out(const std::string& name) const { return (folder_.path() / name).string(); }

  static std::string golden(const std::string& name) {
    return (test::data_dir() / "golden" / name).string();
  }

  static std::string error_of(const std::string& source, const std::string& destination,
                              const ConvertOptions& options = {}) {
    const auto result = convert_checkpoint(source, destination, options);
    return result ? "none" : result.error().message;
  }

  test::TemporaryDirectory folder_;
};

// The tensors of the file, with other keys.
void write_with_keys(const GgufFile& file, Metadata::Object metadata, const std::string& to) {
  std::vector<GgufOutput> outputs;
  for (const GgufTensor& tensor : file.tensors) {
    outputs.push_back({tensor.name, tensor.type, tensor.extents});
  }
  auto writer = GgufWriter::create(to, Metadata(std::move(metadata)), outputs).value();
  for (const GgufTensor& tensor : file.tensors) {
    writer
        .write({static_cast<const std::byte*>(tensor.data), static_cast<std::size_t>(tensor.bytes)})
        .value();
  }
  writer.commit().value();
}

// The file with a vocabulary of three tokens.
void write_with_vocabulary(const std::string& path, const std::string& model,
                           const std::string& to) {
  const GgufFile file = read_gguf(open_file(path, WeightsMode::map).value()).value();
  Metadata::Object metadata = *file.metadata.object();
  std::erase_if(metadata, [](const auto& member) { return member.key.starts_with("tokenizer."); });
  const auto set = [&](const char* key, Metadata value) {
    metadata.push_back({std::string("tokenizer.ggml.") + key, std::move(value)});
  };
  set("model", model);
  set("pre", std::string("gpt-2"));
  set("tokens", Metadata::Array{std::string("a"), std::string("b"), std::string("ab")});
  set("token_type", Metadata::Array{1, 1, 1});
  set("merges", Metadata::Array{std::string("a b")});
  write_with_keys(file, std::move(metadata), to);
}

// Whoever writes a folder gives it the tokenizer, in whatever file the source has it.
TEST_F(ConvertTokenizer, EveryWriterKeepsTheTokenizer) {
  SerialExecutor executor;
  const std::string folder = out("source");
  fs::copy(golden("hf_f32"), folder);
  fs::remove(folder + "/tokenizer.json");
  fs::copy(golden("tokenizers/unigram.model"), folder + "/tokenizer.model");
  fs::create_directory(folder + "/additional_chat_templates");
  test::write_file(folder + "/additional_chat_templates/tool_use.jinja", "{{ tools }}");
  const auto expect_kept = [&](const std::string& path) {
    const Checkpoint made = open_checkpoint(path).value();
    EXPECT_EQ(made.sentencepiece, test::read_file(folder + "/tokenizer.model")) << path;
    ASSERT_EQ(made.more_chat_templates.size(), 1U) << path;
    EXPECT_EQ(made.more_chat_templates[0].text, "{{ tools }}");
  };
  ASSERT_TRUE(convert_checkpoint(folder, out("converted"), {}));
  ASSERT_TRUE(quantize_checkpoint(folder, out("quantized"), "q8", executor));
  TrainTask task = open_train_task(folder).value();
  for (Token token = 0; token < 40; ++token) task.text.push_back(token);
  ASSERT_TRUE(train(std::move(task), {.steps = 1, .batch = 1, .length = 8},
                    {.destination = out("trained")}, executor,
                    [](const TrainProgress&) { return Flow::go_on; }));
  for (const char* made : {"converted", "quantized", "trained"}) expect_kept(out(made));

  // A vocabulary of GGUF becomes a tokenizer.json, or the command refuses.
  ConvertOptions to_gguf;
  to_gguf.to_gguf = true;
  ASSERT_TRUE(convert_checkpoint(golden("hf_f32"), out("plain.gguf"), to_gguf));
  write_with_vocabulary(out("plain.gguf"), "gpt2", out("a.gguf"));
  ASSERT_TRUE(quantize_checkpoint(out("a.gguf"), out("from_gguf"), "bf16", executor));
  EXPECT_FALSE(open_checkpoint(out("from_gguf")).value().tokenizer.empty());
  write_with_vocabulary(out("plain.gguf"), "other", out("b.gguf"));
  const auto refused = quantize_checkpoint(out("b.gguf"), out("none"), "bf16", executor);
  ASSERT_FALSE(refused);
  EXPECT_NE(refused.error().message.find("tokenizer.ggml.model: expected gpt2, found other"),
            std::string::npos)
      << refused.error().message;
  EXPECT_FALSE(fs::exists(out("none")));
}

// A Mamba of one layer and so many tokens, whose tokenizer is written beside it.
void write_small_mamba(const fs::path& folder, Index vocab) {
  const std::pair<const char*, std::vector<Index>> tensors[] = {
      {"backbone.embeddings.weight", {vocab, 4}},
      {"backbone.layers.0.mixer.A_log", {8, 2}},
      {"backbone.layers.0.mixer.D", {8}},
      {"backbone.layers.0.mixer.conv1d.bias", {8}},
      {"backbone.layers.0.mixer.conv1d.weight", {8, 1, 4}},
      {"backbone.layers.0.mixer.dt_proj.bias", {8}},
      {"backbone.layers.0.mixer.dt_proj.weight", {8, 1}},
      {"backbone.layers.0.mixer.in_proj.weight", {16, 4}},
      {"backbone.layers.0.mixer.out_proj.weight", {4, 8}},
      {"backbone.layers.0.mixer.x_proj.weight", {5, 8}},
      {"backbone.layers.0.norm.weight", {4}},
      {"backbone.norm_f.weight", {4}}};
  json header;
  Index bytes = 0;
  for (const auto& [name, extents] : tensors) {
    const Index begin = bytes;
    Index size = 4;
    for (const Index extent : extents) size *= extent;
    bytes += size;
    header[name] = {{"dtype", "F32"}, {"shape", extents}, {"data_offsets", {begin, bytes}}};
  }
  const json config = {{"model_type", "mamba"},  {"hidden_size", 4},       {"state_size", 2},
                       {"num_hidden_layers", 1}, {"intermediate_size", 8}, {"time_step_rank", 1},
                       {"conv_kernel", 4},       {"vocab_size", vocab},    {"bos_token_id", 1},
                       {"eos_token_id", 2}};
  fs::create_directories(folder);
  test::write_file(folder / "config.json", config.dump());
  test::write_file(
      folder / "model.safetensors",
      test::safetensors(header.dump(), std::string(static_cast<std::size_t>(bytes), '\0')));
}

const json& tokenizer_cases() {
  static const json file =
      json::parse(test::read_file(test::data_dir() / "golden/tokenizers/cases.json"));
  return file;
}

std::shared_ptr<const Tokenizer> tokenizer_of(const std::string& path) {
  const Checkpoint checkpoint = open_checkpoint(path).value();
  return make_tokenizer(checkpoint, read_config(checkpoint).value()).value();
}

// A tokenizer.json as transformers makes it of a SentencePiece file.
json json_of_pairs(const json& table) {
  json file = {{"normalizer",
                {{"type", "Sequence"},
                 {"normalizers",
                  {{{"type", "Prepend"}, {"prepend", "\u2581"}},
                   {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "\u2581"}}}}}},
               {"pre_tokenizer", nullptr},
               {"post_processor", nullptr},
               {"decoder", nullptr},
               {"added_tokens", json::array()},
               {"model",
                {{"type", "BPE"},
                 {"unk_token", "<unk>"},
                 {"fuse_unk", true},
                 {"byte_fallback", true},
                 {"vocab", json::object()},
                 {"merges", json::array()}}}};
  json& vocab = file["model"]["vocab"];
  std::vector<std::pair<double, std::string>> order;
  for (std::size_t i = 0; i < table["tokens"].size(); ++i) {
    const auto text = table["tokens"][i].get<std::string>();
    const int type = table["types"][i].get<int>();
    vocab[text] = i;
    if (type == 1) order.emplace_back(-table["scores"][i].get<double>(), text);
    if (type != 2 && type != 3 && type != 4) continue;
    file["added_tokens"].push_back(
        {{"id", i}, {"content", text}, {"special", type != 4}, {"normalized", false}});
  }
  std::stable_sort(order.begin(), order.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [score, text] : order) {
    for (std::size_t cut = 1; cut < text.size(); ++cut) {
      const std::string left = text.substr(0, cut);
      const std::string right = text.substr(cut);
      if (!vocab.contains(left) || !vocab.contains(right)) continue;
      file["model"]["merges"].push_back({left, right});
    }
  }
  return file;
}

// SentencePiece puts no space behind a user-defined symbol, which llama.cpp cuts out first.
TEST_F(ConvertTokenizer, WritesVocabulariesWithScores) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  for (const auto& [name, model] : {std::pair("bpe", "llama"), std::pair("unigram", "t5")}) {
    SCOPED_TRACE(name);
    const std::string source = out(name);
    write_small_mamba(source, 640);
    fs::copy(golden("tokenizers/" + std::string(name) + ".model"), source + "/tokenizer.model");
    const std::string path = out(std::string(name) + ".gguf");
    const auto summary = convert_checkpoint(source, path, gguf);
    ASSERT_TRUE(summary) << summary.error().message;
    const auto expected = tokenizer_of(source);
    const auto found = tokenizer_of(path);
    EXPECT_EQ(found->vocab(), expected->vocab());
    for (const json& entry : tokenizer_cases()["texts"]) {
      const auto text = entry.get<std::string>();
      bool is_cut = false;
      for (const json& symbol : tokenizer_cases()["tables"][name]["user_defined"]) {
        is_cut = is_cut || text.find(symbol.get<std::string>()) != text.npos;
      }
      if (is_cut) continue;
      const EncodeOptions options{.add_special = true, .parse_special = false};
      const auto tokens = expected->encode(text, options).value();
      EXPECT_EQ(found->encode(text, options).value(), tokens) << text;
      EXPECT_EQ(found->decode(tokens), expected->decode(tokens)) << text;
    }
    const GgufFile file = read_gguf(open_file(path, WeightsMode::map).value()).value();
    EXPECT_TRUE(file.metadata["tokenizer.ggml.model"].is(model));
    EXPECT_EQ(file.metadata["tokenizer.ggml.tokens"].size(), 640U);
    EXPECT_EQ(file.metadata["tokenizer.ggml.scores"].size(), 640U);
    EXPECT_EQ(file.metadata["tokenizer.ggml.token_type"].size(), 640U);
    if (std::string_view(model) != "t5") continue;
    const std::string bytes = test::read_file(path);  // of the list: its type, and that of values
    const std::string key = "tokenizer.ggml.precompiled_charsmap";
    EXPECT_EQ(bytes.substr(bytes.find(key) + key.size(), 8), test::little(9, 4) + "\0\0\0\0"s);
  }
}

TEST_F(ConvertTokenizer, WritesMergesOfCharactersAsScores) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::string source = out("json");
  write_small_mamba(source, 640);
  json file = json_of_pairs(tokenizer_cases()["tables"]["bpe"]);
  test::write_file(source + "/tokenizer.json", file.dump());
  const auto summary = convert_checkpoint(source, out("json.gguf"), gguf);
  ASSERT_TRUE(summary) << summary.error().message;
  const auto expected = tokenizer_of(source);
  const auto found = tokenizer_of(out("json.gguf"));
  for (const json& entry : tokenizer_cases()["texts"]) {
    const auto text = entry.get<std::string>();
    EXPECT_EQ(found->encode(text).value(), expected->encode(text).value()) << text;
  }
  const auto refusal_of = [&](const json& changed) {
    test::write_file(source + "/tokenizer.json", changed.dump());
    return error_of(source, out("x.gguf"), gguf);
  };
  json other = file;
  other["model"]["merges"].erase(other["model"]["merges"].size() / 2);
  EXPECT_NE(refusal_of(other).find("model.merges: expected all pairs that make a token"),
            std::string::npos);
  other = file;
  other["normalizer"] = {{"type", "NFKC"}};
  EXPECT_NE(refusal_of(other).find("normalizer: expected a mark in front, and marks for spaces"),
            std::string::npos);
  write_small_mamba(source, 500);
  EXPECT_NE(refusal_of(file).find("ids: expected ids below 500, the rows of the model"),
            std::string::npos);
}

// A byte-level tokenizer.json of "a", "b", "ab", "<s>" (3), "</s>" (4) and `end` (5).
json three_tokens(const char* end) {
  json file = {{"normalizer", nullptr},
               {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
               {"post_processor", nullptr},
               {"decoder", {{"type", "ByteLevel"}}},
               {"added_tokens", json::array()},
               {"model",
                {{"type", "BPE"},
                 {"vocab", {{"a", 0}, {"b", 1}, {"ab", 2}}},
                 {"merges", json::array({"a b"})}}}};
  int id = 3;
  for (const char* text : {"<s>", "</s>", end}) {
    file["added_tokens"].push_back(
        {{"id", id++}, {"content", text}, {"special", true}, {"normalized", false}});
  }
  return file;
}

// Where any of the files says that texts begin and end, and all of the chat templates.
TEST_F(ConvertTokenizer, WritesMarksAndChatTemplatesIntoGguf) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::string source = out("source");
  write_small_mamba(source, 16);
  auto config = json::parse(test::read_file(source + "/config.json"));
  config.erase("bos_token_id");
  config.erase("eos_token_id");
  test::write_file(source + "/config.json", config.dump());
  test::write_file(source + "/tokenizer.json", three_tokens("<end>").dump());
  test::write_file(source + "/generation_config.json", R"({"eos_token_id":[5,-1,99]})");
  test::write_file(source + "/special_tokens_map.json", R"({"eos_token":{"content":"</s>"}})");
  test::write_file(source + "/tokenizer_config.json",
                   R"({"bos_token":"<s>","chat_template":[{"name":"default","template":"D"},)"
                   R"({"name":"tool-use","template":"T"}]})");
  const auto summary = convert_checkpoint(source, out("a.gguf"), gguf);
  ASSERT_TRUE(summary) << summary.error().message;
  GgufFile file = read_gguf(open_file(out("a.gguf"), WeightsMode::map).value()).value();
  EXPECT_EQ(file.metadata["tokenizer.ggml.bos_token_id"].integer(), 3);
  EXPECT_EQ(file.metadata["tokenizer.ggml.eos_token_id"].integer(), 5);
  EXPECT_EQ(file.metadata["tokenizer.ggml.eot_token_id"].integer(), 4);
  EXPECT_EQ(file.metadata["tokenizer.ggml.add_bos_token"].boolean(), false);
  EXPECT_TRUE(file.metadata["tokenizer.chat_template"].is("D"));
  EXPECT_TRUE(file.metadata["tokenizer.chat_template.tool_use"].is("T"));
  EXPECT_EQ(file.metadata["tokenizer.chat_templates"], Metadata(Metadata::Array{"tool_use"s}));
  EXPECT_EQ(read_config(open_checkpoint(out("a.gguf")).value())->stop_tokens, (std::vector{5, 4}));

  // Everything of the tokenizer goes on into the next file, also what krait has no use for.
  Metadata::Object keys = *file.metadata.object();
  keys.push_back({"tokenizer.ggml.padding_token_id", 0});
  keys.push_back({"tokenizer.ggml.fim_pre_token_id", 1});
  write_with_keys(file, keys, out("b.gguf"));
  ASSERT_TRUE(convert_checkpoint(out("b.gguf"), out("c.gguf"), gguf));
  file = read_gguf(open_file(out("c.gguf"), WeightsMode::map).value()).value();
  for (const Metadata::Member& member : keys) {
    EXPECT_EQ(file.metadata[member.key], member.value) << member.key;
  }
  EXPECT_EQ(file.metadata.size(), keys.size());

  ASSERT_TRUE(convert_checkpoint(out("c.gguf"), out("folder"), {}));
  EXPECT_EQ(test::read_file(out("folder/chat_template.jinja")), "D");
  EXPECT_EQ(test::read_file(out("folder/additional_chat_templates/tool_use.jinja")), "T");
}

// transformers stops at the ids of the configuration alone.
TEST_F(ConvertTokenizer, GivesOriginalConfigurationsTheMarksOfTheTokenizer) {
  const std::string source = out("source");
  fs::copy(golden("orig_bin"), source);
  const auto config_of = [&](const std::string& name) {
    EXPECT_TRUE(convert_checkpoint(source, out(name), {}));
    return json::parse(test::read_file(out(name) + "/config.json"));
  };
  EXPECT_FALSE(config_of("a").contains("eos_token_id"));
  test::write_file(source + "/tokenizer.json", three_tokens("<|endoftext|>").dump());
  const json made = config_of("b");
  EXPECT_EQ(made["eos_token_id"], 5);
  EXPECT_FALSE(made.contains("bos_token_id"));
  test::write_file(source + "/tokenizer_config.json", R"({"bos_token":"<s>","eos_token":"</s>"})");
  EXPECT_EQ(config_of("c")["eos_token_id"], 4);
  EXPECT_EQ(config_of("d")["bos_token_id"], 3);
}

// As transformers' tokenizers without a tokenizer.json and llama.cpp's converter have them.
TEST_F(ConvertTokenizer, SentencePieceHasTheTokensThatWereAdded) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::string source = out("source");
  write_small_mamba(source, 640);
  fs::copy(golden("tokenizers/bpe.model"), source + "/tokenizer.model");
  const auto first = static_cast<Token>(tokenizer_of(source)->vocab());
  ASSERT_LT(first + 3, 640);
  const json added = {{"<|im_start|>", first}, {"<|im_end|>", first + 1}, {"<x>", 640}};
  test::write_file(source + "/added_tokens.json", added.dump());
  test::write_file(source + "/special_tokens_map.json",
                   R"({"additional_special_tokens":["<|im_start|>"],"eos_token":"<|im_end|>"})");
  const json config = {{"added_tokens_decoder",
                        {{std::to_string(first + 2), {{"content", "<y>"}, {"special", false}}},
                         {"1", {{"content", "<s>"}, {"special", true}}}}}};
  test::write_file(source + "/tokenizer_config.json", config.dump());
  const auto summary = convert_checkpoint(source, out("a.gguf"), gguf);
  ASSERT_TRUE(summary) << summary.error().message;
  for (const std::string& path : {source, out("a.gguf")}) {
    const auto tokenizer = tokenizer_of(path);
    EXPECT_EQ(tokenizer->find("<|im_start|>"), first) << path;
    EXPECT_EQ(tokenizer->encode("<|im_start|>").value().back(), first) << path;
    EXPECT_TRUE(tokenizer->is_special(first)) << path;
    EXPECT_TRUE(tokenizer->is_special(first + 1)) << path;
    EXPECT_FALSE(tokenizer->is_special(first + 2)) << path;
    EXPECT_EQ(tokenizer->encode("a<y>").value().back(), first + 2) << path;
  }
  EXPECT_EQ(tokenizer_of(source)->find("<x>"), 640);  // which the model has no row for
  const GgufFile file = read_gguf(open_file(out("a.gguf"), WeightsMode::map).value()).value();
  EXPECT_EQ(file.metadata["tokenizer.ggml.tokens"].size(), 640U);
  EXPECT_EQ(file.metadata["tokenizer.ggml.eot_token_id"].integer(), first + 1);
  ASSERT_TRUE(convert_checkpoint(source, out("folder"), {}));
  EXPECT_EQ(test::read_file(out("folder/added_tokens.json")), added.dump());
  for (const char* bad : {R"({"<x>":"y"})", R"([1])"}) {
    test::write_file(source + "/added_tokens.json", bad);
    const std::string found = error_of(source, out("b.gguf"), gguf);
    EXPECT_NE(found.find("added_tokens.json: expected ids of texts"), std::string::npos) << found;
  }
}

TEST_F(ConvertTokenizer, RefusesVocabulariesThatLlamaCppReadsOtherwise) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::pair<const char*, const char*> table[] = {
      {"bpe_rules", "byte_fallback: expected true, as llama.cpp has it of BPE, found false"},
      {"unigram_suffix", "treat_whitespace_as_suffix: expected false, as llama.cpp has it"}};
  for (const auto& [name, expected] : table) {
    write_small_mamba(out(name), 640);
    fs::copy(golden("tokenizers/" + std::string(name) + ".model"), out(name) + "/tokenizer.model");
    const std::string found = error_of(out(name), out("x.gguf"), gguf);
    EXPECT_NE(found.find(expected), std::string::npos) << found;
  }
}

}  // namespace
}  // namespace krait::convert_tokenizer_test
