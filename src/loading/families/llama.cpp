// Stacks of attention and SwiGLU from the configuration of transformers: Llama (SmolLM2 is one) and
// Mistral.

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// The window that Mistral's class has unless the configuration says none.
constexpr Index mistral_window = 4096;

bool is_of(const ConfigReader& config, std::string_view name) {
  const auto type = config.text("model_type", "");
  return type && *type == name;
}

bool is_llama(const ConfigReader& config) {
  return is_of(config, "llama") || is_of(config, "mistral");
}

Result<void> read_llama(const ConfigReader& config, const TensorNames& /*tensors*/,
                        ModelConfig& result) {
  const bool is_mistral = is_of(config, "mistral");
  KRAIT_ASSIGN_OR_RETURN(const Outline outline,
                         read_outline(config, is_mistral ? "mistral" : "llama", 1e-6F, result));
  result.spec.final_norm_name = "norm";
  KRAIT_ASSIGN_OR_RETURN(AttentionSpec attention, read_attention(config, is_mistral ? 8 : 0));
  KRAIT_RETURN_IF_ERROR(read_rotary(config, attention, 1.0, result));
  if (is_mistral && !config.is_null("sliding_window")) {
    KRAIT_ASSIGN_OR_RETURN(attention.window, config.number("sliding_window", 1, mistral_window));
  }
  KRAIT_ASSIGN_OR_RETURN(const MlpSpec mlp, read_swiglu(config));
  result.spec.layers =
      stack(outline.n_layer, {{{"input_layernorm", outline.norm, "self_attn", attention},
                               {"post_attention_layernorm", outline.norm, "mlp", mlp}}});
  return {};
}

}  // namespace

const Family llama_family{"llama, mistral", is_llama, read_llama};

}  // namespace v0_1
}  // namespace krait
