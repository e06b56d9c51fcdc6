#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "krait/tools/aqlm.hpp"
#include "krait/tools/convert.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/relative_difference.hpp"
#include "tests/support/support.hpp"

namespace krait::aqlm_patterns_test {
namespace {

namespace fs = std::filesystem;

std::vector<float> logits_of(const Model& model) {
  return test::last_logits(model, std::vector<Token>{'T', 'h', 'e', ' ', 'c', 'a', 't', ' '});
}

// A hybrid of mixers, attention, networks and experts over bytes, whose head is its own and whose
// extents are multiples of 8.
constexpr const char* hybrid_config = R"({
  "architectures": ["JambaForCausalLM"], "model_type": "jamba", "vocab_size": 256,
  "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 4, "attn_layer_offset": 1,
  "attn_layer_period": 3, "expert_layer_offset": 1, "expert_layer_period": 2, "num_experts": 2,
  "num_experts_per_tok": 1, "num_attention_heads": 4, "num_key_value_heads": 2,
  "mamba_d_state": 4, "mamba_dt_rank": 8, "mamba_expand": 2, "mamba_d_conv": 4,
  "mamba_conv_bias": true, "mamba_proj_bias": false, "hidden_act": "silu", "rms_norm_eps": 1e-6,
  "tie_word_embeddings": false
})";

struct AqlmPatterns : testing::Test {
  std::string in(const std::string& name) const { return (folder.path() / name).string(); }

  static std::string draft() { return (test::bundled_models_dir() / "krait-bytes-draft").string(); }

  static std::string text() {
    return test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(0, 2000);
  }

  std::string hybrid() const {
    Checkpoint checkpoint;
    checkpoint.config = hybrid_config;
    const ModelConfig config = read_config(checkpoint).value();
    const ModelPlan plan = plan_model(config.spec, nullptr, config.prefix).value();
    std::vector<std::vector<float>> values;
    std::vector<NamedTensor> tensors;
    for (const TensorUse& use : plan.tensors) {
      values.push_back(test::random_floats(use.shape.size(), values.size()));
      const bool is_norm = use.name.find("norm") != std::string::npos;
      for (float& value : values.back()) value = is_norm ? 1.0F + 0.1F * value : 0.4F * value;
      tensors.push_back({use.name, {values.back().data(), DType::f32, use.shape}});
    }
    fs::create_directory(in("hybrid"));
    test::write_file(in("hybrid/config.json"), hybrid_config);
    EXPECT_TRUE(write_safetensors(in("hybrid/model.safetensors"), tensors));
    return in("hybrid");
  }

  Result<AqlmReport> run(const std::string& model, const std::string& to,
                         const AqlmOptions& options) const {
    ThreadPool pool(2);
    return quantize_aqlm(model, in(to), options, pool);
  }

  // That a checkpoint runs, by the decoded weights to the bit as dense ones do.
  void expect_exact(const std::string& name) const {
    const std::vector<float> exact =
        logits_of(load_model(in(name), {.form = "aqlm-exact"}).value());
    const std::vector<float> dense = logits_of(load_model(in(name), {.form = "f32"}).value());
    EXPECT_TRUE(test::same_bits(std::span<const float>(exact), std::span<const float>(dense)));
    const std::vector<float> tables = logits_of(load_model(in(name)).value());
    EXPECT_LT(test::relative_difference(tables, exact), 0.2);
  }

  // The entries of linear_weights_not_to_quantize.
  std::set<std::string> listed(const std::string& name) const {
    const std::string config = open_checkpoint(in(name)).value().config;
    const std::size_t first = config.find('[', config.find("linear_weights_not_to_quantize"));
    const std::size_t end = config.find(']', first);
    std::set<std::string> names;
    for (std::size_t at = first; (at = config.find('"', at)) < end;) {
      const std::size_t last = config.find('"', at + 1);
      names.insert(config.substr(at + 1, last - at - 1));
      at = last + 1;
    }
    return names;
  }

  test::TemporaryDirectory folder;
};

std::set<std::string> names_of(const AqlmReport& report) {
  std::set<std::string> names;
  for (const AqlmMatrixReport& matrix : report.matrices) names.insert(matrix.name);
  return names;
}

TEST_F(AqlmPatterns, QuantiseTheSmallMatricesOfMixers) {
  ASSERT_TRUE(convert_checkpoint(draft(), in("f32"), {.dtype = DType::f32}));
  const AqlmReport report = run(in("f32"), "new",
                                {.scheme = {2, 8, 4},
                                 .calibration = text(),
                                 .keep = {"*.layers.1.mixer.dt_proj"},
                                 .quantize = {"*.x_proj", "*.dt_proj"},
                                 .tune_tokens = 2048})
                                .value();
  ASSERT_EQ(report.matrices.size(), 7U);
  // In the order in which the block runs them.
  EXPECT_EQ(report.matrices[1].name, "backbone.layers.0.mixer.x_proj");
  EXPECT_EQ(report.matrices[2].name, "backbone.layers.0.mixer.dt_proj");
  EXPECT_EQ(report.matrices[2].in, 4);
  ASSERT_TRUE(report.tuning);
  EXPECT_LE(report.tuning->last, report.tuning->first);
  expect_exact("new");
  EXPECT_LT(test::relative_difference(logits_of(load_model(in("new")).value()),
                                      logits_of(load_model(draft()).value())),
            0.5);
  const std::set<std::string> names = listed("new");
  EXPECT_FALSE(names.contains("backbone.layers.0.mixer.dt_proj"));
  EXPECT_FALSE(names.contains("backbone.layers.0.mixer.dt_proj.weight"));
  EXPECT_TRUE(names.contains("backbone.layers.0.mixer.dt_proj.bias"));
  EXPECT_TRUE(names.contains("backbone.layers.1.mixer.dt_proj"));
  EXPECT_TRUE(names.contains("lm_head"));
  const Checkpoint made = open_checkpoint(in("new")).value();
  EXPECT_TRUE(made.weights.contains("backbone.layers.0.mixer.dt_proj.codes"));
  EXPECT_FALSE(made.weights.contains("backbone.layers.0.mixer.dt_proj.weight"));
}

// Mixers, attention, networks, experts and the head; not the embedding, nor routers.
TEST_F(AqlmPatterns, QuantiseAllLinearMapsOfAHybrid) {
  const std::string model = hybrid();
  const AqlmOptions options{.scheme = {2, 8, 8},
                            .calibration = text(),
                            .keep = {"*.v_proj"},
                            .quantize = {"*"},
                            .tune_tokens = 0};
  const AqlmReport report = run(model, "new", options).value();
  std::set<std::string> expected = {"lm_head"};
  for (int layer = 0; layer < 4; ++layer) {
    const std::string at = fmt::format("model.layers.{}.", layer);
    for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
      for (const std::string part : {"experts.0.", "experts.1."}) {
        if (layer % 2 == 1) expected.insert(at + "feed_forward." + part + name);
      }
      if (layer % 2 == 0) expected.insert(at + "feed_forward." + name);
    }
    for (const char* name : {"q_proj", "k_proj", "o_proj"}) {
      if (layer == 1) expected.insert(at + "self_attn." + name);
    }
    for (const char* name : {"in_proj", "x_proj", "dt_proj", "out_proj"}) {
      if (layer != 1) expected.insert(at + "mamba." + name);
    }
  }
  EXPECT_EQ(names_of(report), expected);
  EXPECT_EQ(report.matrices.back().name, "lm_head");
  for (const AqlmMatrixReport& matrix : report.matrices) EXPECT_LT(matrix.error, 0.2);
  expect_exact("new");
  const std::set<std::string> names = listed("new");
  for (const std::string& name : expected) {
    EXPECT_FALSE(names.contains(name)) << name;
    EXPECT_FALSE(names.contains(name + ".weight")) << name;
  }
  for (const char* name : {"model.embed_tokens", "model.layers.1.self_attn.v_proj",
                           "model.layers.1.feed_forward.router"}) {
    EXPECT_TRUE(names.contains(name)) << name;
  }
}

// The head reads what the last layer leaves, behind the final norm; moments, weights of outputs
// and tuning know it, too.
TEST_F(AqlmPatterns, QuantiseAHeadOfItsOwn) {
  const std::string model = hybrid();
  AqlmOptions options{.scheme = {2, 8, 8},
                      .calibration = text(),
                      .save_moments = in("moments"),
                      .quantize = {"lm_head"},
                      .tune_tokens = 0};
  const AqlmReport report = run(model, "new", options).value();
  EXPECT_EQ(report.matrices.back().name, "lm_head");
  EXPECT_EQ(report.matrices.back().out, 256);
  EXPECT_GT(report.matrices.back().error, 0.0);
  expect_exact("new");
  AqlmOptions again = options;
  again.calibration.reset();
  again.save_moments.reset();
  again.moments = in("moments");
  ASSERT_TRUE(run(model, "again", again));
  EXPECT_EQ(test::read_file(in("again/model.safetensors")),
            test::read_file(in("new/model.safetensors")));

  options.save_moments.reset();
  options.preset = "fast";
  options.weigh = "fisher";
  options.tune_tokens = 1024;
  const auto tuned = run(model, "tuned", options);
  ASSERT_TRUE(tuned) << tuned.error().message;
  EXPECT_TRUE(tuned->tuning);
  expect_exact("tuned");
}

TEST_F(AqlmPatterns, ThatFitNothingToQuantiseSayWhatThereIs) {
  const auto message = [&](const std::vector<std::string>& patterns, const AqlmScheme& scheme) {
    const auto result = run(draft(), "bad", {.scheme = scheme, .quantize = patterns});
    EXPECT_FALSE(fs::exists(in("bad")));
    EXPECT_FALSE(fs::exists(in("bad.partial")));
    return result ? std::string("none") : result.error().message;
  };
  const std::string expected =
      "[aqlm] quantize: expected a pattern that fits one of backbone.layers.*.mixer.dt_proj, "
      "backbone.layers.*.mixer.in_proj, backbone.layers.*.mixer.out_proj, "
      "backbone.layers.*.mixer.x_proj, found ";
  EXPECT_EQ(message({"*.x_proj", "*.q_proj"}, {2, 8, 4}), expected + "'*.q_proj', which fits none");
  EXPECT_EQ(message({"*embeddings"}, {2, 8, 4}),
            expected + "'*embeddings', which fits backbone.embeddings.weight");
  EXPECT_EQ(message({"*.dt_proj"}, {2, 8, 8}),
            "[aqlm] backbone.layers.0.mixer.dt_proj: expected inputs in groups of 8, found 4 "
            "inputs");
}

}  // namespace
}  // namespace krait::aqlm_patterns_test
