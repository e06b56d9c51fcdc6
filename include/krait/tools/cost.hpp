#pragma once

/// \file
/// What a token costs a model.

#include "krait/models/model.hpp"

namespace krait {
inline namespace v0_1 {

/// Arithmetic and memory traffic of one token. Beside `fma_peak` and `read_bandwidth` (machine.hpp)
/// it tells how near a run is to what the machine allows.
struct TokenCost {
  /// Multiplications and additions in weight matrices: of a token of a prompt, of which only the
  /// last needs the head, and of a decoded token. Of a mixture, what its chosen experts cost; what
  /// its router, the recurrences and attention's scores take, which are no products with a matrix
  /// that has a form, is not in them.
  double prompt_flop = 0.0;
  double decode_flop = 0.0;
  Index weights_bytes = 0;  ///< of weights that decoding reads, as held in memory
  Index state_bytes = 0;    ///< of the state, which decoding reads and writes
};

TokenCost token_cost(const Model& model);

}  // namespace v0_1
}  // namespace krait
