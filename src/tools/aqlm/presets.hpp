#pragma once

#include <string_view>

#include "krait/core/error.hpp"
#include "krait/tools/aqlm.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// What a preset stands for.
struct Preset {
  std::string_view name;
  AqlmEffort effort;
  bool is_diagonal;        ///< whether moments are their diagonals alone
  Index most_tune_tokens;  ///< see tune_tokens
  Index most_tune_work;    ///< the same, of tokens times parameters
  bool moves_norms;        ///< whether tuning moves norms, too

  /// Tokens to tune over where nobody says how many, for a model with so many parameters.
  Index tune_tokens(Index parameters) const;
};

/// Errors: bad_argument, with the names.
Result<Preset> preset_of(std::string_view name);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
