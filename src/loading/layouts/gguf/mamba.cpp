// Mamba, Falcon-Mamba and Mamba-2. Both kinds are stored with A instead of A_log.

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "loading/layouts/gguf/hybrid_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

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

// The keys of all but what the kinds differ in; the mixer. llama.cpp has neither biases of the
// projections nor another expansion.
template <class Mixer>
Result<Mixer> describe_model(const ConfigReader& config, const ModelSpec& spec,
                             std::string_view architecture, ConfigObject& metadata) {
  const auto* stored = find_block<Mixer>(spec);
  const bool is_plain = std::ranges::all_of(spec.layers, [](const LayerSpec& layer) {
    return layer.residuals.size() == 1 && find_block<Mixer>(layer) != nullptr;
  });
  if (stored == nullptr || !is_plain) {
    return config.fail("model_type", "layers of one mixer each", "other blocks",
                       ErrorCode::unsupported);
  }
  const Mixer mixer = stored->resolved(spec.d_model());
  if (mixer.bias || !mixer.conv_bias) {
    return config.fail(mixer.bias ? "use_bias" : "use_conv_bias", mixer.bias ? "false" : "true",
                       mixer.bias ? "true" : "false", ErrorCode::unsupported);
  }
  if (mixer.d_inner != 2 * spec.d_model()) {
    return config.fail("expand", "2, the only one that llama.cpp runs",
                       fmt::format("{} channels of {}", mixer.d_inner, spec.d_model()),
                       ErrorCode::unsupported);
  }
  const auto set = [&](const char* key, Index value) {
    metadata.set(fmt::format("{}.{}", architecture, key), value);
  };
  describe_sizes(spec, 0, architecture, metadata);
  set("context_length", gguf_unlimited_context);
  set("feed_forward_length", 0);
  return mixer;
}

Result<void> describe_mamba(const ConfigReader& config, const ModelSpec& spec,
                            ConfigObject& metadata) {
  KRAIT_ASSIGN_OR_RETURN(const auto mixer,
                         describe_model<MambaSpec>(config, spec, "mamba", metadata));
  const bool has_inner_norms = mixer.inner_norm_eps >= 0.0F;
  // llama.cpp has one epsilon for all norms. Published models, 1e-6 inside and 1e-5 outside, are
  // converted all the same, as by its own converter.
  const float eps = std::get<RmsNormSpec>(spec.final_norm).eps;
  if (has_inner_norms && std::abs(mixer.inner_norm_eps - eps) > 1e-5F) {
    return config.fail("mixer_rms_eps",
                       fmt::format("layer_norm_epsilon ({}), the one that llama.cpp knows", eps),
                       fmt::to_string(mixer.inner_norm_eps), ErrorCode::unsupported);
  }
  describe_mixer(mixer, "mamba", metadata);
  metadata.set("mamba.ssm.dt_b_c_rms", has_inner_norms);
  return {};
}

Result<void> describe_mamba2(const ConfigReader& config, const ModelSpec& spec,
                             ConfigObject& metadata) {
  KRAIT_ASSIGN_OR_RETURN(const auto mixer,
                         describe_model<Mamba2Spec>(config, spec, "mamba2", metadata));
  KRAIT_RETURN_IF_ERROR(check_mixer(config, mixer));
  if (mixer.norm != GatedNorm::after_gate) {
    return config.fail("rms_norm", "true, like llama.cpp", "false", ErrorCode::unsupported);
  }
  describe_mixer(mixer, "mamba2", metadata);
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
