// Granite 4. The converter has permuted the rows of queries and keys, which without positions
// changes no score; the gates of networks and experts are in matrices of their own.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loading/families/granite_hybrid.hpp"
#include "loading/layouts/gguf/hybrid_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Rows of each matrix in a tensor that the file must have.
Result<Index> rows_of_tensor(const GgufKeys& keys, const std::string& name) {
  const GgufTensor* tensor = keys.tensor(name);
  if (tensor != nullptr && tensor->extents.size() >= 2) {
    return tensor->extents[tensor->extents.size() - 2];
  }
  return keys.fail("block_count", "layers with a matrix " + name,
                   tensor == nullptr ? "none" : tensor->describe());
}

Result<void> configure_granite(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(
      const HybridSizes sizes,
      configure_hybrid(keys, "granitemoehybrid", "GraniteMoeHybridForCausalLM", config));
  KRAIT_RETURN_IF_ERROR(set_epsilon(keys, "rms_norm_eps", config));
  config.set("hidden_act", std::string("silu"));
  KRAIT_ASSIGN_OR_RETURN(const bool has_positions, keys.boolean("rope.scaling.finetuned", true));
  if (has_positions) {
    return keys.fail("rope.scaling.finetuned", "false: attention without positions",
                     keys.has("rope.scaling.finetuned") ? "true" : "none, which is true");
  }
  config.set("position_embedding_type", std::string("nope"));
  KRAIT_ASSIGN_OR_RETURN(const Index expand, keys.expansion(sizes.d_model));
  config.set("mamba_expand", expand);
  KRAIT_RETURN_IF_ERROR(configure_mixer(keys, sizes.mixer_layer, mamba_keys, config));
  Metadata::Array kinds;
  for (const Index count : sizes.kv_heads) {
    kinds.emplace_back(std::string(count > 0 ? "attention" : "mamba"));
  }
  config.set("layer_types", std::move(kinds));

  KRAIT_ASSIGN_OR_RETURN(const Index n_expert, keys.number("expert_count", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const Index top_k, keys.number("expert_used_count", 0, Index{0}));
  const std::string shared = n_expert > 0 ? "blk.0.ffn_up_shexp.weight" : "blk.0.ffn_up.weight";
  KRAIT_ASSIGN_OR_RETURN(const Index d_shared, rows_of_tensor(keys, shared));
  config.set("num_local_experts", n_expert);
  config.set("num_experts_per_tok", top_k);
  config.set("shared_intermediate_size", d_shared);
  if (n_expert > 0) {
    KRAIT_ASSIGN_OR_RETURN(const Index d_expert, rows_of_tensor(keys, "blk.0.ffn_up_exps.weight"));
    config.set("intermediate_size", d_expert);
  }
  // Gates are matrices of their own in such files.
  config.set("gate_in_input_linear", false);

  KRAIT_ASSIGN_OR_RETURN(const Index n_head, keys.number("attention.head_count", 1));
  const double d_head = static_cast<double>(std::max<Index>(1, sizes.d_model / n_head));
  KRAIT_ASSIGN_OR_RETURN(const double scale,
                         keys.real("attention.scale", static_cast<float>(1.0 / std::sqrt(d_head))));
  KRAIT_ASSIGN_OR_RETURN(const double embedding, keys.real("embedding_scale", 1.0F));
  KRAIT_ASSIGN_OR_RETURN(const double residual, keys.real("residual_scale", 1.0F));
  KRAIT_ASSIGN_OR_RETURN(const double logits, keys.real("logit_scale", 1.0F));
  config.set("attention_multiplier", scale);
  config.set("embedding_multiplier", embedding);
  config.set("residual_multiplier", residual);
  config.set("logits_scaling", logits);
  return {};
}

Result<void> describe_granite(const ConfigReader& config, const ModelSpec& spec,
                              ConfigObject& metadata) {
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("granitehybrid.{}", key), std::move(value));
  };
  ModelConfig ignored;
  KRAIT_ASSIGN_OR_RETURN(const AttentionSpec attention, read_granite_attention(config, ignored));
  if (attention.rotary) {
    return config.fail("position_embedding_type", "nope", "rope", ErrorCode::unsupported);
  }
  if (attention.d_head * attention.n_head != spec.d_model()) {
    return config.fail(
        "head_dim",
        fmt::format("{} heads that divide {} channels", attention.n_head, spec.d_model()),
        fmt::to_string(attention.d_head), ErrorCode::unsupported);
  }
  const auto* mixer = find_block<Mamba2Spec>(spec);
  const auto* shared = find_block<MlpSpec>(spec);
  if (mixer == nullptr || shared == nullptr || spec.family != "granitemoehybrid") {
    return config.fail("layer_types", "mixers and networks", "none of one kind");
  }
  KRAIT_RETURN_IF_ERROR(check_mixer(config, *mixer));
  const auto* experts = find_block<MoeSpec>(spec);
  describe_sizes(spec, attention.n_head, "granitehybrid", metadata);
  describe_mixer(*mixer, "granitehybrid", metadata);
  AttentionSpec rotated = attention;
  KRAIT_RETURN_IF_ERROR(read_rotary(config, rotated, 1.0, ignored));
  set("context_length", gguf_unlimited_context);
  // Without experts, the shared network is the only one to llama.cpp, whatever width of experts is
  // in the configuration.
  set("feed_forward_length", experts == nullptr ? shared->d_hidden : experts->d_expert);
  set("attention.head_count_kv", kv_heads_of(spec));
  set("attention.scale", static_cast<double>(attention.scale));
  set("rope.freq_base", rotated.rotary->theta);
  set("rope.dimension_count", attention.d_head);
  set("rope.scaling.finetuned", false);
  set("expert_count", experts == nullptr ? 0 : experts->n_expert);
  set("expert_used_count", experts == nullptr ? 0 : experts->top_k);
  set("expert_shared_feed_forward_length", shared->d_hidden);
  set("embedding_scale", static_cast<double>(spec.embedding.scale));
  set("residual_scale", static_cast<double>(spec.layers.front().residuals.front().scale));
  KRAIT_ASSIGN_OR_RETURN(const double scaling, config.real("logits_scaling", 1.0));
  set("logit_scale", scaling);
  return {};
}

constexpr std::string_view granite_types[] = {"granitemoehybrid"};

#define KRAIT_LAYER "model.layers.*."
constexpr GgufName granite_names[] = {
    KRAIT_OUTSIDE_NAMES("norm.weight"),
    {"blk.*.attn_norm.weight", KRAIT_LAYER "input_layernorm.weight"},
    KRAIT_MIXER2_NAMES(KRAIT_LAYER "mamba."),
    KRAIT_ATTENTION_NAMES(KRAIT_LAYER "self_attn."),
    {"blk.*.ffn_norm.weight", KRAIT_LAYER "post_attention_layernorm.weight"},
    {"blk.*.ffn_gate.weight", KRAIT_LAYER "shared_mlp.gate_proj.weight"},
    {"blk.*.ffn_up.weight", KRAIT_LAYER "shared_mlp.up_proj.weight"},
    {"blk.*.ffn_down.weight", KRAIT_LAYER "shared_mlp.output_linear.weight", GgufShape::same,
     GgufValues::same, GgufRows::all, GgufUse::without_experts},
    {"blk.*.ffn_gate_shexp.weight", KRAIT_LAYER "shared_mlp.gate_proj.weight"},
    {"blk.*.ffn_up_shexp.weight", KRAIT_LAYER "shared_mlp.up_proj.weight"},
    {"blk.*.ffn_down_shexp.weight", KRAIT_LAYER "shared_mlp.output_linear.weight", GgufShape::same,
     GgufValues::same, GgufRows::all, GgufUse::with_experts},
    {"blk.*.ffn_gate_inp.weight", KRAIT_LAYER "block_sparse_moe.router.layer.weight"},
    {"blk.*.ffn_gate_exps.weight", KRAIT_LAYER "block_sparse_moe.experts.#.gate_proj.weight"},
    {"blk.*.ffn_up_exps.weight", KRAIT_LAYER "block_sparse_moe.experts.#.up_proj.weight"},
    {"blk.*.ffn_down_exps.weight", KRAIT_LAYER "block_sparse_moe.experts.#.down_proj.weight"},
    // As transformers has them, for writing.
    {"blk.*.ffn_gate.weight", KRAIT_LAYER "shared_mlp.input_linear.weight", GgufShape::same,
     GgufValues::same, GgufRows::first_half, GgufUse::without_experts},
    {"blk.*.ffn_up.weight", KRAIT_LAYER "shared_mlp.input_linear.weight", GgufShape::same,
     GgufValues::same, GgufRows::second_half, GgufUse::without_experts},
    {"blk.*.ffn_gate_shexp.weight", KRAIT_LAYER "shared_mlp.input_linear.weight", GgufShape::same,
     GgufValues::same, GgufRows::first_half, GgufUse::with_experts},
    {"blk.*.ffn_up_shexp.weight", KRAIT_LAYER "shared_mlp.input_linear.weight", GgufShape::same,
     GgufValues::same, GgufRows::second_half, GgufUse::with_experts},
    {"blk.*.ffn_gate_exps.weight", KRAIT_LAYER "block_sparse_moe.input_linear.weight",
     GgufShape::same, GgufValues::same, GgufRows::first_half, GgufUse::always},
    {"blk.*.ffn_up_exps.weight", KRAIT_LAYER "block_sparse_moe.input_linear.weight",
     GgufShape::same, GgufValues::same, GgufRows::second_half, GgufUse::always},
    {"blk.*.ffn_down_exps.weight", KRAIT_LAYER "block_sparse_moe.output_linear.weight"},
};
#undef KRAIT_LAYER

}  // namespace

const GgufArchitecture gguf_granite{"granitehybrid", granite_types, configure_granite,
                                    describe_granite, granite_names};

}  // namespace v0_1
}  // namespace krait
