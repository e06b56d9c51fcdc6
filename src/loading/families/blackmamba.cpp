// BlackMamba (Anthony et al. 2024, arXiv:2402.01771) in its authors' layout: Megatron's names, and
// a pattern that gives every layer its kind.

#include "io/json.hpp"
#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_blackmamba(const ConfigReader& config) { return config.has("mamba_moe_layers"); }

struct Sizes {
  Index d_state = 0;
  Index d_conv = 0;
  Index expand = 0;
  Index d_expert = 0;
  bool bias = false;
};

MambaSpec mixer_of(const Sizes& sizes) {
  return {
      .d_state = sizes.d_state, .d_conv = sizes.d_conv, .expand = sizes.expand, .bias = sizes.bias};
}

// A single expert is a plain feed-forward network.
BlockSpec experts_of(const Sizes& sizes, Index n_expert) {
  const std::string up = "linear_fc1";
  const std::string down = "linear_fc2";
  if (n_expert == 1) {
    return MlpSpec{.d_hidden = sizes.d_expert, .bias = sizes.bias, .up = up, .down = down};
  }
  return MoeSpec{.n_expert = n_expert,
                 .top_k = 1,
                 .d_expert = sizes.d_expert,
                 .router = {.score = kernels::RouterScore::sigmoid, .bias = true},
                 .activation = Activation::silu,
                 .gated = true,
                 .bias = sizes.bias,
                 .names = {.experts = "local_experts", .up = up, .down = down}};
}

// "r": a mixer; a number: so many experts; "r" and a number: both beside each other.
std::optional<LayerSpec> layer_of(std::string_view kind, const Sizes& sizes) {
  const bool has_mixer = kind.starts_with('r');
  const std::string_view digits = kind.substr(has_mixer ? 1 : 0);
  constexpr std::size_t most_digits = 6;
  if (digits.size() > most_digits || (digits.empty() && !has_mixer)) return std::nullopt;
  Index n_expert = 0;
  for (const char digit : digits) {
    if (digit < '0' || digit > '9') return std::nullopt;
    n_expert = n_expert * 10 + (digit - '0');
  }
  if (!digits.empty() && n_expert == 0) return std::nullopt;
  LayerSpec layer;
  const RmsNormSpec norm;
  if (has_mixer) layer.residuals.push_back({"norm", norm, "mixer", mixer_of(sizes)});
  if (!digits.empty()) {
    layer.residuals.push_back({.norm_name = has_mixer ? "norm_moe" : "norm",
                               .norm = norm,
                               .block_name = has_mixer ? "moe" : "mixer",
                               .block = experts_of(sizes, n_expert),
                               .beside = has_mixer});
  }
  return layer;
}

Result<void> read_blackmamba(const ConfigReader& config, const TensorNames& /*tensors*/,
                             ModelConfig& result) {
  ModelSpec& spec = result.spec;
  spec.family = "blackmamba";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.vocab, config.number("vocab_size", 1, std::nullopt));
  Sizes sizes;
  KRAIT_ASSIGN_OR_RETURN(sizes.d_state, config.number("state_size", 1, 16));
  KRAIT_ASSIGN_OR_RETURN(sizes.d_conv, config.number("conv_dimension", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(sizes.expand, config.number("expansion_factor", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(sizes.d_expert, config.number("ffn_hidden_size", 1, std::nullopt));
  KRAIT_ASSIGN_OR_RETURN(sizes.bias, config.boolean("add_bias_linear", false));
  KRAIT_ASSIGN_OR_RETURN(const bool swiglu, config.boolean("swiglu", true));
  if (!swiglu) return config.fail("swiglu", "true", "false", ErrorCode::unsupported);

  KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> kinds, config.texts("mamba_moe_layers"));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer,
                         layer_count(config, "num_layers", std::max<Index>(1, std::ssize(kinds))));
  if (n_layer != std::ssize(kinds)) {
    return config.fail("mamba_moe_layers", fmt::format("one entry per layer ({})", n_layer),
                       fmt::to_string(kinds.size()));
  }
  for (const std::string& kind : kinds) {
    const auto layer = layer_of(kind, sizes);
    if (!layer) {
      return config.fail("mamba_moe_layers", "r, a number of experts, or r and a number",
                         json_text(kind));
    }
    spec.layers.push_back(*layer);
  }
  spec.final_norm = LayerNormSpec{};
  spec.head_bias = sizes.bias;
  config.skip({"max_sequence_length"});
  return {};
}

}  // namespace

const Family blackmamba_family{"blackmamba", is_blackmamba, read_blackmamba};

}  // namespace v0_1
}  // namespace krait
