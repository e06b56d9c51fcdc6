// GGUF files as checkpoints.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>

#include "krait/loading/language_model.hpp"
#include "loading/layouts/gguf/gguf.hpp"
#include "tests/io/builders.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/relative_difference.hpp"
#include "tests/support/support.hpp"

namespace krait::gguf_checkpoint_test {
namespace {

using test::gguf;
using test::gguf_number;
using test::gguf_pair;
using test::gguf_string;
using test::gguf_tensor;
using test::gguf_text;
using test::little;
using namespace std::string_literals;

Result<Checkpoint> open_bytes(const std::string& bytes) {
  CheckpointBytes file;
  file.weights = {std::as_bytes(std::span(bytes))};
  return open_checkpoint(file);
}

std::string golden(const std::string& name) {
  return (test::data_dir() / "golden" / name).string();
}

std::vector<Token> tokens_of(const std::string& folder) {
  return nlohmann::json::parse(test::read_file(golden(folder) + "/golden.json"))["tokens"]
      .get<std::vector<Token>>();
}

// Files that the `gguf` package wrote of golden checkpoints (tests/golden/gguf_models.py) give the
// logits of transformers.
TEST(GgufCheckpoint, GivesTheLogitsOfTheCheckpointItWasMadeOf) {
  for (const auto& [file, folder] :
       {std::pair("gguf/mamba.gguf", "hf_f32"), std::pair("gguf/mamba2.gguf", "hf_mamba2_f32")}) {
    SCOPED_TRACE(file);
    const std::vector<Token> tokens = tokens_of(folder);
    const std::string bytes = test::read_file(golden(folder) + "/logits.bin");
    std::vector<float> expected(bytes.size() / sizeof(float));
    std::memcpy(expected.data(), bytes.data(), bytes.size());
    const Model model = load_model(golden(file)).value();
    const std::vector<float> logits = test::all_logits(model, tokens);
    ASSERT_EQ(logits.size(), expected.size());
    EXPECT_LE(test::relative_difference(logits, expected), 1e-4);
    const auto read = read_config(open_checkpoint(golden(file)).value()).value();
    const auto original = read_config(open_checkpoint(golden(folder)).value()).value();
    EXPECT_EQ(read.spec.layers, original.spec.layers);
    EXPECT_TRUE(read.ignored.empty());
  }
}

// Files that llama.cpp's converter wrote of golden hybrids (tests/golden/gguf_hybrids.py), with
// matrices in f16, give the logits of those checkpoints with matrices in f16; Falcon-H1's, in f32
// with its factors multiplied into matrices, those of transformers.
TEST(GgufCheckpoint, OfHybridsGivesTheLogitsOfTheCheckpointItWasMadeOf) {
  const std::filesystem::path without_positions =
      std::filesystem::path(testing::TempDir()) / "granite_without_positions";
  std::filesystem::remove_all(without_positions);
  std::filesystem::copy(golden("hf_granite_experts"), without_positions);
  std::string config = test::read_file(without_positions / "config.json");
  config.replace(config.find("\"rope\""), 6, "\"nope\"");
  test::write_file(without_positions / "config.json", config);
  const struct {
    const char* file;
    const char* folder;
    std::string source;
    const char* form;
  } table[] = {{"jamba", "hf_jamba", golden("hf_jamba"), "f16"},
               {"granite", "hf_granite_dense", golden("hf_granite_dense"), "f16"},
               {"granite_moe", "hf_granite_experts", without_positions.string(), "f16"},
               {"nemotron_h", "hf_nemotron_h", golden("hf_nemotron_h"), "f16"},
               {"nemotron_h_moe", "hf_nemotron_experts", golden("hf_nemotron_experts"), "f16"},
               {"falcon_h1", "hf_falcon_h1", golden("hf_falcon_h1"), "f32"}};
  for (const auto& [name, folder, source, form] : table) {
    SCOPED_TRACE(name);
    const std::string file = golden(std::string("gguf/") + name + ".gguf");
    const std::vector<Token> tokens = tokens_of(folder);
    const std::vector<float> logits = test::all_logits(load_model(file).value(), tokens);
    const std::vector<float> expected =
        test::all_logits(load_model(source, {.form = form}).value(), tokens);
    ASSERT_EQ(logits.size(), expected.size());
    EXPECT_GT(test::largest_size(expected), 1.0);
    EXPECT_LE(test::relative_difference(logits, expected), 5e-6);
    const CheckpointPlan plan = plan_checkpoint(file).value();
    EXPECT_TRUE(plan.plan.unused.empty());
    EXPECT_TRUE(plan.config.ignored.empty());
    const ModelPlan original = plan_checkpoint(source).value().plan;
    EXPECT_EQ(plan.plan.parameters, original.parameters);
    EXPECT_EQ(plan.plan.state_bytes, original.state_bytes);
    EXPECT_EQ(plan.plan.cache_bytes_per_token, original.cache_bytes_per_token);
  }
}

// The bytes of a golden file in which bytes behind a key and `skip` more are others.
std::string changed(const std::string& file, const std::string& key, std::size_t skip,
                    const std::string& bytes) {
  std::string all = test::read_file(golden("gguf/" + file));
  const std::size_t at = all.find(key) + key.size() + skip;
  return all.replace(at, bytes.size(), bytes);
}

// … in which a key has another name, as long as its own.
std::string renamed(const std::string& file, const std::string& key, const std::string& name) {
  std::string all = test::read_file(golden("gguf/" + file));
  return all.replace(all.find(key), key.size(), name);
}

// llama.cpp's keys: the one of today, or else an early one; 0 stands for 1.
TEST(GgufCheckpoint, ReadsWhatPositionsAreDividedBy) {
  const auto real = [](const std::string& key, float value) {
    std::string bytes(sizeof value, '\0');
    std::memcpy(bytes.data(), &value, sizeof value);
    return gguf_pair("llama.rope." + key, 6, bytes);
  };
  const auto factor_of = [](const std::vector<std::string>& more) {
    std::vector<std::string> pairs = {
        gguf_text("general.architecture", "llama"), gguf_number("llama.embedding_length", 4),
        gguf_number("llama.block_count", 1), gguf_number("llama.feed_forward_length", 4),
        gguf_number("llama.attention.head_count", 2)};
    pairs.insert(pairs.end(), more.begin(), more.end());
    const std::string file =
        gguf(pairs, {gguf_tensor("token_embd.weight", {4, 10}, 0, 0)}, std::string(160, '\0'));
    const ModelConfig config = read_config(open_bytes(file).value()).value();
    const ResidualSpec& residual = config.spec.layers.front().residuals.front();
    return std::get<AttentionSpec>(residual.block).rotary->factor;
  };
  EXPECT_EQ(factor_of({}), 1.0);
  EXPECT_EQ(factor_of({real("scale_linear", 4)}), 4.0);
  EXPECT_EQ(factor_of({real("scale_linear", 4), real("scaling.factor", 2)}), 2.0);
  EXPECT_EQ(factor_of({real("scale_linear", 4), real("scaling.factor", 0)}), 1.0);
  EXPECT_EQ(factor_of({real("scale_linear", 4), gguf_text("llama.rope.scaling.type", "none")}),
            1.0);
}

TEST(GgufCheckpoint, OfHybridsRefusesWhatItCannotUse) {
  constexpr std::size_t type = 4;                    // of a value
  constexpr std::size_t array = type + 4 + 8;        // of a list: the types and the count
  const std::string kv = "attention.head_count_kv";  // [0, 1, 0, 0] in jamba.gguf
  const std::pair<std::string, std::string> cases[] = {
      {changed("granite.gguf", "granitehybrid.rope.scaling.finetuned", type, "\1"s),
       "rope.scaling.finetuned: expected false: attention without positions, found true"},
      {renamed("granite.gguf", "rope.scaling.finetuned", "rope.scaling.finetunes"),
       "rope.scaling.finetuned: expected false: attention without positions, found none, which"},
      {renamed("falcon_h1.gguf", "feed_forward_length", "rope.scaling.factor"),
       "rope.scaling.type: expected none, found linear by "},
      {changed("granite.gguf", "granitehybrid.ssm.inner_size", type, little(47, 4)),
       "ssm.inner_size: expected a multiple of 24, the width, found 47"},
      {changed("jamba.gguf", kv, array, little(2, 4)),
       "head_count_kv: expected the same number in all layers with attention, found 2 and 1"},
      {changed("jamba.gguf", kv, array, little(1, 4) + little(1, 4) + little(0, 4) + little(1, 4)),
       "block_count: expected layers with attn at equal distances, found layer 2, which breaks"},
      {changed("jamba.gguf", "jamba.block_count", type, little(5000, 4)),
       "block_count: expected at most 4096, found 5000"},
      {changed("jamba.gguf", "jamba.block_count", type, little(3, 4)),
       "head_count_kv: expected a whole number for each of 3 layers, found [0,1,0,0]"},
      {changed("nemotron_h.gguf", "nemotron_h.ssm.time_step_rank", type, little(5, 4)),
       "ssm.time_step_rank: expected a divisor of 42, found 5"},
      {changed("falcon_h1.gguf", "falcon-h1.attention.head_count_kv", type, little(0, 4)),
       "head_count_kv: expected attention in every layer, found a layer without"},
  };
  for (const auto& [bytes, expected] : cases) {
    const auto opened = open_bytes(bytes);
    ASSERT_FALSE(opened) << expected;
    EXPECT_NE(opened.error().message.find(expected), std::string::npos)
        << opened.error().message << "\ninstead of " << expected;
  }
}

// Fewer blocks than the file has are another model.
TEST(GgufCheckpoint, RefusesTensorsOfBlocksBeyondItsOwn) {
  const std::vector<std::string> pairs = {
      gguf_text("general.architecture", "llama"), gguf_number("llama.embedding_length", 4),
      gguf_number("llama.block_count", 2), gguf_number("llama.feed_forward_length", 4),
      gguf_number("llama.attention.head_count", 2)};
  const auto open_with = [&](const std::vector<std::string>& names) {
    constexpr std::uint64_t size = 160;
    std::vector<std::string> tensors = {gguf_tensor("token_embd.weight", {4, 10}, 0, 0)};
    for (const std::string& name : names) {
      tensors.push_back(gguf_tensor(name, {4}, 0, size * tensors.size()));
    }
    return open_bytes(gguf(pairs, tensors, std::string(size * tensors.size(), '\0')));
  };
  EXPECT_TRUE(open_with({"blk.1.attn_norm.weight", "blk.7.attn_rot_embd", "blk.x.weight"}));
  for (const std::string name : {"blk.2.attn_norm.weight", "blk.2.of_nothing_known"}) {
    const auto opened = open_with({"blk.10.attn_norm.weight", name, "blk.1.attn_norm.weight"});
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ErrorCode::bad_config);
    EXPECT_EQ(
        opened.error().message,
        "[gguf] " + name + ": expected blocks below 2, the block_count, found block 2 (memory)");
  }
}

std::set<std::string> forms_of(const std::string& file, const std::string& form) {
  std::set<std::string> forms;
  for (const TensorUse& use : plan_checkpoint(file, {.form = form}).value().plan.tensors) {
    if (use.role == TensorRole::matrix) forms.insert(use.form);
  }
  return forms;
}

// Blocks are used as they are stored, with the bits of their values in f32; q8_0 and q4_0 become q8
// and q4 where these are asked for.
TEST(GgufCheckpoint, HoldsBlocksAsTheyAreStored) {
  using Forms = std::set<std::string>;
  const std::string file = golden("gguf/mamba_types.gguf");
  const CheckpointPlan plan = plan_checkpoint(file).value();
  EXPECT_TRUE(plan.plan.unused.empty());
  EXPECT_EQ(forms_of(file, "file"),
            (Forms{"bf16", "f16", "f32", "q4_0", "q4_1", "q5_0", "q5_1", "q8_0"}));
  EXPECT_EQ(forms_of(file, "f32"), Forms{"f32"});
  EXPECT_EQ(forms_of(file, "q8"), (Forms{"q4_0", "q4_1", "q5_0", "q5_1", "q8"}));
  EXPECT_EQ(forms_of(file, "q4"), (Forms{"q4", "q4_1", "q5_0", "q5_1", "q8_0"}));
  const std::vector<Token> tokens = tokens_of("hf_f32");
  const std::vector<float> widened =
      test::all_logits(load_model(file, {.form = "f32"}).value(), tokens);
  const std::vector<float> stored = test::all_logits(load_model(file).value(), tokens);
  ASSERT_TRUE(test::same_bits<float>(stored, widened));
  // The activations of one matrix in seven are rounded to 8 bits.
  const std::vector<float> grouped =
      test::all_logits(load_model(file, {.form = "q8"}).value(), tokens);
  EXPECT_EQ(grouped.size(), widened.size());
  const std::string bytes = test::read_file(file);
  EXPECT_EQ(open_bytes(bytes).value().weights.size(), plan.checkpoint.weights.size());
}

// Where a form that was asked for holds nothing, the one that does is named.
TEST(GgufCheckpoint, NamesTheFormThatHoldsItsBlocks) {
  const CheckpointPlan plan = plan_checkpoint(golden("gguf/mamba_types.gguf")).value();
  WeightStore weights = plan.checkpoint.weights;
  constexpr Index bytes_of_block = 20;  // of 32 weights
  const std::vector<std::byte> zeros(1 << 20);
  for (const TensorUse& use : plan.plan.tensors) {
    if (use.role != TensorRole::matrix || use.shape[1] % 32 != 0) continue;
    const std::string name = use.name.substr(0, use.name.rfind('.'));
    weights.remove(use.name);
    weights.add(name + ".blocks",
                {zeros.data(), DType::u8, {use.shape[0], use.shape[1] / 32, bytes_of_block}},
                nullptr);
    weights.metadata["krait.form:" + name] = "q4_1";
  }
  const auto model =
      build_model(plan.config.spec, weights, plan.config.prefix, WeightOptions{.form = "aqlm"});
  ASSERT_FALSE(model);
  EXPECT_EQ(
      model.error().message,
      "[build] form: expected a matrix that aqlm can hold, found q4_1 only, which \"file\" uses "
      "as stored");
}

// A file of the smallest Mamba, with a vocabulary.
std::vector<std::string> small_pairs() {
  return {gguf_text("general.architecture", "mamba"), gguf_number("mamba.embedding_length", 2),
          gguf_number("mamba.block_count", 1),        gguf_number("mamba.ssm.state_size", 2),
          gguf_number("mamba.ssm.conv_kernel", 2),    gguf_number("mamba.ssm.inner_size", 4),
          gguf_number("mamba.ssm.time_step_rank", 1)};
}

std::vector<std::string> small_tensors() {
  return {gguf_tensor("token_embd.weight", {2, 300}, 0, 0),
          gguf_tensor("blk.0.ssm_a", {2, 4}, 0, 2400)};
}

std::string small_data(float a) {
  std::string data(2400 + 32, '\0');
  for (int i = 0; i < 8; ++i) std::memcpy(data.data() + 2400 + 4 * i, &a, sizeof a);
  return data;
}

std::string strings(const std::string& key, const std::vector<std::string>& texts) {
  std::string list = little(8, 4) + little(texts.size(), 8);
  for (const std::string& text : texts) list += gguf_string(text);
  return gguf_pair("tokenizer.ggml." + key, 9, list);
}

std::string numbers(const std::string& key, const std::vector<unsigned>& values) {
  std::string list = little(5, 4) + little(values.size(), 8);
  for (const unsigned value : values) list += little(value, 4);
  return gguf_pair("tokenizer.ggml." + key, 9, list);
}

// The bytes in the byte alphabet, four tokens more, and one that pads.
std::vector<std::string> vocabulary() {
  std::vector<std::string> tokens;
  unsigned next = 0x100;
  for (unsigned byte = 0; byte < 256; ++byte) {
    const bool is_itself =
        (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
    const unsigned code = is_itself ? byte : next++;
    if (code < 0x80) {
      tokens.emplace_back(1, static_cast<char>(code));
    } else {
      tokens.push_back(
          {static_cast<char>(0xC0U | code >> 6U), static_cast<char>(0x80U | (code & 0x3FU))});
    }
  }
  for (const char* token : {"he", "hel", "<s>", "</s>", "[PAD260]"}) tokens.emplace_back(token);
  return tokens;
}

std::vector<std::string> with_vocabulary(std::vector<std::string> pairs, const std::string& pre) {
  std::vector<unsigned> types(261, 1);
  types[258] = types[259] = 3;
  types[260] = 5;
  pairs.push_back(gguf_text("tokenizer.ggml.model", "gpt2"));
  pairs.push_back(gguf_text("tokenizer.ggml.pre", pre));
  pairs.push_back(strings("tokens", vocabulary()));
  pairs.push_back(numbers("token_type", types));
  pairs.push_back(strings("merges", {"h e", "he l"}));
  pairs.push_back(gguf_number("tokenizer.ggml.bos_token_id", 258));
  pairs.push_back(gguf_number("tokenizer.ggml.eos_token_id", 259));
  return pairs;
}

TEST(GgufCheckpoint, ReadsTheVocabulary) {
  auto pairs = with_vocabulary(small_pairs(), "gpt-2");
  pairs.push_back(gguf_text("tokenizer.chat_template", "{{ messages }}"));
  pairs.push_back(gguf_text("tokenizer.chat_template.tool_use", "{{ tools }}"));
  pairs.push_back(gguf_text("tokenizer.chat_template.../x", ""));  // becomes the name of a file
  pairs.push_back(gguf_number("tokenizer.ggml.fim_pre_token_id", 7));
  const std::string file = gguf(pairs, small_tensors(), small_data(-1.0F));
  const Checkpoint checkpoint = open_bytes(file).value();
  EXPECT_EQ(checkpoint.chat_template, "{{ messages }}");
  ASSERT_EQ(checkpoint.more_chat_templates.size(), 2U);
  EXPECT_EQ(checkpoint.more_chat_templates[0].name, "tool_use");
  EXPECT_EQ(checkpoint.more_chat_templates[0].text, "{{ tools }}");
  EXPECT_EQ(checkpoint.more_chat_templates[1].name, "___x");
  EXPECT_EQ(checkpoint.token_table->more_marks,
            (std::vector<std::pair<std::string, Token>>{{"fim_pre", 7}}));
  const auto marks = nlohmann::json::parse(checkpoint.tokenizer_config);
  EXPECT_EQ(marks["bos_token"], "<s>");
  EXPECT_EQ(marks["eos_token"], "</s>");
  const ModelConfig config = read_config(checkpoint).value();
  EXPECT_EQ(config.stop_tokens, std::vector<Token>{259});
  const auto tokenizer = make_tokenizer(checkpoint, config).value();
  EXPECT_EQ(tokenizer->vocab(), 260);  // without the padding
  EXPECT_EQ(tokenizer->encode("hello</s>").value(), (std::vector<Token>{257, 'l', 'o', 259}));
  EXPECT_EQ(tokenizer->encode("he", {.add_special = true}).value(), std::vector<Token>{256});
  EXPECT_TRUE(tokenizer->is_special(258));
}

// A file may begin texts with a token that it calls unused; tokens behind it pad.
TEST(GgufCheckpoint, KeepsUnusedTokensThatAreMarks) {
  auto pairs = with_vocabulary(small_pairs(), "gpt-2");
  std::erase_if(pairs, [](const std::string& pair) {
    return pair.find("bos_token_id") != pair.npos || pair.find("ggml.token_type") != pair.npos;
  });
  std::vector<unsigned> types(261, 1);
  types[259] = types[260] = 5;
  pairs.push_back(numbers("token_type", types));
  pairs.push_back(gguf_number("tokenizer.ggml.bos_token_id", 259));
  pairs.push_back(gguf_pair("tokenizer.ggml.add_bos_token", 7, "\1"s));
  const std::string file = gguf(pairs, small_tensors(), small_data(-1.0F));
  const Checkpoint checkpoint = open_bytes(file).value();
  const auto tokenizer = make_tokenizer(checkpoint, read_config(checkpoint).value()).value();
  EXPECT_EQ(tokenizer->vocab(), 260);
  EXPECT_EQ(tokenizer->encode("he", {.add_special = true}).value(), (std::vector<Token>{259, 256}));
  EXPECT_EQ(nlohmann::json::parse(tokenizer_json_of(*checkpoint.token_table)
                                      .value())["post_processor"]["special_tokens"]["</s>"]["ids"],
            nlohmann::json({259}));
}

// -1 is written for none; llama.cpp leaves out what is beyond the vocabulary, too.
TEST(GgufCheckpoint, LeavesOutMarksThatAreNoTokens) {
  auto pairs = with_vocabulary(small_pairs(), "gpt-2");
  std::erase_if(pairs, [](const std::string& pair) { return pair.find("_token_id") != pair.npos; });
  pairs.push_back(gguf_number("tokenizer.ggml.bos_token_id", 999));
  pairs.push_back(gguf_number("tokenizer.ggml.unknown_token_id", 999));
  pairs.push_back(gguf_number("tokenizer.ggml.eos_token_id", 0xFFFFFFFF));
  pairs.push_back(gguf_number("tokenizer.ggml.eot_token_id", 259));
  pairs.push_back(gguf_pair("tokenizer.ggml.eom_token_id", 5, little(0xFFFFFFFF, 4)));
  const std::string file = gguf(pairs, small_tensors(), small_data(-1.0F));
  const Checkpoint checkpoint = open_bytes(file).value();
  const ModelConfig config = read_config(checkpoint).value();
  EXPECT_EQ(config.stop_tokens, std::vector<Token>{259});
  EXPECT_TRUE(make_tokenizer(checkpoint, config));
  EXPECT_EQ(checkpoint.token_table->bos, std::nullopt);
  EXPECT_EQ(checkpoint.token_table->eos, std::nullopt);
  EXPECT_EQ(nlohmann::json::parse(checkpoint.config).count("bos_token_id"), 0U);
}

// What is put around a text is the kind's custom, unless the file says otherwise.
TEST(GgufCheckpoint, PutsMarksAroundTexts) {
  struct Case {
    const char* pre;
    std::vector<std::string> more;
    std::vector<Token> expected;
  };
  const std::string no_bos = gguf_pair("tokenizer.ggml.add_bos_token", 7, "\0"s);
  const std::string bos = gguf_pair("tokenizer.ggml.add_bos_token", 7, "\1"s);
  const std::string eos = gguf_pair("tokenizer.ggml.add_eos_token", 7, "\1"s);
  for (const Case& c :
       {Case{"gpt-2", {}, {256}}, Case{"gpt-2", {bos}, {258, 256}},
        Case{"gpt-2", {bos, eos}, {258, 256, 259}}, Case{"llama-bpe", {}, {258, 256}},
        Case{"llama-bpe", {no_bos}, {256}}, Case{"smollm", {}, {256}},
        Case{"qwen2", {eos}, {256, 259}}, Case{"tekken", {}, {258, 256}}, Case{"falcon", {}, {256}},
        Case{"gpt-4o", {}, {256}}}) {
    SCOPED_TRACE(c.pre);
    auto pairs = with_vocabulary(small_pairs(), c.pre);
    pairs.insert(pairs.end(), c.more.begin(), c.more.end());
    const std::string file = gguf(pairs, small_tensors(), small_data(-1.0F));
    const Checkpoint checkpoint = open_bytes(file).value();
    const auto tokenizer = make_tokenizer(checkpoint, read_config(checkpoint).value()).value();
    EXPECT_EQ(tokenizer->encode("he", {.add_special = true}).value(), c.expected);
  }
}

TEST(GgufCheckpoint, RefusesWhatItCannotUse) {
  const auto message = [](const std::string& bytes) {
    const auto opened = open_bytes(bytes);
    if (!opened) return opened.error().message;
    const auto config = read_config(*opened);
    if (!config) return config.error().message;
    const auto tokenizer = make_tokenizer(*opened, *config);
    return tokenizer ? std::string("none") : tokenizer.error().message;
  };
  const auto without = [](std::size_t i) {
    auto pairs = small_pairs();
    pairs.erase(pairs.begin() + static_cast<std::ptrdiff_t>(i));
    return pairs;
  };
  const auto with = [](std::vector<std::string> pairs, const std::string& more) {
    pairs.push_back(more);
    return pairs;
  };
  const std::string data = small_data(-1.0F);
  auto other = small_pairs();
  other[0] = gguf_text("general.architecture", "rwkv7");
  auto words = small_pairs();
  words[3] = gguf_text("mamba.ssm.state_size", "two");
  const auto vocabulary_with = [&](const std::string& pair) {
    return gguf(with(with_vocabulary(small_pairs(), "gpt-2"), pair), small_tensors(), data);
  };
  const std::pair<std::string, std::string> cases[] = {
      {gguf(without(0)),
       "[gguf] general.architecture: expected one of mamba, mamba2, llama, jamba, granitehybrid, "
       "nemotron_h, nemotron_h_moe, falcon-h1, found none"},
      {gguf(other),
       "general.architecture: expected one of mamba, mamba2, llama, jamba, granitehybrid, "
       "nemotron_h, nemotron_h_moe, falcon-h1, found \"rwkv7\""},
      {gguf(with(small_pairs(), gguf_number("split.count", 3))),
       "[checkpoint] weights: expected the 3 files of a model, found 1 (memory)"},
      {gguf(with(small_pairs(), gguf_text("split.count", "two"))),
       "[gguf] split.count: expected a whole number, found \"two\" (memory)"},
      {gguf(with(small_pairs(), gguf_number("split.count", 70000))),
       "[gguf] split.count: expected at most 65535 files, found 70000 (memory)"},
      {gguf(with(with(small_pairs(), gguf_number("split.count", 3)), gguf_number("split.no", 1))),
       "[gguf] split.no: expected the first of 3 files, found file 2 (memory)"},
      {gguf(without(1), small_tensors(), data),
       "mamba.embedding_length: expected a number, found none"},
      {gguf(words, small_tensors(), data), "mamba.ssm.state_size: expected a whole number"},
      {gguf(small_pairs()), "[gguf] token_embd.weight: expected a matrix, found none"},
      {gguf(small_pairs(), small_tensors(), small_data(1.0F)),
       "[gguf] blk.0.ssm_a: expected numbers of at most 0, found 1"},
      {gguf(small_pairs(), small_tensors(), small_data(std::nanf(""))),
       "blk.0.ssm_a: expected numbers of at most 0, found nan"},
      {gguf(with_vocabulary(small_pairs(), "kimi-k2"), small_tensors(), data),
       "[tokenizer] tokenizer.ggml.pre: expected default, gpt-2, mpt"},
      {gguf(with(small_pairs(), gguf_text("tokenizer.ggml.model", "gpt2")), small_tensors(), data),
       "[tokenizer] tokenizer.ggml.tokens: expected 1 to"},
      {gguf(with(with(small_pairs(), gguf_text("tokenizer.ggml.model", "gpt2")),
                 numbers("tokens", {1})),
            small_tensors(), data),
       "tokenizer.ggml.tokens: expected a list of strings, found 1"},
      {gguf(with(with(with(small_pairs(), gguf_text("tokenizer.ggml.model", "gpt2")),
                      strings("tokens", {"a"})),
                 numbers("token_type", {1, 1})),
            small_tensors(), data),
       "tokenizer.ggml.token_type: expected 1 values, found 2"},
      {gguf(with(with(small_pairs(), gguf_text("tokenizer.ggml.model", "rwkv")),
                 strings("tokens", {"a"})),
            small_tensors(), data),
       "tokenizer.ggml.model: expected gpt2, llama, t5 or bert"},
      {vocabulary_with(gguf_text("tokenizer.ggml.unknown_token_id", "?")),
       "tokenizer.ggml.unknown_token_id: expected an id, found \"?\""},
  };
  for (const auto& [bytes, expected] : cases) {
    const std::string found = message(bytes);
    EXPECT_NE(found.find(expected), std::string::npos) << found << "\ninstead of " << expected;
    EXPECT_EQ(found.find('\n'), std::string::npos);
  }
}

TEST(GgufCheckpoint, NotesAMatrixOfAnUnknownType) {
  auto tensors = small_tensors();
  tensors.push_back(gguf_tensor("blk.0.ssm_in.weight", {256}, 16, 2432));
  const std::string file = gguf(small_pairs(), tensors, small_data(-1.0F));
  const Checkpoint checkpoint = open_bytes(file).value();
  const auto& unreadable = checkpoint.weights.unreadable();
  EXPECT_EQ(unreadable.at("backbone.layers.0.mixer.in_proj.weight").what, "type 16 [256]");
}

// Nothing is said of the size of what has an unknown type.
TEST(GgufCheckpoint, SizesOfUnknownTypesCostNothing) {
  auto tensors = small_tensors();
  constexpr std::uint64_t large = std::uint64_t{1} << 40U;
  tensors.push_back(gguf_tensor("blk.0.ssm_norm.weight", {large, large}, 99, 2432));
  const std::string file = gguf(small_pairs(), tensors, small_data(-1.0F));
  EXPECT_EQ(open_bytes(file).value().weights.unreadable().size(), 1U);
  // A stack of experts is one tensor that cannot be read, not thousands.
  std::string jamba = test::read_file(golden("gguf/jamba.gguf"));
  const std::string name = "ffn_up_exps.weight";
  const std::size_t type = jamba.find(name) + name.size() + 4 + std::size_t{3} * 8;
  jamba.replace(type, 4, little(99, 4));
  const auto opened = open_bytes(jamba).value();
  ASSERT_EQ(opened.weights.unreadable().size(), 1U);
  EXPECT_TRUE(opened.weights.unreadable().begin()->first.ends_with("experts.0.up_proj.weight"));
}

}  // namespace
}  // namespace krait::gguf_checkpoint_test
