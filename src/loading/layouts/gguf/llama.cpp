// Llama and what is built like it: SmolLM2, Mistral. Rows of queries and keys are stored in the
// order in which rotary pairs are neighbours.

#include "loading/layouts/gguf/architecture.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

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
  KRAIT_ASSIGN_OR_RETURN(const std::string scaling, keys.text("rope.scaling.type", "none"));
  KRAIT_ASSIGN_OR_RETURN(const double factor, keys.real("rope.scaling.factor", 1.0F));
  if (n_expert > 0) return keys.fail("expert_count", "0", "a mixture of experts");
  if (d_rotary != d_head) {
    return keys.fail("rope.dimension_count", "all of a head, " + std::to_string(d_head),
                     std::to_string(d_rotary));
  }
  if (keys.has_tensor("rope_freqs.weight")) {
    return keys.fail("rope_freqs.weight", "no frequencies of its own", "a tensor of them");
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
  if (scaling == "linear" && factor != 1.0) {
    config.set("rope_scaling",
               Metadata::Object{{"rope_type", std::string("linear")}, {"factor", factor}});
  } else if (scaling != "none" && scaling != "linear") {
    return keys.fail("rope.scaling.type", "none or linear", scaling);
  }
  config.set("rope_interleave", true);
  config.set("hidden_act", std::string("silu"));
  config.set("attention_bias", keys.has_tensor("blk.0.attn_q.bias"));
  config.set("mlp_bias", keys.has_tensor("blk.0.ffn_up.bias"));
  config.set("tie_word_embeddings", !keys.has_tensor("output.weight"));
  return {};
}

Result<void> describe(const ConfigReader& config, const ModelSpec& /*spec*/,
                      ConfigObject& metadata) {
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, config.number("hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, config.number("num_hidden_layers", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index d_hidden, config.number("intermediate_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("num_attention_heads", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index n_kv_head, config.number("num_key_value_heads", 1, n_head));
  KRAIT_ASSIGN_OR_RETURN(const Index d_head, config.number("head_dim", 1, d_model / n_head));
  KRAIT_ASSIGN_OR_RETURN(const Index context,
                         config.number("max_position_embeddings", 1, Index{2048}));
  KRAIT_ASSIGN_OR_RETURN(const Index vocab, config.number("vocab_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const float eps, config.positive_float("rms_norm_eps", 1e-6F));
  KRAIT_ASSIGN_OR_RETURN(const float theta, config.positive_float("rope_theta", 10000.0F));
  for (const char* key : {"rope_scaling", "rope_parameters", "sliding_window"}) {
    if (config.has(key)) {
      return config.fail(key, "none", config.value_text(key), ErrorCode::unsupported);
    }
  }
  metadata.set("llama.context_length", context);
  metadata.set("llama.embedding_length", d_model);
  metadata.set("llama.feed_forward_length", d_hidden);
  metadata.set("llama.block_count", n_layer);
  metadata.set("llama.attention.head_count", n_head);
  metadata.set("llama.attention.head_count_kv", n_kv_head);
  metadata.set("llama.attention.key_length", d_head);
  metadata.set("llama.attention.value_length", d_head);
  metadata.set("llama.rope.dimension_count", d_head);
  metadata.set("llama.rope.freq_base", static_cast<double>(theta));
  metadata.set("llama.attention.layer_norm_rms_epsilon", static_cast<double>(eps));
  metadata.set("llama.vocab_size", vocab);
  return {};
}

constexpr std::string_view types[] = {"llama", "mistral"};

constexpr GgufName names[] = {
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

const GgufArchitecture gguf_llama{"llama", types, configure, describe, names};

}  // namespace v0_1
}  // namespace krait
