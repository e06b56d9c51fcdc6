#include "krait/tools/convert.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "io/gguf.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/tools/quantize.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/relative_difference.hpp"
#include "tests/support/support.hpp"

namespace krait::convert_test {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

class Convert : public testing::Test {
 protected:
  std::string out(const std::string& name) const { return (folder_.path() / name).string(); }

  static std::string golden(const std::string& name) {
    return (test::data_dir() / "golden" / name).string();
  }

  static std::vector<float> logits_of(const std::string& path, const std::string& form = "file") {
    const Model model = load_model(path, {.form = form}).value();
    const std::vector<Token> tokens = {22, 0, 38, 21, 12, 18, 7, 3, 39};
    return test::all_logits(model, tokens);
  }

  static void expect_same_tensors(const WeightStore& a, const WeightStore& b) {
    ASSERT_EQ(a.size(), b.size());
    for (const auto& [name, entry] : a.entries()) {
      const WeightStore::Entry* other = b.find(name);
      ASSERT_NE(other, nullptr) << name;
      EXPECT_EQ(entry.tensor.dtype, other->tensor.dtype) << name;
      EXPECT_EQ(entry.tensor.shape, other->tensor.shape) << name;
      EXPECT_EQ(std::memcmp(entry.tensor.data, other->tensor.data,
                            static_cast<std::size_t>(entry.tensor.bytes())),
                0)
          << name;
    }
  }

  // Every key of an architecture that is in `a` has its value in `b`.
  static void expect_same_keys(const Metadata& a, const Metadata& b,
                               const std::string& architecture) {
    // Of a width of experts that no network has, as the converter writes it, llama.cpp does not
    // load the file.
    const std::string width = architecture + ".feed_forward_length";
    const bool has_experts = a[architecture + ".expert_count"].integer().value_or(1) > 0;
    for (const Metadata::Member& member : *a.object()) {
      if (!member.key.starts_with(architecture + ".")) continue;
      if (member.key == width && !has_experts) continue;
      const Metadata& other = b[member.key];
      if (member.value.number() && !member.value.integer()) {
        ASSERT_TRUE(other.number()) << member.key;
        EXPECT_FLOAT_EQ(static_cast<float>(*member.value.number()),
                        static_cast<float>(*other.number()))
            << member.key;
      } else {
        EXPECT_EQ(member.value, other) << member.key;
      }
    }
  }

  static std::vector<float> floats_of(const GgufTensor& tensor) {
    const Shape shape = *Shape::make(tensor.extents);
    std::vector<float> values(static_cast<std::size_t>(shape.size()));
    convert_floats({tensor.data, *tensor.type.dtype, shape}, DType::f32, values.data());
    return values;
  }

  static void expect_near(const std::vector<float>& found, const std::vector<float>& expected,
                          double share) {
    EXPECT_LE(test::relative_difference(found, expected), share);
  }

  static std::string error_of(const std::string& source, const std::string& destination,
                              const ConvertOptions& options = {}) {
    const auto result = convert_checkpoint(source, destination, options);
    return result ? "none" : result.error().message;
  }

  test::TemporaryDirectory folder_;
};

TEST_F(Convert, KeepsEveryByteOfACheckpointOfTransformers) {
  for (const char* name : {"hf_bf16", "hf_falcon_f32", "hf_mamba2_f16_alog", "hf_sharded"}) {
    SCOPED_TRACE(name);
    const auto summary = convert_checkpoint(golden(name), out(name), {}).value();
    EXPECT_EQ(summary.files, std::vector<std::string>{"model.safetensors"});
    const Checkpoint made = open_checkpoint(out(name)).value();
    const Checkpoint source = open_checkpoint(golden(name)).value();
    expect_same_tensors(source.weights, made.weights);
    EXPECT_EQ(made.config, source.config);
    EXPECT_EQ(made.weights.metadata.at("format"), "pt");
  }
}

TEST_F(Convert, BeginsAnotherFileAboveASize) {
  ConvertOptions options;
  options.shard_bytes = 20000;
  const auto summary = convert_checkpoint(golden("hf_f32"), out("a"), options).value();
  ASSERT_GT(summary.files.size(), 3U);
  const json index = json::parse(test::read_file(out("a/model.safetensors.index.json")));
  EXPECT_EQ(index["metadata"]["total_size"], summary.bytes);
  EXPECT_EQ(static_cast<Index>(index["weight_map"].size()), summary.tensors);
  for (const std::string& file : summary.files) {
    EXPECT_LT(fs::file_size(out("a/" + file)), 24000U) << file;
  }
  EXPECT_FALSE(fs::exists(out("a/model.safetensors")));
  expect_same_tensors(open_checkpoint(golden("hf_f32")).value().weights,
                      open_checkpoint(out("a")).value().weights);
}

// The matrices alone change their type, as they do at load.
TEST_F(Convert, RoundsMatrices) {
  ConvertOptions options;
  options.dtype = DType::bf16;
  ASSERT_TRUE(convert_checkpoint(golden("hf_f32"), out("a"), options));
  const CheckpointPlan plan = plan_checkpoint(out("a")).value();
  for (const TensorUse& use : plan.plan.tensors) {
    EXPECT_EQ(use.form, use.role == TensorRole::matrix ? "bf16" : "f32") << use.name;
  }
  EXPECT_EQ(json::parse(plan.checkpoint.config)["dtype"], "bfloat16");
  EXPECT_EQ(load_model(out("a")).value().fingerprint(),
            load_model(golden("hf_f32"), {.form = "bf16"}).value().fingerprint());
}

TEST_F(Convert, GivesOriginalCheckpointsTheNamesOfTransformers) {
  for (const char* name : {"orig_bin", "orig_mamba2", "codestral", "orig_two_heads"}) {
    SCOPED_TRACE(name);
    const auto converted = convert_checkpoint(golden(name), out(name), {});
    ASSERT_TRUE(converted) << converted.error().message;
    const json config = json::parse(test::read_file(out(name) + "/config.json"));
    EXPECT_TRUE(config.contains("model_type"));
    // transformers believes it where the file has a head of its own, too.
    EXPECT_EQ(config["tie_word_embeddings"], std::string_view(name).starts_with("orig_bin") ||
                                                 name == std::string_view("orig_mamba2"));
    const auto expected = logits_of(golden(name));
    EXPECT_TRUE(test::same_bits<float>(logits_of(out(name)), expected));
    EXPECT_TRUE(open_checkpoint(out(name)).value().weights.contains("backbone.embeddings.weight"));
  }
  EXPECT_NE(error_of(golden("orig_layernorm"), out("x")).find("[convert] rms_norm: expected true"),
            std::string::npos);
  EXPECT_NE(error_of(golden("moe_mamba"), out("x")).find("[convert] moe_cfg: expected none"),
            std::string::npos);
  for (const char* name : {"blackmamba", "blackmamba_bias", "blackmamba_alternating"}) {
    const std::string found = error_of(golden(name), out("x"));
    EXPECT_NE(found.find("[convert] mamba_moe_layers: expected none, found [\"r\","),
              std::string::npos)
        << found;
  }
  EXPECT_FALSE(fs::exists(out("x")));
}

// The published Mamba checkpoints of transformers have the original keys beside their own.
TEST_F(Convert, KeepsAConfigurationOfTransformersThatHasOriginalKeys) {
  const std::string folder = out("source");
  fs::copy(golden("hf_f32"), folder);
  auto config = json::parse(test::read_file(folder + "/config.json"));
  config.update({{"d_model", config["hidden_size"]},
                 {"n_layer", config["num_hidden_layers"]},
                 {"ssm_cfg", json::object()},
                 {"bos_token_id", 0},
                 {"eos_token_id", 0},
                 {"pad_token_id", 0}});
  test::write_file(folder + "/config.json", config.dump());
  ASSERT_TRUE(convert_checkpoint(folder, out("a"), {}));
  EXPECT_EQ(test::read_file(out("a/config.json")), config.dump());
}

// transformers' classes and llama.cpp's have mixers alone: the other blocks would be lost.
TEST_F(Convert, RefusesOriginalCheckpointsOfMoreThanMixers) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::string folder = out("source");
  fs::copy(golden("orig_mamba2attn"), folder);
  auto config = json::parse(test::read_file(folder + "/config.json"));
  for (const char* expected :
       {"d_intermediate: expected 0, found 40", "attn_layer_idx: expected none, found [1]"}) {
    test::write_file(folder + "/config.json", config.dump());
    for (const ConvertOptions& options : {ConvertOptions{}, gguf}) {
      const std::string found = error_of(folder, out("x"), options);
      EXPECT_NE(found.find(expected), std::string::npos) << found;
    }
    config["d_intermediate"] = 0;
  }
  EXPECT_FALSE(fs::exists(out("x")));
}

// Through A and back, A_log may change by a unit in its last place.
TEST_F(Convert, WritesGgufAndReadsItBack) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  for (const char* name : {"hf_f32", "hf_bf16", "hf_mamba2_f32", "hf_mamba2_sharded", "orig_bin",
                           "hf_jamba", "hf_jamba_dense", "hf_nemotron_h", "hf_nemotron_experts",
                           "hf_falcon_h1", "hf_falcon_h1_no_norm"}) {
    SCOPED_TRACE(name);
    const std::string file = out(std::string(name) + ".gguf");
    const auto summary = convert_checkpoint(golden(name), file, gguf);
    ASSERT_TRUE(summary) << summary.error().message;
    const auto expected = logits_of(golden(name));
    const auto written = logits_of(file);
    ASSERT_TRUE(convert_checkpoint(file, out(name), {}));
    const auto back = logits_of(out(name));
    EXPECT_TRUE(test::same_bits<float>(back, written));
    expect_near(written, expected, 1e-5);
    EXPECT_EQ(read_config(open_checkpoint(out(name)).value()).value().spec.layers,
              read_config(open_checkpoint(file).value()).value().spec.layers);
  }
}

// Llama's queries and keys lie in pairs there, and Llama 3's scaling as a divisor of each pair's
// frequency, of which no configuration of transformers can be made.
TEST_F(Convert, WritesScaledPositions) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  for (const char* name : {"hf_llama", "hf_llama3_scaled", "hf_yarn"}) {
    SCOPED_TRACE(name);
    const std::string path = out(std::string(name) + ".gguf");
    const auto summary = convert_checkpoint(golden(name), path, gguf);
    ASSERT_TRUE(summary) << summary.error().message;
    expect_near(logits_of(path), logits_of(golden(name)), 1e-5);
    const CheckpointPlan plan = plan_checkpoint(path).value();
    EXPECT_TRUE(plan.plan.unused.empty());
    EXPECT_TRUE(plan.config.ignored.empty());
    if (name == std::string_view("hf_llama3_scaled")) {
      EXPECT_NE(error_of(path, out("x")).find("rope_freqs.weight: expected frequencies that"),
                std::string::npos);
      continue;
    }
    ASSERT_TRUE(convert_checkpoint(path, out(name), {}));
    expect_near(logits_of(out(name)), logits_of(golden(name)), 1e-5);
  }
  const GgufFile file = read_gguf(open_file(out("hf_yarn.gguf"), WeightsMode::map).value()).value();
  EXPECT_TRUE(file.metadata["llama.rope.scaling.type"].is("yarn"));
  EXPECT_EQ(file.metadata["llama.rope.scaling.original_context_length"].integer(), 32);
  EXPECT_EQ(file.metadata["llama.rope.scaling.yarn_beta_fast"].number(), 4.0);
  EXPECT_TRUE(file.metadata["llama.rope.scaling.attn_factor"].is_null());
  std::string other = test::read_file(out("hf_yarn.gguf"));
  other.replace(other.find("yarn"), 4, "warp");
  test::write_file(out("other.gguf"), other);
  EXPECT_NE(error_of(out("other.gguf"), out("x")).find("expected none, linear or yarn, found warp"),
            std::string::npos);
  EXPECT_NE(error_of(golden("hf_yarn_mscale"), out("x"), gguf).find("and YaRN with truncate"),
            std::string::npos);
  EXPECT_NE(error_of(golden("hf_mistral"), out("x"), gguf).find("sliding_window: expected none"),
            std::string::npos);
}

// Early configurations of Nemotron-H call some sizes by other names, and their layers by letters.
TEST_F(Convert, WritesGgufByTheConfigurationThatTheModelIsLoadedBy) {
  const std::string early = out("early");
  fs::copy(golden("hf_nemotron_h"), early);
  auto config = nlohmann::json::parse(test::read_file(early + "/config.json"));
  config["mamba_n_groups"] = config["n_groups"];
  config["mamba_d_conv"] = config["conv_kernel"];
  config.erase("n_groups");
  config.erase("conv_kernel");
  config["hybrid_override_pattern"] = "MMMM";  // the words are there, too, and count
  test::write_file(early + "/config.json", config.dump());
  const auto expected = logits_of(golden("hf_nemotron_h"));
  EXPECT_TRUE(test::same_bits<float>(logits_of(early), expected));
  ConvertOptions gguf;
  gguf.to_gguf = true;
  convert_checkpoint(golden("hf_nemotron_h"), out("usual.gguf"), gguf).value();
  convert_checkpoint(early, out("early.gguf"), gguf).value();
  // llama.cpp asks for both keys.
  const GgufFile usual = read_gguf(open_file(out("usual.gguf"), WeightsMode::map).value()).value();
  const std::string epsilon = "nemotron_h.attention.layer_norm";
  EXPECT_TRUE(usual.metadata[epsilon + "_epsilon"].number());
  EXPECT_EQ(usual.metadata[epsilon + "_epsilon"], usual.metadata[epsilon + "_rms_epsilon"]);
  EXPECT_TRUE(test::same_bits<float>(logits_of(out("early.gguf")), logits_of(out("usual.gguf"))));
}

// What llama.cpp's converter wrote of the same checkpoints (tests/golden/gguf_hybrids.py). It has
// permuted queries and keys of models without positions, which changes nothing.
TEST_F(Convert, WritesHybridsAsLlamaCppDoes) {
  const std::string without_positions = out("granite");
  fs::copy(golden("hf_granite_experts"), without_positions);
  auto config = json::parse(test::read_file(without_positions + "/config.json"));
  config["position_embedding_type"] = "nope";
  test::write_file(without_positions + "/config.json", config.dump());
  const struct {
    std::string source;
    const char* name;
    const char* architecture;
    DType dtype;
  } table[] = {
      {golden("hf_granite_dense"), "granite", "granitehybrid", DType::f16},
      {without_positions, "granite_moe", "granitehybrid", DType::f16},
      {golden("hf_falcon_h1"), "falcon_h1", "falcon-h1", DType::f32},
  };
  for (const auto& [source, name, architecture, dtype] : table) {
    SCOPED_TRACE(name);
    ConvertOptions options;
    options.to_gguf = true;
    options.dtype = dtype;
    const std::string path = out(std::string(name) + ".gguf");
    const auto summary = convert_checkpoint(source, path, options);
    ASSERT_TRUE(summary) << summary.error().message;
    const GgufFile made = read_gguf(open_file(path, WeightsMode::map).value()).value();
    const GgufFile expected =
        read_gguf(
            open_file(golden(std::string("gguf/") + name + ".gguf"), WeightsMode::map).value())
            .value();
    expect_same_keys(made.metadata, expected.metadata, architecture);
    expect_same_keys(expected.metadata, made.metadata, architecture);
    ASSERT_EQ(made.tensors.size(), expected.tensors.size());
    for (const GgufTensor& tensor : expected.tensors) {
      SCOPED_TRACE(tensor.name);
      const auto found = std::ranges::find(made.tensors, tensor.name, &GgufTensor::name);
      ASSERT_NE(found, made.tensors.end());
      EXPECT_EQ(found->describe(), tensor.describe());
      const bool is_permuted =
          tensor.name.ends_with("attn_q.weight") || tensor.name.ends_with("attn_k.weight");
      if (is_permuted && architecture == std::string("granitehybrid")) continue;
      const std::vector<float> values = floats_of(*found);
      const std::vector<float> others = floats_of(tensor);
      ASSERT_EQ(values.size(), others.size());
      for (std::size_t i = 0; i < values.size(); ++i) {
        ASSERT_NEAR(values[i], others[i], 1e-6F * std::abs(others[i])) << i;
      }
    }
    if (name == std::string("granite")) {
      EXPECT_EQ(made.metadata["granitehybrid.feed_forward_length"],
                made.metadata["granitehybrid.expert_shared_feed_forward_length"]);
    }
    expect_near(logits_of(path), logits_of(source, std::string(to_string(dtype))), 5e-6);
  }
}

// What the configuration says in words of its own, and factors beside a head that is the embedding.
TEST_F(Convert, RefusesWhatLlamaCppRunsOtherwise) {
  const struct {
    const char* source;
    const char* change;
    const char* expected;
  } table[] = {
      {"hf_granite_experts", "{}", "position_embedding_type: expected nope, found rope"},
      {"hf_granite_dense", R"({"time_step_limit":[0.01,0.1]})", "time_step_limit: expected no"},
      {"hf_falcon_h1", R"({"time_step_limit":[0.01,0.1]})", "time_step_limit: expected no"},
      {"hf_nemotron_h", R"({"time_step_limit":[0.01,0.1]})", "time_step_limit: expected no"},
      {"hf_mamba2_limits", "{}", "time_step_limit: expected no"},
      {"hf_falcon_bf16", "{}", "mixer_rms_eps: expected layer_norm_epsilon (1e-05), the one"},
      {"hf_falcon_h1", R"({"mamba_norm_before_gate":true})", "mamba_norm_before_gate: expected fa"},
      {"hf_falcon_h1", R"({"rope_parameters":{"rope_type":"linear","factor":2.0}})",
       "rope_parameters: expected all channels rotated and none scaled"},
      {"hf_falcon_h1", R"({"tie_word_embeddings":true})", "tie_word_embeddings: expected false"},
  };
  ConvertOptions gguf;
  gguf.to_gguf = true;
  for (const auto& [source, change, expected] : table) {
    const std::string folder = out("changed");
    fs::remove_all(folder);
    fs::copy(golden(source), folder);
    auto config = json::parse(test::read_file(folder + "/config.json"));
    config.update(json::parse(change));
    test::write_file(folder + "/config.json", config.dump());
    const std::string found = error_of(folder, out("x.gguf"), gguf);
    EXPECT_NE(found.find(expected), std::string::npos) << found << "\ninstead of " << expected;
  }
}

// Rows of queries and keys lie in pairs in GGUF, and in what other commands make of such a file.
TEST_F(Convert, KnowsPairedRowsByTheModel) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  SerialExecutor executor;
  ASSERT_TRUE(convert_checkpoint(golden("hf_llama"), out("a.gguf"), gguf));
  ASSERT_TRUE(quantize_checkpoint(out("a.gguf"), out("paired"), "bf16", executor));
  const std::vector<float> expected = logits_of(golden("hf_llama"), "bf16");
  expect_near(logits_of(out("paired")), expected, 1e-5);
  ASSERT_TRUE(convert_checkpoint(out("paired"), out("b.gguf"), gguf));
  expect_near(logits_of(out("b.gguf")), expected, 1e-5);
  ASSERT_TRUE(convert_checkpoint(out("paired"), out("halves"), {}));
  expect_near(logits_of(out("halves")), expected, 1e-5);
  EXPECT_EQ(test::read_file(out("halves/config.json")).find("rope_interleave"), std::string::npos);
}

// The loader has looked at none of these.
TEST_F(Convert, ChecksTensorsThatTheModelDoesNotUse) {
  const auto source = [&](const TensorView& blocks, const std::string& name) {
    const Checkpoint checkpoint = open_checkpoint(golden("hf_f32")).value();
    const std::string folder = out(name);
    fs::create_directories(folder);
    fs::copy(golden("hf_f32/config.json"), folder + "/config.json");
    std::vector<NamedTensor> tensors = {{"foo.blocks", blocks}};
    for (const auto& [other, entry] : checkpoint.weights.entries()) {
      tensors.push_back({other, entry.tensor});
    }
    write_safetensors(folder + "/model.safetensors", tensors, {{"krait.form:foo", "q6_k"}}).value();
    return folder;
  };
  const std::vector<std::byte> bytes(2100);
  const auto view = [&](const Shape& shape) { return TensorView{bytes.data(), DType::u8, shape}; };
  const std::string expected = "foo.blocks: expected rows of q6_k blocks, u8 [..., 210], found u8 ";
  for (const Shape& shape : {Shape{5}, Shape{1000, 1, 1}, Shape{210}}) {
    const std::string folder = source(view(shape), "source" + to_string(shape));
    const std::string found = error_of(folder, out("x"));
    EXPECT_NE(found.find(expected + to_string(shape)), std::string::npos) << found;
  }
  const std::string good = source(view(Shape{5, 2, 210}), "good");
  const ConvertSummary summary = convert_checkpoint(good, out("y"), {}).value();
  EXPECT_EQ(open_checkpoint(out("y")).value().weights.find("foo.weight")->tensor.shape,
            (Shape{5, 512}));
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::string found = error_of(good, out("y.gguf"), gguf);
  EXPECT_NE(found.find("foo.blocks: expected a tensor of the model"), std::string::npos) << found;
}

// What the model does not need and krait does not read is named, and stays behind.
TEST_F(Convert, TellsWhichTensorsItLeavesOut) {
  const std::string folder = out("source");
  fs::create_directories(folder);
  for (const char* file : {"config.json", "model.safetensors"}) {
    fs::copy(golden("hf_f32/") + file, folder + "/" + file);
  }
  std::string bytes = test::read_file(folder + "/model.safetensors");
  std::uint64_t size = 0;
  std::memcpy(&size, bytes.data(), sizeof size);
  const std::string end = std::to_string(bytes.size() - 8 - size);
  std::string header = bytes.substr(8, size);
  header.insert(
      1, R"("mask":{"dtype":"U16","shape":[0,3],"data_offsets":[)" + end + "," + end + "]},");
  header.resize((header.size() + 7) / 8 * 8, ' ');
  size = header.size();
  bytes = std::string(reinterpret_cast<const char*>(&size), sizeof size) + header +
          bytes.substr(bytes.size() - std::stoul(end));
  std::ofstream(folder + "/model.safetensors", std::ios::binary) << bytes;
  const ConvertSummary summary = convert_checkpoint(folder, out("y"), {}).value();
  EXPECT_EQ(summary.left_out, std::vector<std::string>{"mask, U16 [0,3]"});
  EXPECT_EQ(open_checkpoint(out("y")).value().weights.entries().size(),
            open_checkpoint(golden("hf_f32")).value().weights.entries().size());
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const std::string found = error_of(folder, out("y.gguf"), gguf);
  EXPECT_NE(found.find("mask: expected a tensor of the model, found one that it does not use"),
            std::string::npos)
      << found;
}

// Factors of what comes out of a product are of its bias, too.
TEST_F(Convert, MultipliesFactorsIntoBiases) {
  const std::string folder = out("falcon");
  fs::copy(golden("hf_falcon_h1_no_norm"), folder);
  auto config = json::parse(test::read_file(folder + "/config.json"));
  config["mlp_multipliers"] = {3.0, 0.25};
  test::write_file(folder + "/config.json", config.dump());
  ConvertOptions gguf;
  gguf.to_gguf = true;
  ASSERT_TRUE(convert_checkpoint(folder, out("falcon.gguf"), gguf));
  expect_near(logits_of(out("falcon.gguf")), logits_of(folder), 5e-6);
}

// state-spaces stores a tied head beside the embedding: rounded alone, either would untie them.
TEST_F(Convert, ARepeatedHeadGoesOnRepeatingTheEmbedding) {
  for (const char* name : {"orig_bin", "orig_mamba2"}) {
    ConvertOptions options;
    options.dtype = DType::bf16;
    ASSERT_TRUE(convert_checkpoint(golden(name), out(name), options)) << name;
    const WeightStore weights = open_checkpoint(out(name)).value().weights;
    const auto* head = weights.find("lm_head.weight");
    EXPECT_TRUE(head == nullptr || head->tensor.dtype == DType::bf16) << name;
    EXPECT_TRUE(test::same_bits<float>(logits_of(out(name)), logits_of(golden(name), "bf16")));
  }
}

// Blocks become floats in a folder and stay blocks in a GGUF file.
TEST_F(Convert, DecodesOrCopiesBlocks) {
  const std::string source = golden("gguf/mamba_types.gguf");
  ASSERT_TRUE(convert_checkpoint(source, out("a"), {}));
  const Model decoded = load_model(source, {.form = "f32"}).value();
  ConvertOptions widened;
  widened.dtype = DType::f32;
  ASSERT_TRUE(convert_checkpoint(source, out("b"), widened));
  EXPECT_EQ(load_model(out("b")).value().fingerprint(), decoded.fingerprint());
  EXPECT_EQ(load_model(out("a"), {.form = "f32"}).value().fingerprint(), decoded.fingerprint());
  ConvertOptions gguf;
  gguf.to_gguf = true;
  ASSERT_TRUE(convert_checkpoint(source, out("c.gguf"), gguf));
  expect_same_tensors(open_checkpoint(source).value().weights,
                      open_checkpoint(out("c.gguf")).value().weights);
  const auto expected = logits_of(source);
  EXPECT_TRUE(test::same_bits<float>(logits_of(out("c.gguf")), expected));
}

// As llama.cpp's converter does it.
TEST_F(Convert, LeavesFrequenciesAndLayersOfSeveralTokensOutOfGguf) {
  const Checkpoint checkpoint = open_checkpoint(golden("hf_f32")).value();
  const std::string source = out("source");
  fs::create_directories(source);
  fs::copy(golden("hf_f32/config.json"), source + "/config.json");
  const float number = 1.0F;
  const TensorView more{&number, DType::f32, {1}};
  std::vector<NamedTensor> tensors = {{"mtp.layers.0.eh_proj.weight", more},
                                      {"model.layers.0.self_attn.rotary_emb.inv_freq", more}};
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    tensors.push_back({name, entry.tensor});
  }
  write_safetensors(source + "/model.safetensors", tensors, {}).value();
  ConvertOptions gguf;
  gguf.to_gguf = true;
  const auto summary = convert_checkpoint(source, out("a.gguf"), gguf);
  ASSERT_TRUE(summary) << summary.error().message;
  EXPECT_EQ(summary->tensors, std::ssize(checkpoint.weights.entries()));
}

TEST_F(Convert, RefusesWhatItCannotWrite) {
  ConvertOptions gguf;
  gguf.to_gguf = true;
  ConvertOptions rounded;
  rounded.dtype = DType::f16;
  test::write_file(out("there.gguf"), "x");
  const std::pair<std::string, std::string> cases[] = {
      {error_of(golden("hf_falcon_f32"), out("x"), gguf), "expand: expected 2, the only one"},
      {error_of(golden("hf_no_conv_bias_use_bias"), out("x"), gguf), "use_bias: expected false"},
      {error_of(golden("hf_f32"), out("there.gguf"), gguf),
       "destination: expected the name of a new file, found one that exists"},
      {error_of(golden("hf_f32"), golden("hf_f32") + "/x"), "a place outside the source"},
      {error_of(golden("hf_aqlm_4x4g8"), out("x"), rounded), "expected floats to convert"},
      {error_of(golden("blackmamba"), out("x"), gguf), "expected"},
      {error_of(golden("hf_zamba2"), out("x"), gguf),
       "model_type: expected one of mamba, falcon_mamba, mamba2, llama, mistral, jamba, "
       "granitemoehybrid, nemotron_h, falcon_h1, found \"zamba2\""},
      {error_of(golden("gguf/granite.gguf"), out("x")),
       "model_type: expected a model whose gates transformers has as this file has them"},
      {error_of(out("absent"), out("x")), "absent"},
  };
  for (const auto& [found, expected] : cases) {
    EXPECT_NE(found.find(expected), std::string::npos) << found << "\ninstead of " << expected;
  }
  EXPECT_FALSE(fs::exists(out("x")));
  EXPECT_EQ(test::read_file(out("there.gguf")), "x");
  ConvertOptions options;
  const auto stop = [](Index, Index) { return Flow::stop; };
  const auto stopped = convert_checkpoint(golden("hf_f32"), out("x"), options, stop);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
  EXPECT_FALSE(fs::exists(out("x")));
}

// Kills the process after so many calls of the progress, or says stop.
class Interruption {
 public:
  Interruption(Index calls, bool kills) : calls_(calls), kills_(kills) {}
  Flow operator()(Index /*done*/, Index /*of*/) {
    if (calls_-- > 0) return Flow::go_on;
    if (kills_) std::raise(SIGKILL);
    return Flow::stop;
  }

 private:
  Index calls_;
  bool kills_;
};

std::vector<std::string> bytes_of(const std::string& path) {
  if (!fs::is_directory(path)) return {test::read_file(path)};
  std::vector<fs::path> files(fs::directory_iterator(path), {});
  std::ranges::sort(files);
  std::vector<std::string> bytes;
  for (const fs::path& file : files) {
    bytes.push_back(file.filename().string());
    bytes.push_back(test::read_file(file));
  }
  return bytes;
}

TEST_F(Convert, InterruptedAnywhereItLeavesNothingAndCanBeginAgain) {
  for (const bool to_gguf : {false, true}) {
    // Several files of a folder.
    const ConvertOptions options{.to_gguf = to_gguf, .shard_bytes = 20'000};
    const std::string whole = out(to_gguf ? "whole.gguf" : "whole");
    Index calls = 0;
    const auto count = [&](Index, Index) {
      ++calls;
      return Flow::go_on;
    };
    ASSERT_TRUE(convert_checkpoint(golden("hf_f32"), whole, options, count));
    ASSERT_GT(calls, 2);
    for (const bool kills : {false, true}) {
      for (const Index at : {Index{0}, Index{1}, calls / 2, calls - 1}) {
        SCOPED_TRACE(testing::Message() << (kills ? "killed" : "stopped") << " at call " << at
                                        << " of " << calls << (to_gguf ? ", to GGUF" : ""));
        const fs::path folder =
            out(std::to_string(to_gguf) + std::to_string(kills) + std::to_string(at));
        fs::create_directory(folder);
        const std::string result = (folder / (to_gguf ? "made.gguf" : "made")).string();
        Interruption interruption(at, kills);
        if (kills) {
          EXPECT_EXIT((void)convert_checkpoint(golden("hf_f32"), result, options, interruption),
                      testing::KilledBySignal(SIGKILL), "");
        } else {
          const auto stopped = convert_checkpoint(golden("hf_f32"), result, options, interruption);
          ASSERT_FALSE(stopped);
          EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
          EXPECT_TRUE(fs::is_empty(folder));
        }
        EXPECT_FALSE(fs::exists(result));
        const auto again = convert_checkpoint(golden("hf_f32"), result, options);
        ASSERT_TRUE(again) << again.error().message;
        EXPECT_EQ(bytes_of(result), bytes_of(whole));
      }
    }
  }
}

}  // namespace
}  // namespace krait::convert_test
