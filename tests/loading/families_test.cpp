// Configurations of families with attention: what spec they give, and what is refused.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "krait/loading/registry.hpp"
#include "krait/models/builder.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"

namespace krait::families_test {
namespace {

Result<ModelConfig> read(const std::string& config) {
  Checkpoint checkpoint;
  checkpoint.path = "somewhere";
  checkpoint.config = config;
  return read_config(checkpoint);
}

std::string of(const std::string& type, const std::string& more) {
  return R"({"model_type":")" + type +
         R"(","hidden_size":24,"num_hidden_layers":3,"vocab_size":40,"num_attention_heads":3,)"
         R"("num_key_value_heads":1,"intermediate_size":20)" +
         (more.empty() ? "" : ",") + more + "}";
}

const std::string small_mamba2 = R"("mamba_n_heads":6,"mamba_d_head":8)";
const std::string small_nemotron =
    R"("mamba_num_heads":6,"mamba_head_dim":8,"n_groups":2,"head_dim":8)";

template <class Spec>
Spec block(const ModelConfig& config, std::size_t layer, std::size_t residual) {
  return std::get<Spec>(config.spec.layers.at(layer).residuals.at(residual).block);
}

TEST(Families, OfLlamaHaveScaledPositions) {
  const auto config =
      read(of("llama", R"("head_dim":10,"rope_theta":5e5,"attention_bias":true,"rope_scaling":{)"
                       R"("rope_type":"llama3","factor":8.0,"low_freq_factor":1.0,)"
                       R"("high_freq_factor":4.0,"original_max_position_embeddings":8192})"))
          .value();
  const auto attention = block<AttentionSpec>(config, 2, 0);
  EXPECT_EQ(attention.n_kv_head, 1);
  EXPECT_EQ(attention.d_head, 10);
  EXPECT_TRUE(attention.bias && attention.out_bias);
  EXPECT_EQ(attention.rotary->theta, 5e5);
  EXPECT_EQ(attention.rotary->factor, 8.0);
  EXPECT_EQ(attention.rotary->original_context, 8192);
  EXPECT_EQ(block<MlpSpec>(config, 2, 1).gate, "gate_proj");
  EXPECT_TRUE(config.ignored.empty());
}

// Of YaRN, what transformers computes (_compute_yarn_parameters) for these.
TEST(Families, ReadYarnAsTransformersDoes) {
  const auto read_yarn = [](const std::string& keys) {
    return block<AttentionSpec>(
        read(of("llama", R"("head_dim":16,"max_position_embeddings":1024,"rope_theta":100.0,)"
                         R"("rope_scaling":{"type":"yarn",)" +
                             keys + "}"))
            .value(),
        0, 0);
  };
  const AttentionSpec plain = read_yarn(R"("factor":4.0,"original_max_position_embeddings":256)");
  EXPECT_TRUE(plain.rotary->yarn && plain.rotary->whole_pairs);
  EXPECT_EQ(plain.rotary->factor, 4.0);
  EXPECT_EQ(plain.rotary->high_turns, 32.0);
  EXPECT_EQ(plain.rotary->low_turns, 1.0);
  EXPECT_FLOAT_EQ(plain.scale, 0.25F * 1.1386294F * 1.1386294F);
  const AttentionSpec given = read_yarn(
      R"("original_max_position_embeddings":512,"beta_fast":8,"beta_slow":2,"truncate":false,)"
      R"("attention_factor":0.5)");
  EXPECT_EQ(given.rotary->factor, 2.0);
  EXPECT_FALSE(given.rotary->whole_pairs);
  EXPECT_FLOAT_EQ(given.scale, 0.0625F);
  // From the second pair on more of each is divided, of the last one all.
  const std::vector<double> frequencies = plain.rotary->frequencies();
  ASSERT_EQ(frequencies.size(), 8U);
  for (std::size_t i = 0; i < 8; ++i) {
    const double full = std::pow(100.0, -static_cast<double>(i) / 8.0);
    const double part = std::clamp(static_cast<double>(i) / 7.0, 0.0, 1.0);
    EXPECT_NEAR(frequencies[i], full * (1.0 - part) + full / 4.0 * part, 1e-12) << i;
  }
}

TEST(Families, OfMistralHaveAWindowUnlessItIsNull) {
  EXPECT_EQ(block<AttentionSpec>(read(of("mistral", "")).value(), 0, 0).window, 4096);
  const auto of_window = [](const std::string& window) {
    return block<AttentionSpec>(read(of("mistral", R"("sliding_window":)" + window)).value(), 0, 0)
        .window;
  };
  EXPECT_EQ(of_window("12"), 12);
  EXPECT_EQ(of_window("null"), 0);
}

TEST(Families, OfBambaRotateHalfOfEachHead) {
  const auto config =
      read(of("bamba", small_mamba2 + R"(,"attn_layer_indices":[1],"head_dim":8)")).value();
  EXPECT_EQ(block<AttentionSpec>(config, 1, 0).rotary->dim, 4);
  EXPECT_EQ(block<Mamba2Spec>(config, 0, 0).d_inner, 48);
  EXPECT_EQ(config.spec.layers[1].residuals[1].norm_name, "pre_ff_layernorm");
}

TEST(Families, OfGraniteHaveFactorsAndExpertsBesideANetwork) {
  const auto config =
      read(of("granitemoehybrid", small_mamba2 + R"(,"layer_types":["mamba","attention",)"
                                                 R"("mamba"],"embedding_multiplier":12,)"
                                                 R"("residual_multiplier":0.22,)"
                                                 R"("attention_multiplier":0.015625,)"
                                                 R"("logits_scaling":8)"))
          .value();
  EXPECT_EQ(config.spec.embedding.scale, 12.0F);
  EXPECT_EQ(config.spec.logit_scale, 0.125F);
  const auto& residuals = config.spec.layers[1].residuals;
  EXPECT_EQ(residuals[0].scale, 0.22F);
  const auto attention = block<AttentionSpec>(config, 1, 0);
  EXPECT_EQ(attention.scale, 0.015625F);
  EXPECT_FALSE(attention.rotary.has_value());
  EXPECT_EQ(block<MoeSpec>(config, 1, 1).router.score, kernels::RouterScore::softmax_of_chosen);
  EXPECT_TRUE(residuals[2].beside);
  EXPECT_EQ(residuals[2].norm_name, residuals[1].norm_name);
}

TEST(Families, OfNemotronReadBothKindsOfPatterns) {
  const auto letters =
      read(of("nemotron_h", small_nemotron + R"(,"hybrid_override_pattern":"M-*E")")).value();
  const auto words =
      read(of("nemotron_h", small_nemotron + R"(,"layers_block_type":["mamba","mlp","attention",)"
                                             R"("moe"])"))
          .value();
  EXPECT_EQ(letters.spec, words.spec);
  EXPECT_EQ(letters.spec.layers.size(), 4U);
  EXPECT_EQ(block<MlpSpec>(letters, 1, 0).activation, Activation::relu_squared);
}

TEST(Families, OfNemotronKnowEarlyNamesOfKeys) {
  const auto config = read(of("nemotron_h", small_nemotron + R"(,"hybrid_override_pattern":"M",)"
                                                             R"("mamba_conv_bias":false,)"
                                                             R"("mamba_dt_limit":[0.01,0.1])"))
                          .value();
  const auto mixer = block<Mamba2Spec>(config, 0, 0);
  EXPECT_FALSE(mixer.conv_bias);
  EXPECT_EQ(mixer.dt_min, 0.01F);
  EXPECT_EQ(mixer.dt_max, 0.1F);
  EXPECT_TRUE(config.ignored.empty());
}

// The default of these classes is that of a key that is missing.
TEST(Families, HaveAsManyHeadsOfKeysWhereTheNumberIsNull) {
  std::string config = of("bamba", small_mamba2 + R"(,"attn_layer_indices":[0])");
  const std::string key = R"("num_key_value_heads":1)";
  config.replace(config.find(key), key.size(), R"("num_key_value_heads":null)");
  const auto attention = block<AttentionSpec>(read(config).value(), 0, 0);
  EXPECT_EQ(attention.resolved(24).n_kv_head, 3);
}

TEST(Families, OfFalconH1FoldFactorsIntoScalesOfScoresAndOutputs) {
  const auto config =
      read(of("falcon_h1", R"("mamba_n_heads":4,"mamba_d_head":8,"mamba_d_ssm":32,"head_dim":16,)"
                           R"("attention_in_multiplier":2,"attention_out_multiplier":0.5,)"
                           R"("key_multiplier":0.25,"ssm_in_multiplier":2,)"
                           R"("ssm_multipliers":[1,2,3,4,5],"mlp_multipliers":[3,0.5])"))
          .value();
  const auto& residuals = config.spec.layers[0].residuals;
  EXPECT_EQ(block<AttentionSpec>(config, 0, 1).scale, 0.25F * 2 * 2 * 0.25F);
  EXPECT_EQ(residuals[1].scale, 1.0F);
  EXPECT_TRUE(residuals[1].beside);
  EXPECT_FALSE(residuals[2].beside);
  EXPECT_EQ(residuals[2].scale, 0.5F);
  EXPECT_EQ(block<Mamba2Spec>(config, 0, 0).scales.C, 8.0F);
  EXPECT_EQ(block<MlpSpec>(config, 0, 2).gate_scale, 3.0F);
}

const std::string small_zamba2 =
    R"("n_mamba_heads":6,"layers_block_type":["hybrid","mamba","hybrid"],"adapter_rank":7)";

TEST(Families, OfZamba2ShareBlocksThatReadTheEmbedding) {
  const auto config = read(of("zamba2", small_zamba2 + R"(,"use_mem_rope":true)")).value();
  const auto& layers = config.spec.layers;
  ASSERT_EQ(layers.size(), 3U);
  const auto shared = block<SharedTransformerSpec>(config, 2, 0);
  EXPECT_TRUE(layers[2].residuals[0].aside);
  EXPECT_EQ(layers[2].residuals[0].weights_of, 0);
  EXPECT_EQ(layers[1].residuals.size(), 1U);
  EXPECT_EQ(shared.attention.d_head, 16);
  EXPECT_FLOAT_EQ(shared.attention.scale, 1.0F / std::sqrt(8.0F));
  EXPECT_EQ(shared.attention.rotary->dim, 16);
  EXPECT_EQ(shared.attention.adapter_rank, 0);
  EXPECT_EQ(shared.mlp.adapter, "gate_up_proj_adapter_list.1");
  EXPECT_EQ(shared.mlp.adapter_rank, 7);
  EXPECT_EQ(shared.mlp.activation, Activation::gelu);
  EXPECT_EQ(block<Mamba2Spec>(config, 1, 0).head_dim, 8);
  EXPECT_TRUE(config.spec.tied_head);
  EXPECT_TRUE(config.ignored.empty());
  // Two blocks take turns.
  const auto two = read(of("zamba2", small_zamba2 + R"(,"num_mem_blocks":2,)"
                                                    R"("use_shared_attention_adapter":true)"))
                       .value();
  EXPECT_EQ(two.spec.layers[0].residuals[0].weights_of, 0);
  EXPECT_EQ(two.spec.layers[2].residuals[0].weights_of, 2);
  EXPECT_EQ(block<SharedTransformerSpec>(two, 2, 0).attention.names.k_adapter,
            "linear_k_adapter_list.1");
}

// Some writers keep the shared tensors under the name of the last layer that uses them.
TEST(Families, OfZamba2FindSharedTensorsUnderTheNameOfAnyUser) {
  const std::string folder = (test::data_dir() / "golden/hf_zamba2").string();
  const auto logits_of = [](const Checkpoint& checkpoint, Index owner) {
    const ModelConfig config = read_config(checkpoint).value();
    for (const std::size_t layer : {1U, 4U}) {
      EXPECT_EQ(config.spec.layers[layer].residuals[0].weights_of, owner);
    }
    EXPECT_EQ(config.spec.layers[3].residuals[0].weights_of, 3);
    const Model model = build_model(config.spec, checkpoint.weights, config.prefix).value();
    EXPECT_TRUE(model.plan().unused.empty());
    EXPECT_EQ(model.vocab_padded(), 44);
    return test::all_logits(model, std::vector<Token>{3, 1, 4, 1, 5});
  };
  const Checkpoint checkpoint = open_checkpoint(folder).value();
  Checkpoint renamed = checkpoint;
  renamed.weights = {};
  for (const auto& [name, entry] : checkpoint.weights.entries()) {
    std::string other = name;
    const std::string own = "layers.1.shared_transformer";
    if (const std::size_t at = name.find(own); at != name.npos) other[at + 7] = '4';
    renamed.weights.add(other, entry.tensor, nullptr);
  }
  EXPECT_EQ(logits_of(checkpoint, 1), logits_of(renamed, 4));
}

TEST(Families, RefuseWhatTheyCannotRun) {
  std::string many_layers = R"("mamba")";
  for (int i = 0; i < 4096; ++i) many_layers += R"(,"mamba")";
  const struct {
    std::string config;
    const char* part;
  } table[] = {
      {of("llama", R"("partial_rotary_factor":0.5,"rope_scaling":{"rope_type":"yarn","factor":2})"),
       "partial_rotary_factor: expected 1, beside a factor of queries and keys, found 0.5"},
      {of("llama", R"("rope_scaling":{"rope_type":"yarn","factor":2,"attention_factor":0})"),
       "rope_scaling.attention_factor: expected a number above 0, found 0"},
      {of("llama", R"("rope_scaling":{"rope_type":"longrope","factor":2})"),
       "rope_scaling.rope_type: expected default, linear, llama3 or yarn, found longrope"},
      {of("llama", R"("hidden_act":"gelu")"), "hidden_act: expected silu, found gelu"},
      {of("llama", R"("partial_rotary_factor":2)"), "partial_rotary_factor"},
      {of("mistral", R"("sliding_window":-1)"), "sliding_window: expected a whole number"},
      {of("bamba", small_mamba2 + R"(,"attn_layer_indices":[3])"),
       "attn_layer_indices: expected a list of numbers from 0 to 2, found [3]"},
      {of("bamba", R"("mamba_n_heads":5,"mamba_d_head":8)"),
       "mamba_n_heads: expected 48 channels in heads of 8, found 5 heads"},
      {of("granitemoehybrid", small_mamba2 + R"(,"layer_types":["mamba"])"),
       "layer_types: expected one entry per layer (3), found 1"},
      {of("granitemoehybrid", small_mamba2 + R"(,"layer_types":["mamba","mamba","rwkv"])"),
       "layer_types: expected one of mamba, linear_attention, attention, full_attention, found "
       "rwkv"},
      {of("granitemoehybrid", small_mamba2 + R"(,"logits_scaling":0)"), "logits_scaling"},
      {of("granitemoehybrid", small_mamba2 + R"(,"position_embedding_type":"alibi")"),
       "position_embedding_type: expected rope or nope, found alibi"},
      {of("jamba", R"("attn_layer_period":2,"attn_layer_offset":2)"),
       "attn_layer_offset: expected less than attn_layer_period (2), found 2"},
      {of("jamba", R"("mamba_inner_layernorms":false)"), "mamba_inner_layernorms"},
      {of("nemotron_h", small_nemotron + R"(,"hybrid_override_pattern":"MX")"),
       "hybrid_override_pattern: expected letters M, *, - and E, found \"X\""},
      {of("nemotron_h", small_nemotron), "hybrid_override_pattern: expected 1 to 4096 layers"},
      {of("nemotron_h", small_nemotron + R"(,"layers_block_type":[)" + many_layers + "]"),
       "layers_block_type: expected at most 4096 layers, found 4097"},
      {of("nemotron_h", small_nemotron + R"(,"hybrid_override_pattern":"ME","moe_latent_size":8)"),
       "moe_latent_size: expected none, found 8"},
      {of("nemotron_h", small_nemotron + R"(,"hybrid_override_pattern":"ME","n_group":2)"),
       "n_group: expected 1, found 2"},
      {of("falcon_h1", R"("mamba_n_heads":4,"mamba_d_head":8,"mamba_d_ssm":24)"),
       "mamba_n_heads: expected 24 channels in heads of 8, found 4 heads"},
      {of("falcon_h1", R"("mamba_n_heads":4,"mamba_d_head":8,"mamba_d_ssm":32,)"
                       R"("ssm_multipliers":[1,2])"),
       "ssm_multipliers: expected 5 finite numbers, found [1,2]"},
      {R"({"d_model":16,"n_layer":2,"vocab_size":41,"attn_layer_idx":[1],"attn_cfg":{)"
       R"("num_heads":2}})",
       "attn_cfg.causal: expected true, found false"},
      {R"({"d_model":16,"n_layer":2,"vocab_size":41,"attn_layer_idx":[1]})",
       "attn_cfg.num_heads: expected a number, found none"},
      {of("zamba2", R"("n_mamba_heads":6)"),
       "layers_block_type: expected one entry per layer (3), found 0"},
      {of("zamba2", R"("n_mamba_heads":6,"layers_block_type":["mamba","mamba","attention"])"),
       "layers_block_type: expected one of mamba, linear_attention, hybrid, found attention"},
      {of("zamba2", small_zamba2 + R"(,"mamba_headdim":7)"),
       "n_mamba_heads: expected 48 channels in heads of 7, found 6 heads"},
      {of("zamba2", small_zamba2 + R"(,"use_long_context":true)"),
       "use_long_context: expected false, found true"},
      {of("zamba2", small_zamba2 + R"(,"hidden_act":"silu")"), "hidden_act: expected gelu"},
      {of("zamba2", small_zamba2 + R"(,"use_conv_bias":false)"), "use_conv_bias: expected true"},
      {of("rwkv7", ""), "model_type: expected one of mamba, "},
  };
  for (const auto& bad : table) {
    const auto result = read(bad.config);
    ASSERT_FALSE(result) << bad.part;
    const std::string& message = result.error().message;
    EXPECT_NE(message.find(bad.part), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
}

}  // namespace
}  // namespace krait::families_test
