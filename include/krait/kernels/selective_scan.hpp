#pragma once

/// \file
/// The Mamba-1 recurrence.

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Channels of one block of the state: the contract's 16 lanes.
inline constexpr Index scan_block = 16;

/// Number of floats of a state or of A in the block layout [⌈d_inner/16⌉, d_state, 16]: channel d
/// and state n lie at `scan_offset(d, n, d_state)`. Channels beyond d_inner are padding and stay 0.
constexpr Index scan_size(Index d_inner, Index d_state) noexcept {
  return round_up(d_inner, scan_block) * d_state;
}
constexpr Index scan_offset(Index d, Index n, Index d_state) noexcept {
  return (d / scan_block * d_state + n) * scan_block + d % scan_block;
}

/// Arguments of `selective_scan`.
struct SelectiveScanArgs {
  MatrixView<const float> u;       ///< [tokens, d_inner]
  MatrixView<const float> dt_raw;  ///< [tokens, d_inner], dt_proj's output with its bias
  MatrixView<const float> B;       ///< [tokens, d_state]
  MatrixView<const float> C;       ///< [tokens, d_state]
  MatrixView<const float> z;       ///< [tokens, d_inner] gate branch; data null: no gate
  const float* A = nullptr;        ///< block layout, -exp(A_log) · log2(e)
  const float* D = nullptr;        ///< [d_inner]
  float* h = nullptr;              ///< block layout, in/out
  Index d_state = 0;
  MatrixView<float> y;  ///< [tokens, d_inner] out; may be u, dt_raw or z
  /// Which channels to compute: begins at a multiple of 16, ends at one or at d_inner.
  Range channels;
};

/// For every token in order:
///
///   dt     = softplus(dt_raw[d])
///   h[d,n] = 2^(dt A[d,n]) h[d,n] + (dt u[d]) B[n]
///   y[d]   = (D[d] u[d] + Σ_n C[n] h[d,n]) · silu(z[d])
///
/// Paper    Gu & Dao 2023, arXiv:2312.00752, eq. 2a-2b and Algorithm 2. A by zero-order hold
///          (eq. 4); B by the Euler step dt·B, as the authors' code does.
/// Bits     numeric contract, section 6: a = 2^(dt·A), 0 below 2^-126.5; h = fma(a, h, (dt·u)·B);
///          y = D·u, then for ascending n y = fma(C, h, y); the gate is one more product. A power
///          of two takes five operations less than one of e.
/// Threads  channels are independent; time is never split.
/// Cost     tokens · d_inner · d_state exponentials.
/// Oracle   ref::selective_scan.
KRAIT_API void selective_scan(const SelectiveScanArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
