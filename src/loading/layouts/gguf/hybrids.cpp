// Jamba and Nemotron-H. The converter has permuted the rows of queries and keys of Nemotron-H,
// which without positions changes no score.

#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "loading/families/nemotron_h.hpp"
#include "loading/layouts/gguf/hybrid_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr MixerKeys nemotron_keys{"mamba_num_heads", "mamba_head_dim", "ssm_state_size",
                                  "n_groups",        "conv_kernel",    "use_conv_bias"};

// Layers offset, offset + period, … as transformers names those with a property, if they lie so.
template <class Has>
Result<void> set_every(const GgufKeys& keys, const char* what, Index n_layer, Has&& has,
                       ConfigObject& config) {
  std::vector<Index> layers;
  for (Index i = 0; i < n_layer; ++i) {
    if (has(i)) layers.push_back(i);
  }
  const Index offset = layers.empty() ? n_layer : layers.front();
  const Index period = layers.size() > 1 ? layers[1] - offset : std::max(n_layer, offset + 1);
  for (Index i = 0; i < n_layer; ++i) {
    if (has(i) != (i % period == offset)) {
      return keys.fail("block_count", fmt::format("layers with {} at equal distances", what),
                       fmt::format("layer {}, which breaks them", i));
    }
  }
  config.set(fmt::format("{}_layer_period", what), period);
  config.set(fmt::format("{}_layer_offset", what), offset);
  return {};
}

Result<void> configure_jamba(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const HybridSizes sizes,
                         configure_hybrid(keys, "jamba", "JambaForCausalLM", config));
  KRAIT_RETURN_IF_ERROR(set_epsilon(keys, "rms_norm_eps", config));
  config.set("hidden_act", std::string("silu"));
  KRAIT_ASSIGN_OR_RETURN(const Index d_hidden, keys.number("feed_forward_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_expert, keys.number("expert_count", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const Index top_k, keys.number("expert_used_count", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const Index expand, keys.expansion(sizes.d_model));
  KRAIT_ASSIGN_OR_RETURN(const Index d_state, keys.number("ssm.state_size", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_conv, keys.number("ssm.conv_kernel", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index dt_rank, keys.number("ssm.time_step_rank", 1));
  config.set("intermediate_size", d_hidden);
  config.set("num_experts", std::max<Index>(1, n_expert));
  config.set("num_experts_per_tok", std::max<Index>(1, top_k));
  config.set("mamba_expand", expand);
  config.set("mamba_d_state", d_state);
  config.set("mamba_d_conv", d_conv);
  config.set("mamba_dt_rank", dt_rank);
  config.set("mamba_conv_bias", keys.has_tensor(in_layer(sizes.mixer_layer, "ssm_conv1d.bias")));
  config.set("mamba_proj_bias", keys.has_tensor(in_layer(sizes.mixer_layer, "ssm_in.bias")));
  const auto has_attention = [&](Index i) {
    return sizes.kv_heads[static_cast<std::size_t>(i)] > 0;
  };
  const auto has_experts = [&](Index i) {
    return keys.has_tensor(in_layer(i, "ffn_gate_inp.weight"));
  };
  KRAIT_RETURN_IF_ERROR(set_every(keys, "attn", sizes.n_layer, has_attention, config));
  return set_every(keys, "expert", sizes.n_layer, has_experts, config);
}

Result<void> configure_nemotron(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const HybridSizes sizes,
                         configure_hybrid(keys, "nemotron_h", "NemotronHForCausalLM", config));
  KRAIT_RETURN_IF_ERROR(set_epsilon(keys, "layer_norm_epsilon", config));
  KRAIT_RETURN_IF_ERROR(set_head_dim(keys, sizes, config));
  KRAIT_ASSIGN_OR_RETURN(const Index n_block, keys.number("block_count", 1));
  KRAIT_ASSIGN_OR_RETURN(const auto widths, keys.per_layer("feed_forward_length", n_block));
  std::string pattern;
  Index d_hidden = 0;
  bool has_bias = false;
  std::optional<Index> mixer;
  for (Index i = 0; i < sizes.n_layer; ++i) {
    const auto at = static_cast<std::size_t>(i);
    const bool is_mixture = keys.has_tensor(in_layer(i, "ffn_gate_inp.weight"));
    pattern += sizes.kv_heads[at] > 0 ? '*' : widths[at] == 0 ? 'M' : is_mixture ? 'E' : '-';
    if (pattern.back() == 'M' && !mixer) mixer = i;
    if (pattern.back() != '-') continue;
    if (d_hidden > 0 && widths[at] != d_hidden) {
      return keys.fail("feed_forward_length", "one width of all networks",
                       fmt::format("{} and {}", d_hidden, widths[at]));
    }
    d_hidden = widths[at];
    has_bias = keys.has_tensor(in_layer(i, "ffn_up.bias"));
  }
  config.set("hybrid_override_pattern", pattern);
  if (d_hidden > 0) config.set("intermediate_size", d_hidden);
  config.set("mlp_bias", has_bias);
  config.set("mlp_hidden_act", std::string("relu2"));
  KRAIT_RETURN_IF_ERROR(configure_mixer(keys, mixer.value_or(0), nemotron_keys, config));
  if (pattern.find('E') == pattern.npos) return {};

  if (keys.has("moe_latent_size")) return keys.fail("moe_latent_size", "none", "one");
  KRAIT_ASSIGN_OR_RETURN(const Index n_expert, keys.number("expert_count", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index top_k, keys.number("expert_used_count", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_expert, keys.number("expert_feed_forward_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_shared, keys.number("expert_shared_feed_forward_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_shared, keys.number("expert_shared_count", 0, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(const Index n_group, keys.number("expert_group_count", 0, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(const bool normalize, keys.boolean("expert_weights_norm", false));
  KRAIT_ASSIGN_OR_RETURN(const double scale, keys.real("expert_weights_scale", 1.0F));
  config.set("n_routed_experts", n_expert);
  config.set("num_experts_per_tok", top_k);
  config.set("moe_intermediate_size", d_expert);
  config.set("moe_shared_expert_intermediate_size", d_shared);
  config.set("n_shared_experts", n_shared);
  config.set("n_group", std::max<Index>(1, n_group));
  config.set("norm_topk_prob", normalize);
  config.set("routed_scaling_factor", scale);
  return {};
}

Result<void> describe_jamba(const ConfigReader& config, const ModelSpec& spec,
                            ConfigObject& metadata) {
  const auto* stored = find_block<MambaSpec>(spec);
  const auto* mlp = find_block<MlpSpec>(spec);
  const auto* experts = find_block<MoeSpec>(spec);
  if (stored == nullptr) return config.fail("attn_layer_period", "layers of mixers", "none");
  const MambaSpec mixer = stored->resolved(spec.d_model());
  if (mixer.bias) return config.fail("mamba_proj_bias", "false", "true", ErrorCode::unsupported);
  if (mixer.expand != 2 || !mixer.conv_bias) {
    return config.fail(mixer.expand != 2 ? "mamba_expand" : "mamba_conv_bias",
                       mixer.expand != 2 ? "2, the only one that llama.cpp runs" : "true",
                       mixer.expand != 2 ? fmt::to_string(mixer.expand) : "false",
                       ErrorCode::unsupported);
  }
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("num_attention_heads", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index context, config.number("max_position_embeddings", 1, 4096));
  if (const auto* attention = find_block<AttentionSpec>(spec)) {
    const Index d_head = attention->resolved(spec.d_model()).d_head;
    if (d_head * n_head != spec.d_model()) {
      return config.fail("head_dim",
                         fmt::format("{} heads that divide {} channels", n_head, spec.d_model()),
                         fmt::to_string(d_head), ErrorCode::unsupported);
    }
  }
  describe_sizes(spec, n_head, "jamba", metadata);
  describe_mixer(mixer, "jamba", metadata);
  metadata.set("jamba.context_length", context);
  metadata.set("jamba.attention.head_count_kv", kv_heads_of(spec));
  metadata.set("jamba.feed_forward_length", mlp != nullptr ? mlp->d_hidden : experts->d_expert);
  metadata.set("jamba.expert_count", experts == nullptr ? 1 : experts->n_expert);
  metadata.set("jamba.expert_used_count", experts == nullptr ? 1 : experts->top_k);
  return {};
}

bool has_expert_layers(const ConfigReader& config) {
  const auto kinds = read_nemotron_layers(config);
  return kinds && std::ranges::count(*kinds, LayerKind::experts) > 0;
}

Result<void> describe_nemotron(const ConfigReader& config, const ModelSpec& spec,
                               ConfigObject& metadata) {
  const auto* stored = find_block<Mamba2Spec>(spec);
  const auto* experts = find_block<MoeSpec>(spec);
  const auto* attention = find_block<AttentionSpec>(spec);
  if (stored == nullptr) {
    return config.fail("hybrid_override_pattern", "layers of mixers", "none");
  }
  if (experts != nullptr && find_block<MlpSpec>(spec) != nullptr) {
    return config.fail("hybrid_override_pattern", "experts or networks", "both",
                       ErrorCode::unsupported);
  }
  const Mamba2Spec mixer = stored->resolved(spec.d_model());
  KRAIT_RETURN_IF_ERROR(check_mixer(config, mixer));
  const std::string architecture = experts != nullptr ? "nemotron_h_moe" : "nemotron_h";
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("{}.{}", architecture, key), std::move(value));
  };
  Metadata::Array widths;
  for (const LayerSpec& layer : spec.layers) {
    const auto* mlp = find_block<MlpSpec>(layer);
    const auto* moe = find_block<MoeSpec>(layer);
    widths.emplace_back(mlp != nullptr ? mlp->d_hidden : moe != nullptr ? moe->d_expert : 0);
  }
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("num_attention_heads", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index context, config.number("max_position_embeddings", 1, 4096));
  Index d_head = 128;
  if (attention != nullptr) d_head = attention->resolved(spec.d_model()).d_head;
  describe_sizes(spec, n_head, architecture, metadata);
  describe_mixer(mixer, architecture, metadata);
  // llama.cpp asks for this one of Nemotron-H, though its norms are RMSNorm.
  set("attention.layer_norm_epsilon", static_cast<double>(mixer.norm_eps));
  set("context_length", context);
  set("attention.head_count_kv", kv_heads_of(spec));
  set("attention.key_length", d_head);
  set("attention.value_length", d_head);
  set("feed_forward_length", std::move(widths));
  set("rope.scaling.finetuned", false);
  if (experts == nullptr) return {};
  set("expert_count", experts->n_expert);
  set("expert_used_count", experts->top_k);
  set("expert_feed_forward_length", experts->d_expert);
  set("expert_shared_feed_forward_length", experts->d_shared);
  set("expert_shared_count", 1);
  set("expert_group_count", 1);
  set("expert_weights_norm", experts->router.normalize);
  set("expert_weights_scale", static_cast<double>(experts->router.scale));
  return {};
}

constexpr std::string_view jamba_types[] = {"jamba"};
constexpr std::string_view nemotron_types[] = {"nemotron_h"};

#define KRAIT_LAYER "model.layers.*."
constexpr GgufName jamba_names[] = {
    KRAIT_OUTSIDE_NAMES("final_layernorm.weight"),
    {"blk.*.attn_norm.weight", KRAIT_LAYER "input_layernorm.weight"},
    KRAIT_MIXER_NAMES(KRAIT_LAYER "mamba."),
    {"blk.*.ssm_x.weight", KRAIT_LAYER "mamba.x_proj.weight"},
    {"blk.*.ssm_dt.weight", KRAIT_LAYER "mamba.dt_proj.weight"},
    {"blk.*.ssm_dt.bias", KRAIT_LAYER "mamba.dt_proj.bias"},
    {"blk.*.ssm_a", KRAIT_LAYER "mamba.A_log", GgufShape::same, GgufValues::negative_exp},
    {"blk.*.ssm_d", KRAIT_LAYER "mamba.D"},
    {"blk.*.ssm_dt_norm.weight", KRAIT_LAYER "mamba.dt_layernorm.weight"},
    {"blk.*.ssm_b_norm.weight", KRAIT_LAYER "mamba.b_layernorm.weight"},
    {"blk.*.ssm_c_norm.weight", KRAIT_LAYER "mamba.c_layernorm.weight"},
    KRAIT_ATTENTION_NAMES(KRAIT_LAYER "self_attn."),
    {"blk.*.ffn_norm.weight", KRAIT_LAYER "pre_ff_layernorm.weight"},
    {"blk.*.ffn_gate.weight", KRAIT_LAYER "feed_forward.gate_proj.weight"},
    {"blk.*.ffn_up.weight", KRAIT_LAYER "feed_forward.up_proj.weight"},
    {"blk.*.ffn_down.weight", KRAIT_LAYER "feed_forward.down_proj.weight"},
    {"blk.*.ffn_gate_inp.weight", KRAIT_LAYER "feed_forward.router.weight"},
    {"blk.*.ffn_gate_exps.weight", KRAIT_LAYER "feed_forward.experts.#.gate_proj.weight"},
    {"blk.*.ffn_up_exps.weight", KRAIT_LAYER "feed_forward.experts.#.up_proj.weight"},
    {"blk.*.ffn_down_exps.weight", KRAIT_LAYER "feed_forward.experts.#.down_proj.weight"},
};

#undef KRAIT_LAYER

#define KRAIT_BLOCK "backbone.layers.*.mixer."
constexpr GgufName nemotron_names[] = {
    {"token_embd.weight", "backbone.embeddings.weight"},
    {"output_norm.weight", "backbone.norm_f.weight"},
    {"output.weight", "lm_head.weight"},
    {"blk.*.attn_norm.weight", "backbone.layers.*.norm.weight"},
    KRAIT_MIXER2_NAMES(KRAIT_BLOCK),
    KRAIT_ATTENTION_NAMES(KRAIT_BLOCK),
    {"blk.*.ffn_up.weight", KRAIT_BLOCK "up_proj.weight"},
    {"blk.*.ffn_down.weight", KRAIT_BLOCK "down_proj.weight"},
    {"blk.*.ffn_up.bias", KRAIT_BLOCK "up_proj.bias"},
    {"blk.*.ffn_down.bias", KRAIT_BLOCK "down_proj.bias"},
    {"blk.*.ffn_gate_inp.weight", KRAIT_BLOCK "gate.weight"},
    {"blk.*.exp_probs_b.bias", KRAIT_BLOCK "gate.e_score_correction_bias"},
    {"blk.*.ffn_up_exps.weight", KRAIT_BLOCK "experts.#.up_proj.weight"},
    {"blk.*.ffn_down_exps.weight", KRAIT_BLOCK "experts.#.down_proj.weight"},
    {"blk.*.ffn_up_shexp.weight", KRAIT_BLOCK "shared_experts.up_proj.weight"},
    {"blk.*.ffn_down_shexp.weight", KRAIT_BLOCK "shared_experts.down_proj.weight"},
};
#undef KRAIT_BLOCK

}  // namespace

const GgufArchitecture gguf_jamba{"jamba", jamba_types, configure_jamba, describe_jamba,
                                  jamba_names};
const GgufArchitecture gguf_nemotron_moe{"nemotron_h_moe",  nemotron_types, configure_nemotron,
                                         describe_nemotron, nemotron_names, has_expert_layers};
const GgufArchitecture gguf_nemotron{
    "nemotron_h",       nemotron_types,
    configure_nemotron, describe_nemotron,
    nemotron_names,     [](const ConfigReader& config) { return !has_expert_layers(config); }};

}  // namespace v0_1
}  // namespace krait
