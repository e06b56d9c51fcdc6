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
  /// For `matmul_packed`: x as `pack_tokens` has written it, [tokens, cols rounded up to 16].
  const float* packed = nullptr;
};

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]) for r in `outputs` and every token t.
///
/// Bits     those of `matvec` for each token, whatever the number of tokens.
/// Aliasing none.
/// Oracle   ref::matmul.
KRAIT_API void matmul(const MatmulArgs& args) noexcept;

/// Whether `matmul_packed`, with the packing, is faster than `matmul` on this machine.
KRAIT_API bool packing_pays(Index tokens, Index cols) noexcept;

/// Writes x [tokens, cols] to `packed` [tokens, cols rounded up to 16] in the order in which the
/// active instruction set reads it: a few tokens side by side, zeros behind the last column.
KRAIT_API void pack_tokens(MatrixView<const float> x, float* packed) noexcept;

/// `matmul` for a few tokens that `pack_tokens` has packed, once for all threads. The same bits.
KRAIT_API void matmul_packed(const MatmulArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
