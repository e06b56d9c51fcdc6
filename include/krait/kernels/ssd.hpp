#pragma once

/// \file
/// The Mamba-2 recurrence (SSD).

#include <limits>

#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Arguments of `ssd_scan`.
struct SsdScanArgs {
  MatrixView<const float> x;       ///< [tokens, n_head * head_dim]
  MatrixView<const float> dt_raw;  ///< [tokens, n_head], before its bias
  MatrixView<const float> B;       ///< [tokens, n_group * d_state]
  MatrixView<const float> C;       ///< [tokens, n_group * d_state]; data null: only the state
  const float* A = nullptr;        ///< [n_head], -exp(A_log) · log2(e)
  const float* dt_bias = nullptr;  ///< [n_head]
  const float* D = nullptr;        ///< [n_head], or [n_head * head_dim] if D_per_channel
  bool D_per_channel = false;
  float dt_min = 0.0F;  ///< dt is clamped to [dt_min, dt_max] after the softplus
  float dt_max = std::numeric_limits<float>::infinity();
  float* state = nullptr;  ///< [n_head, head_dim, d_state], in/out
  Index n_head = 0;
  Index head_dim = 0;
  Index d_state = 0;
  Index n_group = 1;    ///< divides n_head; head h uses group h / (n_head / n_group) of B and C
  MatrixView<float> y;  ///< [tokens, n_head * head_dim] out; may be x. Not used if C's data is null
  Range heads;          ///< which heads to compute
};

/// For every token in order, with h a head, p a row of its state and n a column:
///
///   dt       = clamp(softplus(dt_raw[h] + dt_bias[h]), dt_min, dt_max)
///   S[h,p,n] = 2^(dt A[h]) S[h,p,n] + (dt x[h,p]) B[n]
///   y[h,p]   = Σ_n C[n] S[h,p,n] + D[h] x[h,p]
///
/// Paper    Dao & Gu 2024, arXiv:2405.21060: the scalar-times-identity A of section 5, in the
///          recurrent form. Bias, softplus and clamp as in the authors' code.
/// Bits     numeric contract, section 6: a = 2^(dt·A), 0 below 2^-126.5; S = fma(a, S, (dt·x)·B);
///          the sum over n by 16 lanes and the tree, then y = fma(D, x, y).
/// Threads  heads are independent; time is never split.
/// Cost     tokens · head_dim · d_state products and twice as many fused multiply-adds per head;
///          one token reads and writes the whole state.
/// Oracle   ref::ssd_scan.
KRAIT_API void ssd_scan(const SsdScanArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
