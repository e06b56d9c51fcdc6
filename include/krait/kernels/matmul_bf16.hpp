#pragma once

/// \file
/// Y = X Wᵀ with both operands in bfloat16: one token or many.

#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/matvec.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Activations of several tokens in bfloat16.
struct Bf16Activations {
  bf16* values = nullptr;  ///< [tokens, stride]; zeros beyond the last input
  Index stride = 0;        ///< inputs, rounded up to 32

  /// Floats of memory for one token of `cols` inputs.
  static constexpr Index floats_per_token(Index cols) noexcept { return round_up(cols, 32) / 2; }

  /// Laid out in `memory`, which has floats_per_token(cols) floats for each token.
  Bf16Activations(float* memory, Index cols) noexcept
      : values(reinterpret_cast<bf16*>(memory)), stride(round_up(cols, 32)) {}
};

/// Rounds rows `tokens` of x [tokens, cols] to nearest even.
KRAIT_API void round_activations(MatrixView<const float> x, Range tokens,
                                 const Bf16Activations& out) noexcept;

/// Arguments of `matmul_bf16`.
struct MatmulBf16Args {
  DenseWeights W;               ///< [out, in], of bf16
  Bf16Activations x;            ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
};

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]) for r in `outputs` and every token t.
///
/// Bits     numeric contract, section 4, what the instruction vdpbf16ps computes: the pair of
///          elements 2j and 2j + 1 belongs to lane j mod 16, which takes the odd element first,
///          acc = fma(w, x, acc), then the even one. A row of odd length ends with a zero. The tree
///          and the bias are those of `matmul`. Subnormal operands and results count as zeros.
///          The same for any number of tokens.
/// Aliasing none.
/// Oracle   ref::matmul_bf16.
KRAIT_API void matmul_bf16(const MatmulBf16Args& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
