// Jamba (Lieber et al. 2024, arXiv:2403.19887): Mamba mixers whose dt, B and C have norms,
// attention without positions, and behind each SwiGLU or a mixture of such experts.

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_jamba(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "jamba";
}

Result<MambaSpec> read_jamba_mixer(const ConfigReader& config, float norm_eps) {
  MambaSpec mixer{.inner_norm_eps = norm_eps, .inner_norm_weights = true};
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, config.number("mamba_d_state", 1, 16));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, config.number("mamba_d_conv", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, config.number("mamba_expand", 1, 2));
  if (config.has("mamba_dt_rank") && config.value_text("mamba_dt_rank") != "\"auto\"") {
    KRAIT_ASSIGN_OR_RETURN(mixer.dt_rank, config.number("mamba_dt_rank", 1, std::nullopt));
  }
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, config.boolean("mamba_conv_bias", true));
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, config.boolean("mamba_proj_bias", false));
  KRAIT_ASSIGN_OR_RETURN(const bool has_norms, config.boolean("mamba_inner_layernorms", true));
  if (!has_norms) {
    return config.fail("mamba_inner_layernorms", "true", "false", ErrorCode::unsupported);
  }
  return mixer;
}

// Layers offset, offset + period, …
struct Every {
  Index period = 0;
  Index offset = 0;
  bool has(Index i) const noexcept { return i % period == offset; }
};

Result<Every> read_every(const ConfigReader& config, const std::string& what, Every fallback) {
  Every every;
  const std::string key = what + "_layer_offset";
  KRAIT_ASSIGN_OR_RETURN(every.period, config.number(what + "_layer_period", 1, fallback.period));
  KRAIT_ASSIGN_OR_RETURN(every.offset, config.number(key, 0, fallback.offset));
  if (every.offset < every.period) return every;
  return config.fail(key, fmt::format("less than {}_layer_period ({})", what, every.period),
                     fmt::to_string(every.offset));
}

Result<void> read_jamba(const ConfigReader& config, const TensorNames& tensors,
                        ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(const Outline outline, read_outline(config, "jamba", 1e-6F, result));
  result.spec.final_norm_name = "final_layernorm";
  KRAIT_ASSIGN_OR_RETURN(const AttentionSpec attention, read_attention(config, 8));
  KRAIT_ASSIGN_OR_RETURN(const MambaSpec mixer, read_jamba_mixer(config, outline.norm.eps));
  KRAIT_ASSIGN_OR_RETURN(const MlpSpec mlp, read_swiglu(config));
  KRAIT_ASSIGN_OR_RETURN(const Index n_expert, config.number("num_experts", 1, 16));
  KRAIT_ASSIGN_OR_RETURN(const Index top_k, config.number("num_experts_per_tok", 1, 2));
  const MoeSpec experts{.n_expert = n_expert,
                        .top_k = top_k,
                        .d_expert = mlp.d_hidden,
                        .router = {.score = kernels::RouterScore::softmax},
                        .activation = Activation::silu,
                        .gated = true,
                        .names = {.experts = "experts", .gate = "gate_proj"}};
  KRAIT_ASSIGN_OR_RETURN(const Every with_attention, read_every(config, "attn", {8, 4}));
  KRAIT_ASSIGN_OR_RETURN(const Every with_experts, read_every(config, "expert", {2, 1}));
  for (Index i = 0; i < outline.n_layer; ++i) {
    LayerSpec layer;
    const bool is_attention = with_attention.has(i);
    layer.residuals.push_back({"input_layernorm", outline.norm,
                               is_attention ? "self_attn" : "mamba",
                               is_attention ? BlockSpec(attention) : BlockSpec(mixer)});
    const bool is_mixture = n_expert > 1 && with_experts.has(i);
    // Early checkpoints call both kinds "moe".
    const bool is_early = tensors.has_in_layer(i, "moe.down_proj.weight") ||
                          tensors.has_in_layer(i, "moe.router.weight");
    layer.residuals.push_back({"pre_ff_layernorm", outline.norm, is_early ? "moe" : "feed_forward",
                               is_mixture ? BlockSpec(experts) : BlockSpec(mlp)});
    result.spec.layers.push_back(std::move(layer));
  }
  config.skip({"layer_types", "layers_block_type", "layers_num_experts"});  // which follow
  return {};
}

}  // namespace

const Family jamba_family{"jamba", is_jamba, read_jamba};

}  // namespace v0_1
}  // namespace krait
