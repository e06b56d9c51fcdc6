#pragma once

/// \file
/// What exactness is compared with: a matrix product that may add in any order. Lanes are outputs,
/// the weights are packed for that beforehand, and nothing is reduced.

#include <vector>

#include "krait/core/cpu.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait::bench {

/// Weights W [rows, cols] of f32, packed for `inexact_matmul` at a level: AVX2 or AVX-512.
class PackedWeights {
 public:
  PackedWeights(const float* W, Index rows, Index cols, Isa isa);

  /// Y = X Wᵀ for x [tokens, cols], y [tokens, rows]; rows must be a multiple of 32.
  void matmul(MatrixView<const float> x, MatrixView<float> y) const;

 private:
  Index rows_;
  Index cols_;
  Isa isa_;
  std::vector<float> panels_;  // [panel][cols][rows of a panel]
};

}  // namespace krait::bench
