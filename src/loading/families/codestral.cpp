// Mistral's layout of Mamba-Codestral: params.json and consolidated.safetensors. The model is the
// Mamba-2 of the state-spaces repository, of whose parameters it names only the number of groups.

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Transformers of Mistral's have the other keys, too.
bool is_codestral(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return config.has("dim") && config.has("n_layers") && type && *type == "mamba";
}

Result<void> read_codestral(const ConfigReader& config, const TensorNames& /*tensors*/,
                            ModelConfig& result) {
  ModelSpec& spec = result.spec;
  spec.family = "codestral";
  KRAIT_ASSIGN_OR_RETURN(spec.embedding.d_model, config.number("dim", 1, std::nullopt));
  KRAIT_RETURN_IF_ERROR(read_padded_vocab(config, std::nullopt, spec.embedding));
  KRAIT_ASSIGN_OR_RETURN(const Index n_layer, layer_count(config, "n_layers"));
  Mamba2Spec mixer;
  KRAIT_ASSIGN_OR_RETURN(mixer.n_group, config.number("n_groups", 1, Index{1}));
  KRAIT_ASSIGN_OR_RETURN(const bool rms_norm, config.boolean("rms_norm", true));
  const NormSpec norm = rms_norm ? NormSpec(RmsNormSpec{}) : NormSpec(LayerNormSpec{});
  spec.layers = stack(n_layer, {{{"norm", norm, "mixer", mixer}}});
  spec.final_norm = norm;
  KRAIT_ASSIGN_OR_RETURN(spec.tied_head, config.boolean("tie_embeddings", true));
  config.skip({"residual_in_fp32", "fused_add_norm"});
  return {};
}

}  // namespace

const Family codestral_family{"codestral (params.json)", is_codestral, read_codestral};

}  // namespace v0_1
}  // namespace krait
