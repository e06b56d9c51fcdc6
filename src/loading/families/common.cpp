#include "loading/families/common.hpp"

#include <limits>

namespace krait {
inline namespace v0_1 {

Result<Index> layer_count(const ConfigReader& config, std::string_view key,
                          std::optional<Index> fallback) {
  KRAIT_ASSIGN_OR_RETURN(const Index count, config.number(key, 1, fallback));
  if (count > most_layers) {
    return config.fail(key, fmt::format("at most {} layers", most_layers), fmt::to_string(count));
  }
  return count;
}

Result<void> read_padded_vocab(const ConfigReader& config, std::optional<Index> fallback,
                               EmbeddingSpec& embedding) {
  KRAIT_ASSIGN_OR_RETURN(embedding.vocab, config.number("vocab_size", 1, fallback));
  KRAIT_ASSIGN_OR_RETURN(const Index multiple, config.number("pad_vocab_size_multiple", 1, 8));
  if (multiple > embedding.vocab + 1024) {
    return config.fail("pad_vocab_size_multiple", "a small number", fmt::to_string(multiple));
  }
  embedding.vocab_padded = round_up(embedding.vocab, multiple);
  return {};
}

std::vector<LayerSpec> stack(Index n_layer, const LayerSpec& layer) {
  return std::vector<LayerSpec>(static_cast<std::size_t>(n_layer), layer);
}

Result<void> check_silu(const ConfigReader& config, std::string_view key) {
  KRAIT_ASSIGN_OR_RETURN(const std::string activation, config.text(key, "silu"));
  if (activation == "silu" || activation == "swish") return {};
  return config.fail(key, "silu", activation, ErrorCode::unsupported);
}

Result<std::pair<float, float>> step_limits(const ConfigReader& config, std::string_view key) {
  constexpr double infinity = std::numeric_limits<double>::infinity();
  constexpr double never_reached = 1e20;
  KRAIT_ASSIGN_OR_RETURN(auto limits, config.interval(key, {0.0, infinity}));
  if (limits.first < 0.0) {
    return config.fail(key, "limits of at least 0", config.value_text(key));
  }
  if (limits.second >= never_reached) limits.second = infinity;
  if (limits.first >= never_reached) {
    return config.fail(key, "a lower limit that steps can reach", config.value_text(key));
  }
  return std::pair{static_cast<float>(limits.first), static_cast<float>(limits.second)};
}

Result<MambaSpec> read_transformers_mamba(const ConfigReader& config) {
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
  KRAIT_RETURN_IF_ERROR(check_silu(config, "hidden_act"));
  config.skip({"time_step_limit"});  // the classes of Mamba-1 do not look at it
  return mixer;
}

Result<void> read_transformers_model(const ConfigReader& config, const BlockSpec& mixer,
                                     const TransformersDefaults& defaults, ModelConfig& result) {
  ModelSpec& spec = result.spec;
  spec.embedding_name = "embeddings";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("hidden_size", 1, defaults.d_model));
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.vocab, config.number("vocab_size", 1, defaults.vocab));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer,
                         layer_count(config, "num_hidden_layers", defaults.n_layer));
  RmsNormSpec norm;
  KRAIT_ASSIGN_OR_RETURN(norm.eps, config.positive_float("layer_norm_epsilon", 1e-5F));
  spec.layers = stack(n_layer, {{{"norm", norm, "mixer", mixer}}});
  spec.final_norm = norm;
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_word_embeddings", defaults.tied_head));
  KRAIT_ASSIGN_OR_RETURN(result.stop_tokens, config.tokens("eos_token_id"));
  config.skip({"architectures", "model_type", "torch_dtype", "dtype", "transformers_version",
               "bos_token_id", "pad_token_id", "residual_in_fp32", "rescale_prenorm_residual",
               "initializer_range", "time_step_min", "time_step_max", "time_step_floor",
               "time_step_scale", "time_step_init_scheme", "use_cache", "use_mambapy",
               "use_associative_scan"});
  return {};
}

}  // namespace v0_1
}  // namespace krait
