// Mamba-2 from the configuration of transformers, whose defaults are those of Codestral.

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_mamba2(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "mamba2";
}

Result<void> read_mamba2(const ConfigReader& config, const TensorNames& tensors,
                         ModelConfig& result) {
  result.spec.family = "mamba2";
  Mamba2Spec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.d_state, config.number("state_size", 1, 128));
  KRAIT_ASSIGN_OR_RETURN(mixer.d_conv, config.number("conv_kernel", 1, 4));
  KRAIT_ASSIGN_OR_RETURN(mixer.expand, config.number("expand", 1, 2));
  KRAIT_ASSIGN_OR_RETURN(mixer.head_dim, config.number("head_dim", 1, 64));
  KRAIT_ASSIGN_OR_RETURN(mixer.n_group, config.number("n_groups", 1, 8));
  KRAIT_ASSIGN_OR_RETURN(mixer.bias, config.boolean("use_bias", false));
  KRAIT_ASSIGN_OR_RETURN(mixer.conv_bias, config.boolean("use_conv_bias", true));
  KRAIT_RETURN_IF_ERROR(check_silu(config, "hidden_act"));
  KRAIT_ASSIGN_OR_RETURN(mixer.norm_eps, config.positive_float("layer_norm_epsilon", 1e-5F));
  KRAIT_ASSIGN_OR_RETURN(const auto steps, step_limits(config, "time_step_limit"));
  mixer.dt_min = steps.first;
  mixer.dt_max = steps.second;
  KRAIT_ASSIGN_OR_RETURN(const bool rms_norm, config.boolean("rms_norm", true));
  mixer.norm = rms_norm ? GatedNorm::after_gate : GatedNorm::none;
  config.skip({"chunk_size", "time_step_rank"});
  KRAIT_RETURN_IF_ERROR(read_transformers_model(
      config, mixer, {.d_model = 4096, .vocab = 32768, .n_layer = 64, .tied_head = false}, result));

  const Index d_inner = mixer.resolved(result.spec.d_model()).d_inner;
  KRAIT_ASSIGN_OR_RETURN(const Index n_head, config.number("num_heads", 1, 128));
  if (d_inner != n_head * mixer.head_dim) {
    return config.fail(
        "num_heads",
        fmt::format("expand · hidden_size / head_dim ({} / {})", d_inner, mixer.head_dim),
        fmt::to_string(n_head));
  }
  // The class of transformers has the gated norm whatever "rms_norm" says: a layer with its tensor
  // was made with it.
  mixer.norm = GatedNorm::after_gate;
  for (std::size_t i = 0; i < result.spec.layers.size(); ++i) {
    if (tensors.has_in_layer(static_cast<Index>(i), "mixer.norm.weight")) {
      result.spec.layers[i].residuals.front().block = mixer;
    }
  }
  return {};
}

}  // namespace

const Family mamba2_family{"mamba2", is_mamba2, read_mamba2};

}  // namespace v0_1
}  // namespace krait
