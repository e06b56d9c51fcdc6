#pragma once

/// \file
/// Y = X Wᵀ: several tokens (prefill, verification, batches). Bound by multiplication.

#include "krait/kernels/matvec.hpp"

namespace krait::inline v0_1::kernels {

/// Arguments of `matmul`.
struct MatmulArgs {
  DenseWeights W;               ///< [out, in]
  MatrixView<const float> x;    ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
};

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]) for r in `outputs` and every token t.
///
/// Bits     those of `matvec` for each token, whatever the number of tokens.
/// Aliasing none.
/// Oracle   ref::matmul.
KRAIT_API void matmul(const MatmulArgs& args) noexcept;

}  // namespace krait::inline v0_1::kernels
