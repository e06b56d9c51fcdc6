#include "loading/layouts/gguf/hybrid_parts.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {

std::string in_layer(Index layer, std::string_view name) {
  return fmt::format("blk.{}.{}", layer, name);
}

Result<HybridSizes> configure_hybrid(const GgufKeys& keys, std::string_view model_type,
                                     std::string_view architecture, ConfigObject& config) {
  HybridSizes sizes;
  KRAIT_ASSIGN_OR_RETURN(sizes.d_model, keys.number("embedding_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_block, keys.number("block_count", 1));
  if (n_block > most_layers) {
    return keys.fail("block_count", fmt::format("at most {}", most_layers),
                     fmt::to_string(n_block));
  }
  KRAIT_ASSIGN_OR_RETURN(const Index n_next, keys.number("nextn_predict_layers", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, keys.number("attention.head_count", 1));
  KRAIT_ASSIGN_OR_RETURN(sizes.kv_heads, keys.per_layer("attention.head_count_kv", n_block));
  KRAIT_ASSIGN_OR_RETURN(const Index context, keys.number("context_length", 1, Index{2048}));
  KRAIT_ASSIGN_OR_RETURN(const Index vocab, keys.vocab());
  if (n_next >= n_block) {
    return keys.fail("nextn_predict_layers", fmt::format("less than {}", n_block),
                     fmt::to_string(n_next));
  }
  // Layers that predict several tokens are the last ones, and are not run.
  sizes.n_layer = n_block - n_next;
  sizes.kv_heads.resize(static_cast<std::size_t>(sizes.n_layer));
  for (Index i = sizes.n_layer - 1; i >= 0; --i) {
    const Index count = sizes.kv_heads[static_cast<std::size_t>(i)];
    (count > 0 ? sizes.attention_layer : sizes.mixer_layer) = i;
    if (count > 0 && sizes.n_kv_head > 0 && count != sizes.n_kv_head) {
      return keys.fail("attention.head_count_kv", "the same number in all layers with attention",
                       fmt::format("{} and {}", count, sizes.n_kv_head));
    }
    sizes.n_kv_head = std::max(sizes.n_kv_head, count);
  }
  config.set("architectures", Metadata::Array{std::string(architecture)});
  config.set("model_type", std::string(model_type));
  config.set("hidden_size", sizes.d_model);
  config.set("num_hidden_layers", sizes.n_layer);
  config.set("vocab_size", vocab);
  config.set("max_position_embeddings", context);
  config.set("num_attention_heads", n_head);
  config.set("num_key_value_heads", std::max<Index>(1, sizes.n_kv_head));
  config.set("attention_bias", keys.has_tensor(in_layer(sizes.attention_layer, "attn_q.bias")));
  config.set("tie_word_embeddings", !keys.has_tensor("output.weight"));
  return sizes;
}

Result<void> set_epsilon(const GgufKeys& keys, const char* name, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const double eps, keys.real("attention.layer_norm_rms_epsilon", 1e-5F));
  config.set(name, eps);
  return {};
}

Result<void> set_head_dim(const GgufKeys& keys, const HybridSizes& sizes, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, keys.number("attention.head_count", 1));
  KRAIT_ASSIGN_OR_RETURN(
      const Index d_head,
      keys.number("attention.key_length", 1, std::max<Index>(1, sizes.d_model / n_head)));
  config.set("head_dim", d_head);
  return {};
}

Result<double> rope_factor(const GgufKeys& keys) {
  KRAIT_ASSIGN_OR_RETURN(const double early, keys.real("rope.scale_linear", 0.0F));
  KRAIT_ASSIGN_OR_RETURN(const double factor,
                         keys.real("rope.scaling.factor", static_cast<float>(early)));
  return factor == 0.0 ? 1.0 : factor;
}

Result<void> configure_mixer(const GgufKeys& keys, Index layer, const MixerKeys& called,
                             ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, keys.number("ssm.time_step_rank", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_state, keys.number("ssm.state_size", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_conv, keys.number("ssm.conv_kernel", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_group, keys.number("ssm.group_count", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(const Index head_dim, keys.mixer_head_dim());
  config.set(called.n_head, n_head);
  config.set(called.head_dim, head_dim);
  config.set(called.d_state, d_state);
  config.set(called.n_group, n_group);
  config.set(called.d_conv, d_conv);
  config.set(called.conv_bias, keys.has_tensor(in_layer(layer, "ssm_conv1d.bias")));
  config.set("mamba_proj_bias", keys.has_tensor(in_layer(layer, "ssm_in.bias")));
  return {};
}

Metadata::Array kv_heads_of(const ModelSpec& spec) {
  Metadata::Array result;
  for (const LayerSpec& layer : spec.layers) {
    const auto* attention = find_block<AttentionSpec>(layer);
    result.emplace_back(attention == nullptr ? 0 : attention->resolved(spec.d_model()).n_kv_head);
  }
  return result;
}

void describe_sizes(const ModelSpec& spec, Index n_head, std::string_view architecture,
                    ConfigObject& metadata) {
  const auto set = [&](std::string_view key, Metadata value) {
    metadata.set(fmt::format("{}.{}", architecture, key), std::move(value));
  };
  set("embedding_length", spec.d_model());
  set("block_count", std::ssize(spec.layers));
  set("vocab_size", spec.embedding.rows());
  set("attention.head_count", n_head);
  if (const auto* norm = std::get_if<RmsNormSpec>(&spec.final_norm)) {
    set("attention.layer_norm_rms_epsilon", static_cast<double>(norm->eps));
  }
}

void describe_mixer(const Mamba2Spec& mixer, std::string_view architecture,
                    ConfigObject& metadata) {
  const auto set = [&](std::string_view key, Index value) {
    metadata.set(fmt::format("{}.ssm.{}", architecture, key), value);
  };
  set("conv_kernel", mixer.d_conv);
  set("inner_size", mixer.d_inner);
  set("state_size", mixer.d_state);
  set("time_step_rank", mixer.d_inner / mixer.head_dim);
  set("group_count", mixer.n_group);
}

void describe_mixer(const MambaSpec& mixer, std::string_view architecture, ConfigObject& metadata) {
  const auto set = [&](std::string_view key, Index value) {
    metadata.set(fmt::format("{}.ssm.{}", architecture, key), value);
  };
  set("conv_kernel", mixer.d_conv);
  set("inner_size", mixer.d_inner);
  set("state_size", mixer.d_state);
  set("time_step_rank", mixer.dt_rank);
}

Result<void> check_mixer(const ConfigReader& config, const Mamba2Spec& mixer) {
  if (mixer.bias) return config.fail("mamba_proj_bias", "false", "true", ErrorCode::unsupported);
  if (mixer.dt_min != 0.0F || mixer.dt_max != std::numeric_limits<float>::infinity()) {
    return config.fail("time_step_limit", "no limits, like llama.cpp",
                       config.value_text("time_step_limit"), ErrorCode::unsupported);
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
