#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "models/config_reader.hpp"

namespace krait::inline v0_1 {

/// How one kind of configuration becomes a spec. A new family is a new file with such an entry, and
/// a line in registry.cpp.
struct Family {
  std::string_view name;  ///< for messages
  /// Whether the configuration is of this family.
  bool (*recognises)(const ConfigReader& config);
  /// Fills in spec, stop tokens and ignored keys.
  Result<void> (*read)(ConfigReader& config, ModelConfig& result);
};

extern const Family mamba_family;               // transformers
extern const Family state_spaces_mamba_family;  // the original repository, and MambaByte's

}  // namespace krait::inline v0_1
