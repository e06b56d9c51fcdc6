// Falcon-H1, whose factors are multiplied into the matrices of such a file.

#include <fmt/format.h>

#include <algorithm>

#include "loading/families/falcon_h1.hpp"
#include "loading/layouts/gguf/hybrid_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Result<void> configure_falcon(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const HybridSizes sizes,
                         configure_hybrid(keys, "falcon_h1", "FalconH1ForCausalLM", config));
  KRAIT_RETURN_IF_ERROR(set_epsilon(keys, "rms_norm_eps", config));
  config.set("hidden_act", std::string("silu"));
  KRAIT_RETURN_IF_ERROR(set_head_dim(keys, sizes, config));
  if (std::ranges::count(sizes.kv_heads, 0) > 0) {
    return keys.fail("attention.head_count_kv", "attention in every layer", "a layer without");
  }
  if (keys.has_tensor("rope_freqs.weight")) {
    return keys.fail("rope_freqs.weight", "no frequencies of its own", "a tensor of them");
  }
  KRAIT_ASSIGN_OR_RETURN(const std::string scaling, keys.text("rope.scaling.type", "linear"));
  KRAIT_ASSIGN_OR_RETURN(const double factor, rope_factor(keys));
  if (scaling != "none" && (scaling != "linear" || factor != 1.0)) {
    return keys.fail("rope.scaling.type", "none", fmt::format("{} by {}", scaling, factor));
  }
  KRAIT_ASSIGN_OR_RETURN(const Index d_hidden, keys.number("feed_forward_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const double theta, keys.real("rope.freq_base", 10000.0F));
  KRAIT_ASSIGN_OR_RETURN(const Index d_inner, keys.number("ssm.inner_size", 1));
  config.set("intermediate_size", d_hidden);
  config.set("rope_theta", theta);
  config.set("mlp_bias", keys.has_tensor("blk.0.ffn_up.bias"));
  config.set("mamba_d_ssm", d_inner);
  KRAIT_RETURN_IF_ERROR(configure_mixer(keys, 0, mamba_keys, config));
  config.set("projectors_bias", keys.has_tensor("blk.0.ssm_out.bias"));
  config.set("mamba_rms_norm", keys.has_tensor("blk.0.ssm_norm.weight"));
  config.set("mamba_norm_before_gate", false);
  return {};
}

Result<void> describe_falcon(const ConfigReader& config, const ModelSpec& spec,
                             ConfigObject& metadata) {
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("falcon-h1.{}", key), std::move(value));
  };
  const auto* mixer = find_block<Mamba2Spec>(spec);
  const auto* stored = find_block<AttentionSpec>(spec);
  const auto* mlp = find_block<MlpSpec>(spec);
  if (mixer == nullptr || stored == nullptr || !stored->rotary || mlp == nullptr) {
    return config.fail("model_type", "layers of a mixer, attention and a network",
                       "another family's");
  }
  const AttentionSpec attention = stored->resolved(spec.d_model());
  KRAIT_RETURN_IF_ERROR(check_mixer(config, *mixer));
  if (mixer->norm == GatedNorm::before_gate) {
    return config.fail("mamba_norm_before_gate", "false", "true", ErrorCode::unsupported);
  }
  const RotarySpec& rotary = *attention.rotary;
  if (!(rotary == RotarySpec{.theta = rotary.theta, .dim = attention.d_head})) {
    const char* key = config.has("rope_scaling") ? "rope_scaling" : "rope_parameters";
    return config.fail(key, "all channels rotated and none scaled", config.value_text(key),
                       ErrorCode::unsupported);
  }
  KRAIT_ASSIGN_OR_RETURN(const FalconFactors factors, read_falcon_factors(config));
  if (spec.tied_head && factors.embedding != factors.head) {
    return config.fail("tie_word_embeddings", "false, beside other factors of embedding and head",
                       "true", ErrorCode::unsupported);
  }
  KRAIT_ASSIGN_OR_RETURN(const Index context, config.number("max_position_embeddings", 1, 8192));
  describe_sizes(spec, attention.n_head, "falcon-h1", metadata);
  describe_mixer(*mixer, "falcon-h1", metadata);
  set("context_length", context);
  set("feed_forward_length", mlp->d_hidden);
  set("attention.head_count_kv", attention.n_kv_head);
  set("attention.key_length", attention.d_head);
  set("attention.value_length", attention.d_head);
  set("rope.freq_base", rotary.theta);
  return {};
}

#define KRAIT_LAYER "model.layers.*."
Result<std::vector<RowFactor>> factors_of_falcon(const ConfigReader& config, const ModelSpec& spec,
                                                 std::string_view name) {
  const Mamba2Spec mixer =
      find_block<Mamba2Spec>(spec)->resolved(spec.d_model());  // `describe` has seen it
  KRAIT_ASSIGN_OR_RETURN(const FalconFactors factors, read_falcon_factors(config));
  if (name == KRAIT_LAYER "mamba.in_proj.weight") {
    const Index d_state = mixer.n_group * mixer.d_state;
    std::vector<RowFactor> parts = {{mixer.d_ssm, factors.ssm[0]},      // z
                                    {mixer.d_ssm, factors.ssm[1]},      // x
                                    {d_state, factors.ssm[2]},          // B
                                    {d_state, factors.ssm[3]},          // C
                                    {mixer.n_head(), factors.ssm[4]}};  // dt
    bool changes = false;
    for (RowFactor& part : parts) {
      part.factor *= factors.ssm_in;
      changes = changes || part.factor != 1.0F;
    }
    if (!changes) parts.clear();
    return parts;
  }
  constexpr Index all = largest_extent;
  const std::pair<std::string_view, float> whole[] = {
      {"model.embed_tokens.weight", factors.embedding},
      {"lm_head.weight", factors.head},
      {KRAIT_LAYER "mamba.out_proj.weight", factors.ssm_out},
      {KRAIT_LAYER "self_attn.q_proj.weight", factors.attention_in},
      {KRAIT_LAYER "self_attn.k_proj.weight", factors.attention_in * factors.key},
      {KRAIT_LAYER "self_attn.v_proj.weight", factors.attention_in},
      {KRAIT_LAYER "self_attn.o_proj.weight", factors.attention_out},
      {KRAIT_LAYER "feed_forward.gate_proj.weight", factors.mlp[0]},
      {KRAIT_LAYER "feed_forward.down_proj.weight", factors.mlp[1]},
      // Factors of what comes out of a product are of its bias, too.
      {KRAIT_LAYER "self_attn.k_proj.bias", factors.key},
      {KRAIT_LAYER "self_attn.o_proj.bias", factors.attention_out},
      {KRAIT_LAYER "feed_forward.gate_proj.bias", factors.mlp[0]},
      {KRAIT_LAYER "feed_forward.down_proj.bias", factors.mlp[1]}};
  for (const auto& [matrix, factor] : whole) {
    if (name == matrix && factor != 1.0F) return std::vector<RowFactor>{{all, factor}};
  }
  return std::vector<RowFactor>{};
}

constexpr std::string_view falcon_types[] = {"falcon_h1"};

constexpr GgufName falcon_names[] = {
    KRAIT_OUTSIDE_NAMES("final_layernorm.weight"),
    {"blk.*.attn_norm.weight", KRAIT_LAYER "input_layernorm.weight"},
    KRAIT_MIXER2_NAMES(KRAIT_LAYER "mamba."),
    KRAIT_ATTENTION_NAMES(KRAIT_LAYER "self_attn."),
    {"blk.*.ffn_norm", KRAIT_LAYER "pre_ff_layernorm.weight"},
    {"blk.*.ffn_norm.weight", KRAIT_LAYER "pre_ff_layernorm.weight", GgufShape::same,
     GgufValues::same, GgufRows::all, GgufUse::never},
    {"blk.*.ffn_gate.weight", KRAIT_LAYER "feed_forward.gate_proj.weight"},
    {"blk.*.ffn_up.weight", KRAIT_LAYER "feed_forward.up_proj.weight"},
    {"blk.*.ffn_down.weight", KRAIT_LAYER "feed_forward.down_proj.weight"},
    {"blk.*.ffn_gate.bias", KRAIT_LAYER "feed_forward.gate_proj.bias"},
    {"blk.*.ffn_up.bias", KRAIT_LAYER "feed_forward.up_proj.bias"},
    {"blk.*.ffn_down.bias", KRAIT_LAYER "feed_forward.down_proj.bias"},
};
#undef KRAIT_LAYER

}  // namespace

const GgufArchitecture gguf_falcon_h1{"falcon-h1",  falcon_types, configure_falcon, describe_falcon,
                                      falcon_names, nullptr,      factors_of_falcon};

}  // namespace v0_1
}  // namespace krait
