// Nemotron-H (NVIDIA 2025, arXiv:2504.03624) and Nemotron 3: one block per layer, a Mamba-2 mixer,
// attention without positions, a network with squared ReLU, or a mixture of such experts.

#include "loading/families/nemotron_h.hpp"

#include <utility>

#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {

Result<std::vector<LayerKind>> read_nemotron_layers(const ConfigReader& config) {
  constexpr const char* key = "hybrid_override_pattern";
  KRAIT_ASSIGN_OR_RETURN(
      auto kinds, read_layer_kinds(config, {LayerKind::mixer, LayerKind::attention, LayerKind::mlp,
                                            LayerKind::experts}));
  KRAIT_ASSIGN_OR_RETURN(const std::string pattern, config.text(key, ""));
  if (!kinds.empty()) return kinds;
  for (const char letter : pattern) {
    constexpr std::string_view letters = "M*-E";
    constexpr LayerKind of_letter[] = {LayerKind::mixer, LayerKind::attention, LayerKind::mlp,
                                       LayerKind::experts};
    const std::size_t at = letters.find(letter);
    if (at == letters.npos) {
      return config.fail(key, "letters M, *, - and E", json_text(std::string(1, letter)));
    }
    kinds.push_back(of_letter[at]);
  }
  if (kinds.empty() || std::ssize(kinds) > most_layers) {
    return config.fail(key, fmt::format("1 to {} layers", most_layers),
                       fmt::to_string(kinds.size()));
  }
  return kinds;
}

namespace {

// The name of a key of today in this configuration: some had other ones in early configurations.
std::string_view nemotron_key(const ConfigReader& config, std::string_view key) {
  constexpr std::pair<std::string_view, std::string_view> early_names[] = {
      {"n_groups", "mamba_n_groups"},
      {"conv_kernel", "mamba_d_conv"},
      {"use_conv_bias", "mamba_conv_bias"},
      {"time_step_limit", "mamba_dt_limit"}};
  for (const auto& [today, early] : early_names) {
    if (key == today && config.has(early)) return early;
  }
  return key;
}

bool is_nemotron_h(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "nemotron_h";
}

Result<Mamba2Spec> read_nemotron_mixer(const ConfigReader& config, float norm_eps) {
  Mamba2Spec mixer{.norm_eps = norm_eps};
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("mamba_num_heads", 1, 128));
  KRAIT_ASSIGN_OR_RETURN(mixer.head_dim, config.number("mamba_head_dim", 1, 64));
  mixer.d_inner = n_head * mixer.head_dim;  // whatever "expand" says
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, config.number("ssm_state_size", 1, 128));
  KRAIT_ASSIGN_OR_RETURN(mixer.n_group, config.number(nemotron_key(config, "n_groups"), 1, 8));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, config.number(nemotron_key(config, "conv_kernel"), 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias,
                         config.boolean(nemotron_key(config, "use_conv_bias"), true));
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, config.boolean("mamba_proj_bias", false));
  KRAIT_ASSIGN_OR_RETURN(const bool use_bias, config.boolean("use_bias", mixer.bias));
  if (use_bias != mixer.bias) {
    return config.fail("use_bias", "the value of mamba_proj_bias", use_bias ? "true" : "false",
                       ErrorCode::unsupported);
  }
  KRAIT_RETURN_IF_ERROR(check_silu(config, "mamba_hidden_act"));
  KRAIT_ASSIGN_OR_RETURN(const auto steps,
                         step_limits(config, nemotron_key(config, "time_step_limit")));
  mixer.dt_min = steps.first;
  mixer.dt_max = steps.second;
  config.skip({"expand", "mamba_expand", "chunk_size", "time_step_min", "time_step_max",
               "time_step_floor", "time_step_rank", "mamba_dt_min", "mamba_dt_max",
               "mamba_dt_init_floor", "mamba_ssm_cache_dtype", "rescale_prenorm_residual",
               "residual_in_fp32", "hidden_dropout"});
  return mixer;
}

Result<MlpSpec> read_mlp(const ConfigReader& config) {
  MlpSpec mlp{.activation = Activation::relu_squared, .gated = false};
  KRAIT_ASSIGN_OR_RETURN(mlp.d_hidden, config.number("intermediate_size", 1, 21504));
  KRAIT_ASSIGN_OR_RETURN(mlp.bias, config.boolean("mlp_bias", false));
  KRAIT_ASSIGN_OR_RETURN(const std::string act, config.text("mlp_hidden_act", "relu2"));
  if (act != "relu2") return config.fail("mlp_hidden_act", "relu2", act, ErrorCode::unsupported);
  return mlp;
}

Result<MoeSpec> read_experts(const ConfigReader& config) {
  MoeSpec moe{.activation = Activation::relu_squared,
              .names = {.router = "gate", .experts = "experts", .shared = "shared_experts"}};
  moe.router = {.score = kernels::RouterScore::sigmoid, .selection_bias = true};
  KRAIT_ASSIGN_OR_RETURN(moe.n_expert, config.number("n_routed_experts", 1, 8));
  KRAIT_ASSIGN_OR_RETURN(moe.top_k, config.number("num_experts_per_tok", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(moe.d_expert, config.number("moe_intermediate_size", 1, 7688));
  KRAIT_ASSIGN_OR_RETURN(moe.d_shared,
                         config.number("moe_shared_expert_intermediate_size", 1, 7688));
  KRAIT_ASSIGN_OR_RETURN(moe.router.normalize, config.boolean("norm_topk_prob", true));
  KRAIT_ASSIGN_OR_RETURN(moe.router.scale, config.positive_float("routed_scaling_factor", 1.0F));
  for (const char* key : {"n_group", "topk_group", "n_shared_experts"}) {
    KRAIT_ASSIGN_OR_RETURN(const Index count, config.number(key, 0, 1));
    if (count != 1) return config.fail(key, "1", fmt::to_string(count), ErrorCode::unsupported);
  }
  if (config.has("moe_latent_size")) {
    return config.fail("moe_latent_size", "none", config.value_text("moe_latent_size"),
                       ErrorCode::unsupported);
  }
  config.skip({"moe_shared_expert_overlap"});
  return moe;
}

Result<void> read_nemotron_h(const ConfigReader& config, const TensorNames& /*tensors*/,
                             ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(const auto kinds, read_nemotron_layers(config));
  KRAIT_ASSIGN_OR_RETURN(Outline outline,
                         read_outline(config, "nemotron_h", 1e-5F, result, std::ssize(kinds)));
  ModelSpec& spec = result.spec;
  spec.embedding_name = "embeddings";
  KRAIT_ASSIGN_OR_RETURN(outline.norm.eps,
                         config.positive_float("layer_norm_epsilon", outline.norm.eps));
  spec.final_norm = outline.norm;
  KRAIT_ASSIGN_OR_RETURN(const Mamba2Spec mixer, read_nemotron_mixer(config, outline.norm.eps));
  KRAIT_ASSIGN_OR_RETURN(AttentionSpec attention, read_attention(config, 8));
  if (!config.has("head_dim")) {
    KRAIT_ASSIGN_OR_RETURN(attention.d_head, config.number("attention_head_dim", 1, 128));
  }
  if (config.has("sliding_window")) {
    return config.fail("sliding_window", "none", config.value_text("sliding_window"),
                       ErrorCode::unsupported);
  }
  KRAIT_ASSIGN_OR_RETURN(const MlpSpec mlp, read_mlp(config));
  KRAIT_ASSIGN_OR_RETURN(const MoeSpec experts, read_experts(config));
  for (const LayerKind kind : kinds) {
    if (kind == LayerKind::experts && mlp.bias) {
      return config.fail("mlp_bias", "false, beside experts", "true", ErrorCode::unsupported);
    }
    const BlockSpec block = kind == LayerKind::mixer       ? BlockSpec(mixer)
                            : kind == LayerKind::attention ? BlockSpec(attention)
                            : kind == LayerKind::mlp       ? BlockSpec(mlp)
                                                           : BlockSpec(experts);
    spec.layers.push_back({{{"norm", outline.norm, "mixer", block}}});
  }
  // Attention has no positions here, whatever is said of them; layers that predict several tokens
  // are not run.
  config.skip({"num_hidden_layers", "rope_theta", "rope_parameters", "rope_scaling",
               "partial_rotary_factor", "rms_norm_eps", "num_nextn_predict_layers",
               "mtp_layers_block_type", "mtp_hybrid_override_pattern"});
  return {};
}

}  // namespace

const Family nemotron_h_family{"nemotron_h", is_nemotron_h, read_nemotron_h};

}  // namespace v0_1
}  // namespace krait
