// Bamba: Mamba-2 mixers, attention with a rotary embedding of half of each head in some layers, and
// SwiGLU behind both.

#include <set>

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_bamba(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "bamba";
}

Result<void> read_bamba(const ConfigReader& config, const TensorNames& /*tensors*/,
                        ModelConfig& result) {
  KRAIT_ASSIGN_OR_RETURN(const Outline outline, read_outline(config, "bamba", 1e-5F, result));
  result.spec.final_norm_name = "final_layernorm";
  KRAIT_ASSIGN_OR_RETURN(AttentionSpec attention, read_attention(config, 8));
  KRAIT_RETURN_IF_ERROR(read_rotary(config, attention, 0.5, result));
  KRAIT_ASSIGN_OR_RETURN(const Mamba2Spec mixer, read_mamba2(config, outline.norm.eps));
  KRAIT_RETURN_IF_ERROR(
      check_channels(config, "mamba_n_heads", mixer, mixer.expand * result.spec.d_model()));
  KRAIT_ASSIGN_OR_RETURN(const MlpSpec mlp, read_swiglu(config));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Index> indices,
                         config.numbers("attn_layer_indices", outline.n_layer - 1));
  const std::set<Index> with_attention(indices.begin(), indices.end());
  for (Index i = 0; i < outline.n_layer; ++i) {
    LayerSpec layer;
    if (with_attention.contains(i)) {
      layer.residuals.push_back({"input_layernorm", outline.norm, "self_attn", attention});
    } else {
      layer.residuals.push_back({"input_layernorm", outline.norm, "mamba", mixer});
    }
    layer.residuals.push_back({"pre_ff_layernorm", outline.norm, "feed_forward", mlp});
    result.spec.layers.push_back(std::move(layer));
  }
  config.skip({"layer_types", "layers_block_type"});  // which follow from the indices
  return {};
}

}  // namespace

const Family bamba_family{"bamba", is_bamba, read_bamba};

}  // namespace v0_1
}  // namespace krait
