// Llama and what is built like it: SmolLM2, Mistral. Rows of queries and keys are stored in the
// order in which rotary pairs are neighbours.

#include <fmt/format.h>

#include <cmath>
#include <cstring>

#include "loading/families/attention_parts.hpp"
#include "loading/layouts/gguf/hybrid_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// How positions are scaled: nothing, "linear" or "yarn", whose keys and defaults are llama.cpp's.
Result<void> configure_scaling(const GgufKeys& keys, Index context, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const std::string type, keys.text("rope.scaling.type", "linear"));
  KRAIT_ASSIGN_OR_RETURN(const double factor, rope_factor(keys));
  Metadata::Object scaling = {{"rope_type", type}, {"factor", factor}};
  if (type == "none" || (type == "linear" && factor == 1.0)) return {};
  if (type == "yarn") {
    for (const char* key : {"rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor",
                            "rope.scaling.yarn_log_multiplier"}) {
      if (keys.has(key)) return keys.fail(key, "none", "a number");
    }
    KRAIT_ASSIGN_OR_RETURN(const Index original,
                           keys.number("rope.scaling.original_context_length", 1, context));
    KRAIT_ASSIGN_OR_RETURN(const double fast, keys.real("rope.scaling.yarn_beta_fast", 32.0F));
    KRAIT_ASSIGN_OR_RETURN(const double slow, keys.real("rope.scaling.yarn_beta_slow", 1.0F));
    KRAIT_ASSIGN_OR_RETURN(const double attention, keys.real("rope.scaling.attn_factor", 1.0F));
    scaling.push_back({"original_max_position_embeddings", original});
    scaling.push_back({"beta_fast", fast});
    scaling.push_back({"beta_slow", slow});
    if (attention != 1.0) {
      scaling.push_back({"attention_factor", attention * yarn_magnitude(factor)});
    }
  } else if (type != "linear") {
    return keys.fail("rope.scaling.type", "none, linear or yarn", type);
  }
  config.set("rope_scaling", std::move(scaling));
  return {};
}

// What divides the frequency of each pair; Llama 3's scaling is stored so.
Result<void> configure_divisors(const GgufKeys& keys, Index d_head, ConfigObject& config) {
  const GgufTensor* tensor = keys.tensor("rope_freqs.weight");
  if (tensor == nullptr) return {};
  if (tensor->type.dtype != DType::f32 || tensor->extents != std::vector<Index>{d_head / 2}) {
    return keys.fail("rope_freqs.weight", fmt::format("f32 [{}]", d_head / 2), tensor->describe());
  }
  std::vector<float> values(static_cast<std::size_t>(d_head / 2));
  std::memcpy(values.data(), tensor->data, values.size() * sizeof(float));
  Metadata::Array divisors;
  for (const float value : values) {
    if (!(value > 0.0F && std::isfinite(value))) {
      return keys.fail("rope_freqs.weight", "finite numbers above 0", fmt::to_string(value));
    }
    divisors.emplace_back(static_cast<double>(value));
  }
  config.set("rope_divisors", std::move(divisors));
  return {};
}

Result<void> configure(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, keys.number("embedding_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, keys.number("block_count", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_hidden, keys.number("feed_forward_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, keys.number("attention.head_count", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_kv_head, keys.number("attention.head_count_kv", 1, n_head));
  KRAIT_ASSIGN_OR_RETURN(const Index d_head,
                         keys.number("attention.key_length", 1, d_model / n_head));
  KRAIT_ASSIGN_OR_RETURN(const Index d_rotary, keys.number("rope.dimension_count", 1, d_head));
  KRAIT_ASSIGN_OR_RETURN(const Index context, keys.number("context_length", 1, Index{2048}));
  KRAIT_ASSIGN_OR_RETURN(const Index n_expert, keys.number("expert_count", 0, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const Index vocab, keys.vocab());
  KRAIT_ASSIGN_OR_RETURN(const double eps, keys.real("attention.layer_norm_rms_epsilon", 1e-5F));
  KRAIT_ASSIGN_OR_RETURN(const double theta, keys.real("rope.freq_base", 10000.0F));
  if (n_expert > 0) return keys.fail("expert_count", "0", "a mixture of experts");
  if (d_rotary != d_head) {
    return keys.fail("rope.dimension_count", "all of a head, " + std::to_string(d_head),
                     std::to_string(d_rotary));
  }
  config.set("architectures", Metadata::Array{std::string("LlamaForCausalLM")});
  config.set("model_type", std::string("llama"));
  config.set("hidden_size", d_model);
  config.set("intermediate_size", d_hidden);
  config.set("num_hidden_layers", n_layer);
  config.set("num_attention_heads", n_head);
  config.set("num_key_value_heads", n_kv_head);
  config.set("head_dim", d_head);
  config.set("max_position_embeddings", context);
  config.set("vocab_size", vocab);
  config.set("rms_norm_eps", eps);
  config.set("rope_theta", theta);
  KRAIT_RETURN_IF_ERROR(configure_scaling(keys, context, config));
  KRAIT_RETURN_IF_ERROR(configure_divisors(keys, d_head, config));
  config.set("rope_interleave", true);
  config.set("hidden_act", std::string("silu"));
  config.set("attention_bias", keys.has_tensor("blk.0.attn_q.bias"));
  config.set("mlp_bias", keys.has_tensor("blk.0.ffn_up.bias"));
  config.set("tie_word_embeddings", !keys.has_tensor("output.weight"));
  return {};
}

// What Llama 3's scaling divides frequencies by, for a tensor of the file.
std::vector<float> divisors_of(const RotarySpec& rotary) {
  RotarySpec plain;
  plain.theta = rotary.theta;
  plain.dim = rotary.dim;
  const std::vector<double> from = plain.frequencies();
  const std::vector<double> to = rotary.frequencies();
  std::vector<float> divisors;
  for (std::size_t i = 0; i < to.size(); ++i)
    divisors.push_back(static_cast<float>(from[i] / to[i]));
  return divisors;
}

Result<void> describe(const ConfigReader& config, const ModelSpec& spec, ConfigObject& metadata) {
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("llama.{}", key), std::move(value));
  };
  const auto* stored = find_block<AttentionSpec>(spec);
  const auto* mlp = find_block<MlpSpec>(spec);
  if (stored == nullptr || !stored->rotary || mlp == nullptr) {
    return config.fail("model_type", "layers of attention and a network", "another family's");
  }
  const AttentionSpec attention = stored->resolved(spec.d_model());
  const RotarySpec& rotary = *attention.rotary;
  KRAIT_ASSIGN_OR_RETURN(const Index context,
                         config.number("max_position_embeddings", 1, Index{2048}));
  if (attention.window > 0) {
    return config.fail("sliding_window", "none", fmt::to_string(attention.window),
                       ErrorCode::unsupported);
  }
  const bool is_whole = rotary.dim == attention.d_head && rotary.divisors.empty();
  if (!is_whole || !rotary.whole_pairs) {
    return config.fail(config.has("rope_scaling") ? "rope_scaling" : "rope_parameters",
                       "whole heads rotated, and YaRN with truncate",
                       is_whole ? "another" : "parts of heads, or divisors",
                       ErrorCode::unsupported);
  }
  describe_sizes(spec, attention.n_head, "llama", metadata);
  set("context_length", context);
  set("feed_forward_length", mlp->d_hidden);
  set("attention.head_count_kv", attention.n_kv_head);
  set("attention.key_length", attention.d_head);
  set("attention.value_length", attention.d_head);
  set("rope.dimension_count", attention.d_head);
  set("rope.freq_base", rotary.theta);
  if (rotary.yarn) {
    const double plain = 1.0 / std::sqrt(static_cast<double>(attention.d_head));
    const double magnitude = std::sqrt(static_cast<double>(attention.scale) / plain);
    const double factor = magnitude / yarn_magnitude(rotary.factor);
    set("rope.scaling.type", std::string("yarn"));
    set("rope.scaling.factor", rotary.factor);
    set("rope.scaling.original_context_length", rotary.original_context);
    if (rotary.high_turns != 32.0) set("rope.scaling.yarn_beta_fast", rotary.high_turns);
    if (rotary.low_turns != 1.0) set("rope.scaling.yarn_beta_slow", rotary.low_turns);
    if (std::abs(factor - 1.0) > 1e-6) set("rope.scaling.attn_factor", factor);
  } else if (rotary.factor != 1.0 && rotary.original_context == 0) {
    set("rope.scaling.type", std::string("linear"));
    set("rope.scaling.factor", rotary.factor);
  }
  return {};
}

std::vector<GgufMadeTensor> made_tensors(const ModelSpec& spec) {
  const AttentionSpec attention =
      find_block<AttentionSpec>(spec)->resolved(spec.d_model());  // `describe` has seen it
  if (attention.rotary->original_context == 0 || attention.rotary->yarn) return {};
  return {{"rope_freqs.weight", divisors_of(*attention.rotary)}};
}

constexpr std::string_view types[] = {"llama", "mistral"};

constexpr GgufName names[] = {
    {"rope_freqs.weight", ""},  // the configuration has it
    {"token_embd.weight", "model.embed_tokens.weight"},
    {"output_norm.weight", "model.norm.weight"},
    {"output.weight", "lm_head.weight"},
    {"blk.*.attn_norm.weight", "model.layers.*.input_layernorm.weight"},
    {"blk.*.attn_q.weight", "model.layers.*.self_attn.q_proj.weight", GgufShape::same,
     GgufValues::pairs},
    {"blk.*.attn_k.weight", "model.layers.*.self_attn.k_proj.weight", GgufShape::same,
     GgufValues::pairs},
    {"blk.*.attn_v.weight", "model.layers.*.self_attn.v_proj.weight"},
    {"blk.*.attn_output.weight", "model.layers.*.self_attn.o_proj.weight"},
    {"blk.*.attn_q.bias", "model.layers.*.self_attn.q_proj.bias", GgufShape::same,
     GgufValues::pairs},
    {"blk.*.attn_k.bias", "model.layers.*.self_attn.k_proj.bias", GgufShape::same,
     GgufValues::pairs},
    {"blk.*.attn_v.bias", "model.layers.*.self_attn.v_proj.bias"},
    {"blk.*.attn_output.bias", "model.layers.*.self_attn.o_proj.bias"},
    {"blk.*.ffn_norm.weight", "model.layers.*.post_attention_layernorm.weight"},
    {"blk.*.ffn_gate.weight", "model.layers.*.mlp.gate_proj.weight"},
    {"blk.*.ffn_up.weight", "model.layers.*.mlp.up_proj.weight"},
    {"blk.*.ffn_down.weight", "model.layers.*.mlp.down_proj.weight"},
    {"blk.*.ffn_gate.bias", "model.layers.*.mlp.gate_proj.bias"},
    {"blk.*.ffn_up.bias", "model.layers.*.mlp.up_proj.bias"},
    {"blk.*.ffn_down.bias", "model.layers.*.mlp.down_proj.bias"},
};

}  // namespace

const GgufArchitecture gguf_llama{"llama", types,   configure, describe,
                                  names,   nullptr, nullptr,   made_tensors};

}  // namespace v0_1
}  // namespace krait
