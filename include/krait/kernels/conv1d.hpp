#pragma once

/// \file
/// Causal depthwise convolution over time, usually followed by SiLU.

#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Arguments of `conv1d_silu`.
struct Conv1dArgs {
  MatrixView<const float> x;      ///< [tokens, channels] raw inputs
  const float* weight = nullptr;  ///< [d_conv, channels], the tap of the newest sample last
  const float* bias = nullptr;    ///< [channels] or null
  Index d_conv = 0;               ///< taps, at least 1
  float* state = nullptr;         ///< [d_conv - 1, channels] in/out: last raw inputs, oldest first
  MatrixView<float> y;            ///< [tokens, channels] out; may be x
  Range channels;                 ///< which channels to compute; begins at a multiple of 16
  bool silu = true;               ///< without it y is the sum alone
};

/// y[t,c] = silu(bias[c] + Σ_k weight[k,c] x[t - d_conv + 1 + k, c]), where x before the first
/// token comes from `state`; then `state` holds the last d_conv - 1 raw inputs.
///
/// Bits     acc = bias (or +0); for k ascending: acc = fma(weight, x, acc); silu as in
///          ref/elementary.inl (contract, sections 5 and 6). The same for any split of the tokens.
/// Aliasing y may be x.
/// Threads  channels are independent.
/// Oracle   ref::conv1d_silu.
KRAIT_API void conv1d_silu(const Conv1dArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
