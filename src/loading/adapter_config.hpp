#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"
#include "text/pattern/regex.hpp"

namespace krait {
inline namespace v0_1 {

/// What the names of PEFT's tensors begin with.
inline constexpr std::string_view peft_prefix = "base_model.model.";

/// What adapter_config.json says.
struct AdapterConfig {
  struct Scaling {
    Index rank = 0;
    double scale = 0.0;  // of B A
  };
  /// Of a module. Errors: unsupported, for a pattern that needs too many steps.
  Result<Scaling> scaling(std::string_view module) const;

  bool is_mlx = false;
  std::string base;  // what the model is called; empty if it is not told
  Index rank = 0;
  double alpha = 0.0;  // divided by rank or its root; in MLX's files, the scale
  bool by_root = false;
  std::vector<std::pair<Regex, Index>> rank_patterns;
  std::vector<std::pair<Regex, double>> alpha_patterns;
  /// Last words of modules all of which must have factors; empty where that cannot be told.
  std::vector<std::string> targets;
};

/// Reads the one in the folder `path`, or beside the file `path`.
Result<AdapterConfig> read_adapter_config(const std::string& path);

}  // namespace v0_1
}  // namespace krait
