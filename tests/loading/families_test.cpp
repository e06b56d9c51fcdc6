// Configurations of families with attention: what spec they give, and what is refused.

#include <gtest/gtest.h>

#include "krait/loading/registry.hpp"

namespace krait {
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

TEST(Families, RefuseWhatTheyCannotRun) {
  const struct {
    std::string config;
    const char* part;
  } table[] = {
      {of("llama", R"("rope_scaling":{"rope_type":"yarn","factor":2})"),
       "rope_scaling.rope_type: expected default, linear or llama3, found yarn"},
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
}  // namespace krait
