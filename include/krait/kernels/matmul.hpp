#pragma once

/// \file
/// Y = X Wᵀ: several tokens (prefill, verification, batches). Bound by multiplication.

#include "krait/kernels/matvec.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Arguments of `matmul`.
struct MatmulArgs {
  DenseWeights W;               ///< [out, in]
  MatrixView<const float> x;    ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
  /// For `matmul_tiles`: x as `pack_tiles` has written it, [tokens, cols rounded up to 16].
  const float* tiles = nullptr;
};

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]) for r in `outputs` and every token t.
///
/// Bits     those of `matvec` for each token, whatever the number of tokens.
/// Aliasing none.
/// Oracle   ref::matmul.
KRAIT_API void matmul(const MatmulArgs& args) noexcept;

/// Whether `matmul_tiles`, with packing, is faster than `matmul` here.
KRAIT_API bool tiles_pay(Index tokens, Index cols) noexcept;

/// Writes x [tokens, cols] to `tiles` in the order in which the active instruction set reads it:
/// several tokens side by side, zeros up to a multiple of 16 inputs.
KRAIT_API void pack_tiles(MatrixView<const float> x, float* tiles) noexcept;

/// `matmul` for a few tokens that have been packed, once for all threads. The same bits.
KRAIT_API void matmul_tiles(const MatmulArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
