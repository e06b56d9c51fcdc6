// Mamba-1 from its two kinds of configuration: that of transformers and that of the original
// state-spaces repository, which MambaByte's authors use as well.

#include "models/families/families.hpp"

namespace krait::inline v0_1 {
namespace {

std::vector<LayerSpec> stack(Index n_layer, const NormSpec& norm, const MambaSpec& mixer) {
  const LayerSpec layer{{{"norm", norm, "mixer", mixer}}};
  return std::vector<LayerSpec>(static_cast<std::size_t>(n_layer), layer);
}

// More layers than any model has; each costs memory before a single tensor is looked up.
constexpr Index most_layers = 4096;

Result<Index> layer_count(const ConfigReader& config, std::string_view key) {
  KRAIT_ASSIGN_OR_RETURN(const Index count, config.number(key, 1, std::nullopt));
  if (count > most_layers) {
    return config.fail(key, fmt::format("at most {} layers", most_layers), fmt::to_string(count));
  }
  return count;
}

bool is_transformers_mamba(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "mamba" && config.has("hidden_size");
}

Result<void> read_transformers(ConfigReader& config, ModelConfig& result) {
  ModelSpec& spec = result.spec;
  spec.family = "mamba";
  spec.embedding_name = "embeddings";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.vocab, config.number("vocab_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, layer_count(config, "num_hidden_layers"));

  MambaSpec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, config.number("state_size", 1, 16));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, config.number("conv_kernel", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, config.number("expand", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_inner, config.number("intermediate_size", 1, Index{0}));
  if (config.has("time_step_rank") && config.value_text("time_step_rank") != "\"auto\"") {
    KRAIT_ASSIGN_OR_RETURN(mixer.dt_rank, config.number("time_step_rank", 1, std::nullopt));
  }
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, config.boolean("use_bias", false));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, config.boolean("use_conv_bias", true));
  KRAIT_ASSIGN_OR_RETURN(const std::string activation, config.text("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return config.fail("hidden_act", "silu", activation, ErrorCode::unsupported);
  }
  // Infinity is also written as 1e20 or more, which no step comes near.
  KRAIT_ASSIGN_OR_RETURN(const auto steps, config.interval("time_step_limit", {0.0, 1e20}));
  if (steps.first > 0.0 || steps.second < 1e20) {
    return config.fail("time_step_limit", "[0, Infinity]", config.value_text("time_step_limit"),
                       ErrorCode::unsupported);
  }

  RmsNormSpec norm;
  KRAIT_ASSIGN_OR_RETURN(norm.eps, config.positive_float("layer_norm_epsilon", 1e-5F));
  spec.layers = stack(n_layer, norm, mixer);
  spec.final_norm = norm;
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_word_embeddings", true));
  KRAIT_ASSIGN_OR_RETURN(result.stop_tokens, config.tokens("eos_token_id"));
  config.skip({"architectures", "torch_dtype", "dtype", "transformers_version", "bos_token_id",
               "pad_token_id", "residual_in_fp32", "rescale_prenorm_residual", "initializer_range",
               "time_step_min", "time_step_max", "time_step_floor", "time_step_scale",
               "time_step_init_scheme", "use_cache", "use_mambapy", "use_associative_scan"});
  return {};
}

bool is_state_spaces(const ConfigReader& config) {
  const auto type = config.text("model_type", "mamba");
  return config.has("d_model") && config.has("n_layer") && type &&
         (*type == "mamba" || *type == "mambabyte");
}

Result<void> check_plain(const ConfigReader& config, const ConfigReader& ssm) {
  KRAIT_ASSIGN_OR_RETURN(const std::string layer, ssm.text("layer", "Mamba1"));
  if (layer != "Mamba1") {
    return ssm.fail("layer", "Mamba1, the one layer this version reads", layer,
                    ErrorCode::unsupported);
  }
  KRAIT_ASSIGN_OR_RETURN(const Index d_intermediate, config.number("d_intermediate", 0, Index{0}));
  if (d_intermediate > 0) {
    return config.fail("d_intermediate", "0; layers with an MLP are not read by this version",
                       fmt::to_string(d_intermediate), ErrorCode::unsupported);
  }
  if (!config.is_empty_list("attn_layer_idx")) {
    return config.fail("attn_layer_idx", "no attention layers", config.value_text("attn_layer_idx"),
                       ErrorCode::unsupported);
  }
  if (config.has("moe_cfg")) {
    return config.fail("moe_cfg", "no mixture of experts, which this version does not read",
                       config.value_text("moe_cfg"), ErrorCode::unsupported);
  }
  return {};
}

Result<void> read_state_spaces(ConfigReader& config, ModelConfig& result) {
  ModelSpec& spec = result.spec;
  spec.family = "mamba";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("d_model", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.vocab, config.number("vocab_size", 1, Index{50277}));
  KRAIT_ASSIGN_OR_RETURN(const Index multiple, config.number("pad_vocab_size_multiple", 1, 8));
  if (multiple > spec.embedding.vocab + 1024) {
    return config.fail("pad_vocab_size_multiple", "a small number", fmt::to_string(multiple));
  }
  spec.embedding.vocab_padded = round_up(spec.embedding.vocab, multiple);
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, layer_count(config, "n_layer"));

  KRAIT_ASSIGN_OR_RETURN(const ConfigReader ssm, config.object("ssm_cfg"));
  KRAIT_RETURN_IF_ERROR(check_plain(config, ssm));
  MambaSpec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, ssm.number("d_state", 1, 16));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, ssm.number("d_conv", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, ssm.number("expand", 1, 2));
  if (ssm.has("dt_rank") && ssm.value_text("dt_rank") != "\"auto\"") {
    KRAIT_ASSIGN_OR_RETURN(mixer.dt_rank, ssm.number("dt_rank", 1, std::nullopt));
  }
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, ssm.boolean("bias", false));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, ssm.boolean("conv_bias", true));
  ssm.skip({"dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path"});

  KRAIT_ASSIGN_OR_RETURN(const bool rms_norm, config.boolean("rms_norm", true));
  KRAIT_ASSIGN_OR_RETURN(const float eps, config.positive_float("norm_epsilon", 1e-5F));
  const NormSpec norm = rms_norm ? NormSpec(RmsNormSpec{eps}) : NormSpec(LayerNormSpec{eps});
  spec.layers = stack(n_layer, norm, mixer);
  spec.final_norm = norm;
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_embeddings", true));
  config.skip({"model_type", "residual_in_fp32", "fused_add_norm", "attn_cfg"});
  result.ignored = ssm.unknown();
  return {};
}

}  // namespace

const Family mamba_family{"mamba", is_transformers_mamba, read_transformers};
const Family state_spaces_mamba_family{"mamba (state-spaces, MambaByte)", is_state_spaces,
                                       read_state_spaces};

}  // namespace krait::inline v0_1
