// Mamba-1 from the configuration of transformers.

#include "loading/families/common.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool is_mamba(const ConfigReader& config) {
  const auto type = config.text("model_type", "");
  return type && *type == "mamba" && config.has("hidden_size");
}

Result<void> read_mamba(const ConfigReader& config, const TensorNames& /*tensors*/,
                        ModelConfig& result) {
  result.spec.family = "mamba";
  KRAIT_ASSIGN_OR_RETURN(const MambaSpec mixer, read_transformers_mamba(config));
  return read_transformers_model(config, mixer, {}, result);
}

}  // namespace

const Family mamba_family{"mamba", is_mamba, read_mamba};

}  // namespace v0_1
}  // namespace krait
