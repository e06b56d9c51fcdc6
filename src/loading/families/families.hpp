#pragma once

#include <string_view>

#include "krait/loading/registry.hpp"
#include "loading/config_reader.hpp"
#include "loading/layouts/layouts.hpp"

namespace krait {
inline namespace v0_1 {

/// How one kind of configuration becomes a spec. A new family is a new file that defines one, and a
/// line in the list below.
struct Family {
  std::string_view name;  ///< for messages
  /// Whether the configuration is of this family.
  bool (*recognises)(const ConfigReader& config);
  /// Fills in spec, stop tokens and ignored keys. Where the tensors say it better than the
  /// configuration, their names are believed.
  Result<void> (*read)(const ConfigReader& config, const TensorNames& tensors, ModelConfig& result);
};

// All of them, in the order in which they are asked whether a configuration is theirs.
// clang-format off
#define KRAIT_FAMILIES(family) \
  family(mamba_family) \
  family(mamba2_family) \
  family(falcon_mamba_family) \
  family(state_spaces_family) \
  family(codestral_family) \
  family(blackmamba_family) \
  family(llama_family) \
  family(bamba_family) \
  family(granite_hybrid_family) \
  family(jamba_family) \
  family(nemotron_h_family) \
  family(falcon_h1_family) \
  family(zamba2_family)
// clang-format on

#define KRAIT_DECLARE_FAMILY(family) extern const Family family;
KRAIT_FAMILIES(KRAIT_DECLARE_FAMILY)
#undef KRAIT_DECLARE_FAMILY

}  // namespace v0_1
}  // namespace krait
