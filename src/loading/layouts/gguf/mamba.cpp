// Mamba, Falcon-Mamba and Mamba-2. Both kinds are stored with A instead of A_log.

#include <fmt/format.h>

#include "loading/layouts/gguf/architecture.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

struct BlockSizes {
  Index d_model = 0;
  Index d_inner = 0;
  Index d_state = 0;
};

Result<void> configure_model(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, keys.number("embedding_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, keys.number("block_count", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index vocab, keys.vocab());
  KRAIT_ASSIGN_OR_RETURN(const Index d_state, keys.number("ssm.state_size", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index d_conv, keys.number("ssm.conv_kernel", 1));
  KRAIT_ASSIGN_OR_RETURN(const double eps, keys.real("attention.layer_norm_rms_epsilon", 1e-5F));
  config.set("hidden_size", d_model);
  config.set("num_hidden_layers", n_layer);
  config.set("vocab_size", vocab);
  config.set("state_size", d_state);
  config.set("conv_kernel", d_conv);
  config.set("layer_norm_epsilon", eps);
  config.set("hidden_act", std::string("silu"));
  config.set("use_bias", keys.has_tensor("blk.0.ssm_in.bias"));
  config.set("use_conv_bias", keys.has_tensor("blk.0.ssm_conv1d.bias"));
  config.set("tie_word_embeddings", !keys.has_tensor("output.weight"));
  return {};
}

Result<void> configure_mamba(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const bool has_inner_norms, keys.boolean("ssm.dt_b_c_rms", false));
  KRAIT_ASSIGN_OR_RETURN(const Index d_inner, keys.number("ssm.inner_size", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index dt_rank, keys.number("ssm.time_step_rank", 1));
  KRAIT_ASSIGN_OR_RETURN(const double eps, keys.real("attention.layer_norm_rms_epsilon", 1e-5F));
  const std::string type = has_inner_norms ? "falcon_mamba" : "mamba";
  config.set("architectures", Metadata::Array{std::string(has_inner_norms ? "FalconMambaForCausalLM"
                                                                          : "MambaForCausalLM")});
  config.set("model_type", type);
  KRAIT_RETURN_IF_ERROR(configure_model(keys, config));
  config.set("intermediate_size", d_inner);
  config.set("time_step_rank", dt_rank);
  // The file has one epsilon for all norms.
  if (has_inner_norms) config.set("mixer_rms_eps", eps);
  return {};
}

Result<void> configure_mamba2(const GgufKeys& keys, ConfigObject& config) {
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, keys.number("embedding_length", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, keys.number("ssm.time_step_rank", 1));
  KRAIT_ASSIGN_OR_RETURN(const Index n_group, keys.number("ssm.group_count", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(const Index expand, keys.expansion(d_model));
  KRAIT_ASSIGN_OR_RETURN(const Index head_dim, keys.mixer_head_dim());
  config.set("architectures", Metadata::Array{std::string("Mamba2ForCausalLM")});
  config.set("model_type", std::string("mamba2"));
  KRAIT_RETURN_IF_ERROR(configure_model(keys, config));
  config.set("expand", expand);
  config.set("num_heads", n_head);
  config.set("head_dim", head_dim);
  config.set("n_groups", n_group);
  return {};
}

// llama.cpp has neither another activation nor biases of the projections.
Result<void> describe_model(const ConfigReader& config, std::string_view architecture,
                            const BlockSizes& sizes, ConfigObject& metadata) {
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, config.number("num_hidden_layers", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index d_state, config.number("state_size", 1, sizes.d_state));
  KRAIT_ASSIGN_OR_RETURN(const Index d_conv, config.number("conv_kernel", 1, Index{4}));
  KRAIT_ASSIGN_OR_RETURN(const float eps, config.positive_float("layer_norm_epsilon", 1e-5F));
  KRAIT_ASSIGN_OR_RETURN(const bool has_bias, config.boolean("use_bias", false));
  KRAIT_ASSIGN_OR_RETURN(const bool has_conv_bias, config.boolean("use_conv_bias", true));
  if (has_bias || !has_conv_bias) {
    return config.fail(has_bias ? "use_bias" : "use_conv_bias", has_bias ? "false" : "true",
                       has_bias ? "true" : "false", ErrorCode::unsupported);
  }
  if (sizes.d_inner != 2 * sizes.d_model) {
    return config.fail("expand", "2, the only one that llama.cpp runs",
                       fmt::format("{} channels of {}", sizes.d_inner, sizes.d_model),
                       ErrorCode::unsupported);
  }
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("{}.{}", architecture, key), std::move(value));
  };
  set("context_length", gguf_unlimited_context);
  set("embedding_length", sizes.d_model);
  set("feed_forward_length", 0);
  set("attention.head_count", 0);
  set("block_count", n_layer);
  set("ssm.conv_kernel", d_conv);
  set("ssm.inner_size", sizes.d_inner);
  set("ssm.state_size", d_state);
  set("attention.layer_norm_rms_epsilon", static_cast<double>(eps));
  KRAIT_ASSIGN_OR_RETURN(const Index vocab, config.number("vocab_size", 1, std::nullopt));
  set("vocab_size", vocab);
  return {};
}

Result<void> describe_mamba(const ConfigReader& config, const ModelSpec& /*spec*/,
                            ConfigObject& metadata) {
  BlockSizes sizes{.d_state = 16};
  KRAIT_ASSIGN_OR_RETURN(sizes.d_model, config.number("hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index expand, config.number("expand", 1, Index{2}));
  KRAIT_ASSIGN_OR_RETURN(sizes.d_inner,
                         config.number("intermediate_size", 1, expand * sizes.d_model));
  KRAIT_RETURN_IF_ERROR(describe_model(config, "mamba", sizes, metadata));
  Index dt_rank = (sizes.d_model + 15) / 16;
  if (config.value_text("time_step_rank") != "\"auto\"") {
    KRAIT_ASSIGN_OR_RETURN(dt_rank, config.number("time_step_rank", 1, dt_rank));
  }
  KRAIT_ASSIGN_OR_RETURN(const std::string type, config.text("model_type", ""));
  metadata.set("mamba.ssm.time_step_rank", dt_rank);
  metadata.set("mamba.ssm.dt_b_c_rms", type == "falcon_mamba");
  return {};
}

Result<void> describe_mamba2(const ConfigReader& config, const ModelSpec& /*spec*/,
                             ConfigObject& metadata) {
  BlockSizes sizes{.d_state = 128};
  KRAIT_ASSIGN_OR_RETURN(sizes.d_model, config.number("hidden_size", 1, Index{4096}));
  KRAIT_ASSIGN_OR_RETURN(const Index expand, config.number("expand", 1, Index{2}));
  KRAIT_ASSIGN_OR_RETURN(const Index head_dim, config.number("head_dim", 1, Index{64}));
  KRAIT_ASSIGN_OR_RETURN(const Index n_group, config.number("n_groups", 1, Index{8}));
  sizes.d_inner = expand * sizes.d_model;
  KRAIT_RETURN_IF_ERROR(describe_model(config, "mamba2", sizes, metadata));
  metadata.set("mamba2.ssm.time_step_rank", sizes.d_inner / head_dim);
  metadata.set("mamba2.ssm.group_count", n_group);
  return {};
}

constexpr GgufName mamba_names[] = {
    {"token_embd.weight", "backbone.embeddings.weight"},
    {"output_norm.weight", "backbone.norm_f.weight"},
    {"output.weight", "lm_head.weight"},
    {"blk.*.attn_norm.weight", "backbone.layers.*.norm.weight"},
    {"blk.*.ssm_in.weight", "backbone.layers.*.mixer.in_proj.weight"},
    {"blk.*.ssm_in.bias", "backbone.layers.*.mixer.in_proj.bias"},
    {"blk.*.ssm_conv1d.weight", "backbone.layers.*.mixer.conv1d.weight", GgufShape::depthwise},
    {"blk.*.ssm_conv1d.bias", "backbone.layers.*.mixer.conv1d.bias"},
    {"blk.*.ssm_x.weight", "backbone.layers.*.mixer.x_proj.weight"},
    {"blk.*.ssm_dt.weight", "backbone.layers.*.mixer.dt_proj.weight"},
    {"blk.*.ssm_dt.bias", "backbone.layers.*.mixer.dt_proj.bias"},
    {"blk.*.ssm_a", "backbone.layers.*.mixer.A_log", GgufShape::same, GgufValues::negative_exp},
    {"blk.*.ssm_d", "backbone.layers.*.mixer.D"},
    {"blk.*.ssm_out.weight", "backbone.layers.*.mixer.out_proj.weight"},
    {"blk.*.ssm_out.bias", "backbone.layers.*.mixer.out_proj.bias"},
};

constexpr std::string_view mamba_types[] = {"mamba", "falcon_mamba"};
constexpr std::string_view mamba2_types[] = {"mamba2"};

constexpr GgufName mamba2_names[] = {
    {"token_embd.weight", "backbone.embeddings.weight"},
    {"output_norm.weight", "backbone.norm_f.weight"},
    {"output.weight", "lm_head.weight"},
    {"blk.*.attn_norm.weight", "backbone.layers.*.norm.weight"},
    {"blk.*.ssm_in.weight", "backbone.layers.*.mixer.in_proj.weight"},
    {"blk.*.ssm_in.bias", "backbone.layers.*.mixer.in_proj.bias"},
    {"blk.*.ssm_conv1d.weight", "backbone.layers.*.mixer.conv1d.weight", GgufShape::depthwise},
    {"blk.*.ssm_conv1d.bias", "backbone.layers.*.mixer.conv1d.bias"},
    {"blk.*.ssm_dt.bias", "backbone.layers.*.mixer.dt_bias"},
    {"blk.*.ssm_a", "backbone.layers.*.mixer.A_log", GgufShape::column, GgufValues::negative_exp},
    {"blk.*.ssm_d", "backbone.layers.*.mixer.D", GgufShape::column},
    {"blk.*.ssm_norm.weight", "backbone.layers.*.mixer.norm.weight", GgufShape::groups},
    {"blk.*.ssm_out.weight", "backbone.layers.*.mixer.out_proj.weight"},
    {"blk.*.ssm_out.bias", "backbone.layers.*.mixer.out_proj.bias"},
};

}  // namespace

const GgufArchitecture gguf_mamba{"mamba", mamba_types, configure_mamba, describe_mamba,
                                  mamba_names};
const GgufArchitecture gguf_mamba2{"mamba2", mamba2_types, configure_mamba2, describe_mamba2,
                                   mamba2_names};

}  // namespace v0_1
}  // namespace krait
