// Zamba2 (Glorioso et al. 2024, arXiv:2411.15242): Mamba-2 mixers, and in front of some of them a
// transformer block that reads the embedding too. A few such blocks take turns, with the same
// weights but adapters of each layer's own. What one gives is added to the input of its mixer.

#include <algorithm>
#include <cmath>

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_zamba2(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "zamba2";
}

Result<Mamba2Spec> read_zamba2_mixer(const ConfigReader& config, Index d_model) {
  Mamba2Spec mixer;  // the norm behind its gate has an epsilon of 1e-5, whatever others have
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, config.number("mamba_expand", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("n_mamba_heads", 1, 8));
  mixer.d_inner = mixer.expand * d_model;
  mixer.head_dim = std::max<Index>(1, mixer.d_inner / n_head);
  KRAIT_ASSIGN_OR_RETURN(mixer.head_dim, config.number("mamba_headdim", 1, mixer.head_dim));
  KRAIT_RETURN_IF_ERROR(check_channels(
      config, "n_mamba_heads", {.head_dim = mixer.head_dim, .d_inner = n_head * mixer.head_dim},
      mixer.d_inner));
  KRAIT_ASSIGN_OR_RETURN(mixer.n_group, config.number("mamba_ngroups", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, config.number("mamba_d_state", 1, 64));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, config.number("mamba_d_conv", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, config.boolean("add_bias_linear", false));
  KRAIT_ASSIGN_OR_RETURN(const bool has_bias, config.boolean("use_conv_bias", true));
  if (!has_bias) {
    return config.fail("use_conv_bias", "true", "false", ErrorCode::unsupported);
  }
  // "time_step_min" is of training: the authors' kernel does not limit steps.
  KRAIT_ASSIGN_OR_RETURN(const auto steps, step_limits(config, "time_step_limit"));
  mixer.dt_min = steps.first;
  mixer.dt_max = steps.second;
  return mixer;
}

// A shared block but for the names of its adapters.
Result<SharedTransformerSpec> read_shared_block(const ConfigReader& config, const RmsNormSpec& norm,
                                                Index d_model, ModelConfig& result) {
  SharedTransformerSpec block;
  block.norm = norm;
  AttentionSpec& attention = block.attention;
  KRAIT_ASSIGN_OR_RETURN(attention.n_head, config.number("num_attention_heads", 1, 32));
  KRAIT_ASSIGN_OR_RETURN(attention.n_kv_head,
                         config.number("num_key_value_heads", 1, attention.n_head));
  KRAIT_ASSIGN_OR_RETURN(
      attention.d_head,
      config.number("attention_head_dim", 1, std::max<Index>(1, 2 * d_model / attention.n_head)));
  attention.scale =
      static_cast<float>(1.0 / std::sqrt(0.5 * static_cast<double>(attention.d_head)));
  KRAIT_ASSIGN_OR_RETURN(const bool has_positions, config.boolean("use_mem_rope", false));
  AttentionSpec rotated = attention;
  KRAIT_RETURN_IF_ERROR(read_rotary(config, rotated, 1.0, result));
  if (has_positions) attention = rotated;
  KRAIT_ASSIGN_OR_RETURN(const bool is_long, config.boolean("use_long_context", false));
  if (is_long) return config.fail("use_long_context", "false", "true", ErrorCode::unsupported);

  KRAIT_ASSIGN_OR_RETURN(const Index rank, config.number("adapter_rank", 1, 128));
  KRAIT_ASSIGN_OR_RETURN(const bool in_attention,
                         config.boolean("use_shared_attention_adapter", false));
  if (in_attention) attention.adapter_rank = rank;
  MlpSpec& mlp = block.mlp;
  mlp.activation = Activation::gelu;
  mlp.up = "gate_up_proj";
  mlp.adapter_rank = rank;
  KRAIT_ASSIGN_OR_RETURN(mlp.d_hidden, config.number("intermediate_size", 1, 4 * d_model));
  KRAIT_ASSIGN_OR_RETURN(mlp.bias, config.boolean("add_bias_linear", false));
  KRAIT_ASSIGN_OR_RETURN(const std::string act, config.text("hidden_act", "gelu"));
  if (act != "gelu") return config.fail("hidden_act", "gelu", act, ErrorCode::unsupported);
  return block;
}

// The layer whose names the tensors of a layer's shared block have. Writers keep those of one of
// the layers that use the block, the first or the last in the order of names; transformers 5 gives
// every layer a block of its own where the head is not tied.
Index owner_of(const TensorNames& tensors, Index layer, const std::vector<Index>& users) {
  const auto has = [&](Index i) {
    return tensors.has_in_layer(i, "shared_transformer.input_layernorm.weight");
  };
  if (has(layer)) return layer;
  const auto found = std::ranges::find_if(users, has);
  return found == users.end() ? users.front() : *found;
}

Result<void> read_zamba2(const ConfigReader& config, const TensorNames& tensors,
                         ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(const Outline outline, read_outline(config, "zamba2", 1e-5F, result));
  ModelSpec& spec = result.spec;
  spec.final_norm_name = "final_layernorm";
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_word_embeddings", true));
  KRAIT_ASSIGN_OR_RETURN(const auto kinds,
                         read_layer_kinds(config, {LayerKind::mixer, LayerKind::hybrid}));
  if (std::ssize(kinds) != outline.n_layer) {
    return config.fail("layers_block_type",
                       fmt::format("one entry per layer ({})", outline.n_layer),
                       fmt::to_string(kinds.size()));
  }
  KRAIT_ASSIGN_OR_RETURN(const Mamba2Spec mixer, read_zamba2_mixer(config, spec.d_model()));
  KRAIT_ASSIGN_OR_RETURN(SharedTransformerSpec block,
                         read_shared_block(config, outline.norm, spec.d_model(), result));
  KRAIT_ASSIGN_OR_RETURN(const Index n_block, config.number("num_mem_blocks", 1, Index{1}));
  std::vector<std::vector<Index>> users(
      static_cast<std::size_t>(std::min(n_block, outline.n_layer)));
  std::size_t uses = 0;
  for (Index i = 0; i < outline.n_layer; ++i) {
    if (kinds[static_cast<std::size_t>(i)] == LayerKind::hybrid) {
      users[uses++ % users.size()].push_back(i);
    }
  }
  uses = 0;
  for (Index i = 0; i < outline.n_layer; ++i) {
    LayerSpec layer;
    if (kinds[static_cast<std::size_t>(i)] == LayerKind::mixer) {
      layer.residuals.push_back({"input_layernorm", outline.norm, "mamba", mixer});
    } else {
      block.mlp.adapter = fmt::format("gate_up_proj_adapter_list.{}", uses);
      if (block.attention.adapter_rank > 0) {
        block.attention.names.q_adapter = fmt::format("linear_q_adapter_list.{}", uses);
        block.attention.names.k_adapter = fmt::format("linear_k_adapter_list.{}", uses);
        block.attention.names.v_adapter = fmt::format("linear_v_adapter_list.{}", uses);
      }
      layer.residuals.push_back({.norm_name = "shared_transformer.input_layernorm",
                                 .norm = outline.norm,
                                 .block_name = "shared_transformer",
                                 .block = block,
                                 .aside = true,
                                 .weights_of = owner_of(tensors, i, users[uses % users.size()])});
      layer.residuals.push_back(
          {"mamba_decoder.input_layernorm", outline.norm, "mamba_decoder.mamba", mixer});
      ++uses;
    }
    spec.layers.push_back(std::move(layer));
  }
  // What follows from other keys, or is of training and of other implementations.
  config.skip({"hybrid_layer_ids", "attention_hidden_size", "kv_channels", "num_query_groups",
               "ffn_hidden_size", "gated_linear_unit", "chunk_size", "use_mem_eff_path",
               "time_step_min", "time_step_max", "time_step_floor", "mamba_dt_rank",
               "rescale_prenorm_residual", "residual_in_fp32", "lora_rank", "layer_types"});
  return {};
}

}  // namespace

const Family zamba2_family{"zamba2", is_zamba2, read_zamba2};

}  // namespace v0_1
}  // namespace krait
