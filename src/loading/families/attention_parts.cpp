#include "loading/families/attention_parts.hpp"

#include <algorithm>
#include <cmath>

namespace krait {
inline namespace v0_1 {

Result<Outline> read_outline(const ConfigReader& config, std::string_view family, float eps,
                             ModelConfig& result, std::optional<Index> n_layer) {
  ModelSpec& spec = result.spec;
  spec.family = family;
  spec.embedding_name = "embed_tokens";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.vocab, config.number("vocab_size", 1, std::nullopt));
  Outline outline;
  if (n_layer) {
    outline.n_layer = *n_layer;
  } else {
    KRAIT_ASSIGN_OR_RETURN(outline.n_layer, layer_count(config, "num_hidden_layers"));
  }
  KRAIT_ASSIGN_OR_RETURN(outline.norm.eps, config.positive_float("rms_norm_eps", eps));
  spec.final_norm = outline.norm;
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_word_embeddings", false));
  KRAIT_ASSIGN_OR_RETURN(result.stop_tokens, config.tokens("eos_token_id"));
  config.skip({"architectures",
               "model_type",
               "torch_dtype",
               "dtype",
               "transformers_version",
               "auto_map",
               "_name_or_path",
               "bos_token_id",
               "pad_token_id",
               "initializer_range",
               "use_cache",
               "max_position_embeddings",
               "attention_dropout",
               "pretraining_tp",
               "num_logits_to_keep",
               "output_router_logits",
               "router_aux_loss_coef",
               "z_loss_coefficient",
               "mamba_chunk_size",
               "use_mamba_kernels",
               "use_mambapy",
               "use_associative_scan"});
  return outline;
}

Result<AttentionSpec> read_attention(const ConfigReader& config, Index n_kv_head) {
  AttentionSpec attention;
  KRAIT_ASSIGN_OR_RETURN(attention.n_head, config.number("num_attention_heads", 1, std::nullopt));
  constexpr const char* kv_heads = "num_key_value_heads";
  if (config.is_null(kv_heads)) n_kv_head = 0;  // the classes' default is that of a missing key
  KRAIT_ASSIGN_OR_RETURN(attention.n_kv_head, config.number(kv_heads, 1, n_kv_head));
  KRAIT_ASSIGN_OR_RETURN(attention.d_head, config.number("head_dim", 1, Index{0}));
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, config.number("hidden_size", 1, std::nullopt));
  if (attention.d_head == 0) attention.d_head = d_model / attention.n_head;
  if (attention.d_head == 0) {
    return config.fail("num_attention_heads", fmt::format("at most hidden_size ({})", d_model),
                       fmt::to_string(attention.n_head));
  }
  KRAIT_ASSIGN_OR_RETURN(attention.bias, config.boolean("attention_bias", false));
  attention.out_bias = attention.bias;
  return attention;
}

namespace {

// A number that stands for another one where it is 0, as Python's `or` has it.
Result<double> real_or(const ConfigReader& config, std::string_view key, double fallback) {
  KRAIT_ASSIGN_OR_RETURN(const double value, config.real(key, fallback));
  return value == 0.0 ? fallback : value;
}

Result<void> read_yarn(const ConfigReader& scaling, Index context, RotarySpec& rotary,
                       double& magnitude) {
  rotary.yarn = true;
  KRAIT_ASSIGN_OR_RETURN(rotary.original_context,
                         scaling.number("original_max_position_embeddings", 1, context));
  const double ratio = static_cast<double>(context) / static_cast<double>(rotary.original_context);
  KRAIT_ASSIGN_OR_RETURN(rotary.factor, scaling.real("factor", ratio));
  KRAIT_ASSIGN_OR_RETURN(rotary.high_turns, real_or(scaling, "beta_fast", 32.0));
  KRAIT_ASSIGN_OR_RETURN(rotary.low_turns, real_or(scaling, "beta_slow", 1.0));
  KRAIT_ASSIGN_OR_RETURN(rotary.whole_pairs, scaling.boolean("truncate", true));
  KRAIT_ASSIGN_OR_RETURN(const double weight, scaling.real("mscale", 0.0));
  KRAIT_ASSIGN_OR_RETURN(const double divisor, scaling.real("mscale_all_dim", 0.0));
  magnitude = yarn_magnitude(rotary.factor);
  if (weight != 0.0 && divisor != 0.0) {
    magnitude = yarn_magnitude(rotary.factor, weight) / yarn_magnitude(rotary.factor, divisor);
  }
  KRAIT_ASSIGN_OR_RETURN(magnitude, scaling.real("attention_factor", magnitude));
  if (!(magnitude > 0.0)) {
    return scaling.fail("attention_factor", "a number above 0", fmt::to_string(magnitude));
  }
  return {};
}

// "rope_type" and what belongs to it, of an object that says how positions are scaled.
Result<void> read_scaling(const ConfigReader& scaling, Index context, RotarySpec& rotary,
                          double& magnitude) {
  KRAIT_ASSIGN_OR_RETURN(const std::string old_type, scaling.text("type", "default"));
  KRAIT_ASSIGN_OR_RETURN(const std::string type, scaling.text("rope_type", old_type));
  if (type == "default") return {};
  if (type == "yarn") return read_yarn(scaling, context, rotary, magnitude);
  if (type != "linear" && type != "llama3") {
    return scaling.fail("rope_type", "default, linear, llama3 or yarn", type,
                        ErrorCode::unsupported);
  }
  KRAIT_ASSIGN_OR_RETURN(rotary.factor, scaling.real("factor", 1.0));
  if (type == "linear") return {};
  KRAIT_ASSIGN_OR_RETURN(rotary.low_turns, scaling.real("low_freq_factor", 1.0));
  KRAIT_ASSIGN_OR_RETURN(rotary.high_turns, scaling.real("high_freq_factor", 4.0));
  KRAIT_ASSIGN_OR_RETURN(rotary.original_context,
                         scaling.number("original_max_position_embeddings", 1, context));
  return {};
}

}  // namespace

double yarn_magnitude(double factor, double weight) {
  return factor > 1.0 ? 0.1 * weight * kernels::rotary_log(factor) + 1.0 : 1.0;
}

Result<void> read_rotary(const ConfigReader& config, AttentionSpec& attention, double part,
                         ModelConfig& result) {
  RotarySpec rotary;
  double magnitude = 1.0;
  KRAIT_ASSIGN_OR_RETURN(const Index context, config.number("max_position_embeddings", 1, 2048));
  KRAIT_ASSIGN_OR_RETURN(rotary.theta, config.real("rope_theta", 10000.0));
  KRAIT_ASSIGN_OR_RETURN(part, config.real("partial_rotary_factor", part));
  // transformers 5 has all of it in one object.
  for (const char* key : {"rope_scaling", "rope_parameters"}) {
    KRAIT_ASSIGN_OR_RETURN(const ConfigReader object, config.object(key));
    if (!config.has(key)) continue;
    KRAIT_ASSIGN_OR_RETURN(rotary.theta, object.real("rope_theta", rotary.theta));
    KRAIT_ASSIGN_OR_RETURN(part, object.real("partial_rotary_factor", part));
    KRAIT_RETURN_IF_ERROR(read_scaling(object, context, rotary, magnitude));
    for (std::string& unknown : object.unknown()) result.ignored.push_back(std::move(unknown));
  }
  // What llama.cpp stores has neighbours as pairs, and divisors; layouts/gguf/ says so.
  KRAIT_ASSIGN_OR_RETURN(rotary.interleaved, config.boolean("rope_interleave", false));
  if (!(part > 0.0 && part <= 1.0)) {
    return config.fail("partial_rotary_factor", "a number above 0, at most 1",
                       fmt::to_string(part));
  }
  rotary.dim = static_cast<Index>(std::floor(static_cast<double>(attention.d_head) * part));
  if (config.has("rope_divisors")) {
    KRAIT_ASSIGN_OR_RETURN(const auto divisors,
                           config.reals("rope_divisors", static_cast<std::size_t>(rotary.dim / 2)));
    rotary.divisors.assign(divisors.begin(), divisors.end());
  }
  if (magnitude != 1.0) {
    if (rotary.dim != attention.d_head) {
      return config.fail("partial_rotary_factor", "1, beside a factor of queries and keys",
                         fmt::to_string(part), ErrorCode::unsupported);
    }
    const double scale =
        static_cast<double>(attention.resolved(attention.n_head * attention.d_head).scale);
    attention.scale = static_cast<float>(scale * magnitude * magnitude);
  }
  attention.rotary = std::move(rotary);
  return {};
}

Result<Mamba2Spec> read_mamba2(const ConfigReader& config, float norm_eps) {
  Mamba2Spec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, config.number("mamba_expand", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(const Index d_model, config.number("hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("mamba_n_heads", 1, 128));
  if (config.value_text("mamba_d_head") == "\"auto\"" || !config.has("mamba_d_head")) {
    KRAIT_ASSIGN_OR_RETURN(const Index d_inner,
                           config.number("mamba_d_ssm", 1, mixer.expand * d_model));
    mixer.head_dim = std::max<Index>(1, d_inner / n_head);
  } else {
    KRAIT_ASSIGN_OR_RETURN(mixer.head_dim, config.number("mamba_d_head", 1, std::nullopt));
  }
  mixer.d_inner = n_head * mixer.head_dim;
  KRAIT_ASSIGN_OR_RETURN(mixer.n_group, config.number("mamba_n_groups", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, config.number("mamba_d_state", 1, 256));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, config.number("mamba_d_conv", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, config.boolean("mamba_conv_bias", true));
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, config.boolean("mamba_proj_bias", false));
  mixer.norm_eps = norm_eps;
  KRAIT_ASSIGN_OR_RETURN(const auto steps, step_limits(config, "time_step_limit"));
  mixer.dt_min = steps.first;
  mixer.dt_max = steps.second;
  return mixer;
}

Result<void> check_channels(const ConfigReader& config, std::string_view key,
                            const Mamba2Spec& mixer, Index d_inner) {
  if (mixer.d_inner == d_inner) return {};
  return config.fail(key, fmt::format("{} channels in heads of {}", d_inner, mixer.head_dim),
                     fmt::format("{} heads", mixer.d_inner / mixer.head_dim));
}

Result<MlpSpec> read_swiglu(const ConfigReader& config) {
  MlpSpec mlp{.gate = "gate_proj"};
  KRAIT_ASSIGN_OR_RETURN(mlp.d_hidden, config.number("intermediate_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(mlp.bias, config.boolean("mlp_bias", false));
  KRAIT_RETURN_IF_ERROR(check_silu(config, "hidden_act"));
  return mlp;
}

Result<std::vector<LayerKind>> read_layer_kinds(const ConfigReader& config,
                                                std::initializer_list<LayerKind> allowed) {
  struct Word {
    std::string_view word;
    LayerKind kind;
  };
  // The words of transformers 5 and those before.
  constexpr Word words[] = {{"mamba", LayerKind::mixer},
                            {"linear_attention", LayerKind::mixer},
                            {"attention", LayerKind::attention},
                            {"full_attention", LayerKind::attention},
                            {"mlp", LayerKind::mlp},
                            {"moe", LayerKind::experts},
                            {"hybrid", LayerKind::hybrid}};
  std::vector<LayerKind> kinds;
  for (const char* key : {"layer_types", "layers_block_type"}) {
    if (!config.has(key) || !kinds.empty()) continue;
    KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> texts, config.texts(key));
    if (std::ssize(texts) > most_layers) {
      return config.fail(key, fmt::format("at most {} layers", most_layers),
                         fmt::to_string(texts.size()));
    }
    for (const std::string& text : texts) {
      const auto found = std::ranges::find(words, std::string_view(text), &Word::word);
      if (found == std::end(words) ||
          std::find(allowed.begin(), allowed.end(), found->kind) == allowed.end()) {
        std::string list;
        for (const Word& word : words) {
          if (std::find(allowed.begin(), allowed.end(), word.kind) == allowed.end()) continue;
          list += (list.empty() ? "" : ", ") + std::string(word.word);
        }
        return config.fail(key, "one of " + list, text, ErrorCode::unsupported);
      }
      kinds.push_back(found->kind);
    }
  }
  return kinds;
}

}  // namespace v0_1
}  // namespace krait
