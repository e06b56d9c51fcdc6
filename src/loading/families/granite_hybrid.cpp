// Granite 4: Mamba-2 mixers or attention, and behind each a SwiGLU network that every token takes,
// with a mixture of experts beside it in the larger models. Embedding, residuals and logits have
// factors.

#include "loading/families/granite_hybrid.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_granite_hybrid(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "granitemoehybrid";
}

// Behind a mixer: the network of every token, and the experts in front of it.
Result<std::vector<ResidualSpec>> read_networks(const ConfigReader& config,
                                                const RmsNormSpec& norm) {
  std::vector<ResidualSpec> residuals;
  KRAIT_RETURN_IF_ERROR(check_silu(config, "hidden_act"));
  KRAIT_ASSIGN_OR_RETURN(const Index n_expert, config.number("num_local_experts", 0, 8));
  KRAIT_ASSIGN_OR_RETURN(const Index top_k, config.number("num_experts_per_tok", 0, 2));
  KRAIT_ASSIGN_OR_RETURN(const Index d_expert, config.number("intermediate_size", 1, 11008));
  KRAIT_ASSIGN_OR_RETURN(const Index d_shared, config.number("shared_intermediate_size", 1, 1024));
  const std::string down = "output_linear";
  // GGUF files have the gates in matrices of their own; layouts/gguf/ says so.
  KRAIT_ASSIGN_OR_RETURN(const bool is_joined, config.boolean("gate_in_input_linear", true));
  const std::string up = is_joined ? "input_linear" : "up_proj";
  const std::string gate = is_joined ? "" : "gate_proj";
  const std::string norm_name = "post_attention_layernorm";
  if (n_expert > 0) {
    residuals.push_back({norm_name, norm, "block_sparse_moe",
                         MoeSpec{.n_expert = n_expert,
                                 .top_k = top_k,
                                 .d_expert = d_expert,
                                 .router = {.score = kernels::RouterScore::softmax_of_chosen},
                                 .activation = Activation::silu,
                                 .gated = true,
                                 .names = {.router = "router.layer",
                                           .experts = is_joined ? "" : "experts",
                                           .up = up,
                                           .down = is_joined ? down : "down_proj",
                                           .gate = gate}}});
  }
  residuals.push_back({.norm_name = norm_name,
                       .norm = norm,
                       .block_name = "shared_mlp",
                       .block = MlpSpec{.d_hidden = d_shared, .up = up, .down = down, .gate = gate},
                       .beside = n_expert > 0});
  return residuals;
}

Result<void> read_granite_hybrid(const ConfigReader& config, const TensorNames& /*tensors*/,
                                 ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(const Outline outline,
                         read_outline(config, "granitemoehybrid", 1e-6F, result));
  ModelSpec& spec = result.spec;
  spec.final_norm_name = "norm";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.scale, config.positive_float("embedding_multiplier", 1.0F));
  KRAIT_ASSIGN_OR_RETURN(const double scaling, config.real("logits_scaling", 1.0));
  if (scaling == 0.0) return config.fail("logits_scaling", "another number", "0");
  spec.logit_scale = static_cast<float>(1.0 / scaling);
  KRAIT_ASSIGN_OR_RETURN(const float scale, config.positive_float("residual_multiplier", 1.0F));

  KRAIT_ASSIGN_OR_RETURN(const auto kinds,
                         read_layer_kinds(config, {LayerKind::mixer, LayerKind::attention}));
  if (!kinds.empty() && std::ssize(kinds) != outline.n_layer) {
    return config.fail("layer_types", fmt::format("one entry per layer ({})", outline.n_layer),
                       fmt::to_string(kinds.size()));
  }
  KRAIT_ASSIGN_OR_RETURN(const AttentionSpec attention, read_granite_attention(config, result));
  KRAIT_ASSIGN_OR_RETURN(const Mamba2Spec mixer, read_mamba2(config, outline.norm.eps));
  KRAIT_RETURN_IF_ERROR(
      check_channels(config, "mamba_n_heads", mixer, mixer.expand * spec.d_model()));
  KRAIT_ASSIGN_OR_RETURN(const auto networks, read_networks(config, outline.norm));
  for (Index i = 0; i < outline.n_layer; ++i) {
    LayerSpec layer;
    const bool is_mixer = kinds.empty() || kinds[static_cast<std::size_t>(i)] == LayerKind::mixer;
    layer.residuals.push_back({"input_layernorm", outline.norm, is_mixer ? "mamba" : "self_attn",
                               is_mixer ? BlockSpec(mixer) : BlockSpec(attention)});
    layer.residuals.insert(layer.residuals.end(), networks.begin(), networks.end());
    for (ResidualSpec& residual : layer.residuals) residual.scale = scale;
    spec.layers.push_back(std::move(layer));
  }
  return {};
}

}  // namespace

Result<AttentionSpec> read_granite_attention(const ConfigReader& config, ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(AttentionSpec attention, read_attention(config));
  KRAIT_ASSIGN_OR_RETURN(const double scale, config.real("attention_multiplier", 1.0));
  if (scale == 0.0) return config.fail("attention_multiplier", "another number", "0");
  attention.scale = static_cast<float>(scale);
  KRAIT_ASSIGN_OR_RETURN(const std::string positions,
                         config.text("position_embedding_type", "nope"));
  if (positions != "nope" && positions != "rope") {
    return config.fail("position_embedding_type", "rope or nope", positions,
                       ErrorCode::unsupported);
  }
  AttentionSpec rotated = attention;
  KRAIT_RETURN_IF_ERROR(read_rotary(config, rotated, 1.0, result));
  return positions == "rope" ? rotated : attention;
}

const Family granite_hybrid_family{"granitemoehybrid", is_granite_hybrid, read_granite_hybrid};

}  // namespace v0_1
}  // namespace krait
