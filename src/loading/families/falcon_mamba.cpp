// Falcon-Mamba from the configuration of transformers: Mamba-1 with norms of dt, B and C.

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_falcon_mamba(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "falcon_mamba";
}

Result<void> read_falcon_mamba(const ConfigReader& config, const TensorNames& /*tensors*/,
                               ModelConfig& result) {
  result.spec.family = "falcon_mamba";
  // The published file's `expand` is 16 but its channels are those of `intermediate_size`.
  KRAIT_ASSIGN_OR_RETURN(MambaSpec mixer, read_transformers_mamba(config));
  KRAIT_ASSIGN_OR_RETURN(mixer.inner_norm_eps, config.positive_float("mixer_rms_eps", 1e-6F));
  config.skip({"use_falcon_mambapy"});
  return read_transformers_model(config, mixer, {}, result);
}

}  // namespace

const Family falcon_mamba_family{"falcon_mamba", is_falcon_mamba, read_falcon_mamba};

}  // namespace v0_1
}  // namespace krait
