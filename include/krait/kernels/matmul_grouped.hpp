#pragma once

/// \file
/// Y = X Wᵀ for weights of 8 and 4 bits, with integer products: one token or many.

#include "krait/kernels/quant.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Arguments of `matmul_grouped`.
struct MatmulGroupedArgs {
  GroupedWeights W;             ///< [out, in]
  Int8Activations x;            ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< begins at a multiple of 16, ends at one or at W.rows
};

/// y[t,r] = Σ_g (s_W[r,g] s_x[t,g]) Σ_{k in g} q_W[r,k] q_x[t,k] (+ bias[r]) for every token t and
/// r in `outputs`.
///
/// Bits     numeric contract, section 3: the inner sum is an integer; over ascending groups
///          acc = fma(float(sum), s_W · s_x, acc), one chain per output; then the bias. The same
///          for any number of tokens.
/// Aliasing none.
/// Oracle   ref::matmul_grouped.
KRAIT_API void matmul_grouped(const MatmulGroupedArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
