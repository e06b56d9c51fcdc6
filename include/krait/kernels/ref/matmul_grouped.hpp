#pragma once

/// \file
/// Grouped weights times 8-bit activations: the oracle in double and the bit-exact scalar model.

#include <cmath>

#include "krait/kernels/matmul_grouped.hpp"
#include "krait/kernels/ref/quant.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// Σ_k q_W q_x over one group: an exact integer.
inline std::int32_t group_sum(const kernels::MatmulGroupedArgs& args, Index t, Index r,
                              Index g) noexcept {
  const std::int8_t* x = args.x.values + (t * args.x.groups + g) * kernels::group_size;
  std::int32_t sum = 0;
  for (Index i = 0; i < kernels::group_size; ++i) {
    sum += code_at(args.W, r, g * kernels::group_size + i) * x[i];
  }
  return sum;
}

/// Y = X Wᵀ of the rounded operands in double precision.
inline void matmul_grouped_oracle(const kernels::MatmulGroupedArgs& args, MatrixView<double> y) {
  for (Index t = 0; t < args.y.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      double sum = args.bias != nullptr ? static_cast<double>(args.bias[r]) : 0.0;
      for (Index g = 0; g < args.x.groups; ++g) {
        sum += static_cast<double>(group_sum(args, t, r, g)) *
               static_cast<double>(scale_at(args.W, r, g)) *
               static_cast<double>(args.x.scales[t * args.x.groups + g]);
      }
      y(t, r) = sum;
    }
  }
}

/// The bits of kernels::matmul_grouped.
inline void matmul_grouped(const kernels::MatmulGroupedArgs& args) noexcept {
  for (Index t = 0; t < args.y.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      float acc = 0.0F;
      for (Index g = 0; g < args.x.groups; ++g) {
        const float scale = scale_at(args.W, r, g) * args.x.scales[t * args.x.groups + g];
        acc = std::fma(static_cast<float>(group_sum(args, t, r, g)), scale, acc);
      }
      args.y(t, r) = args.bias != nullptr ? acc + args.bias[r] : acc;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
