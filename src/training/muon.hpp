#pragma once

#include "krait/training/trainer.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// Floats that `muon` takes of a workspace for a matrix [rows, cols].
Index muon_memory(Index rows, Index cols);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
