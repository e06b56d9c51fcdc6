#pragma once

/// \file
/// Products of bfloat16 operands: the oracle in double and the bit-exact scalar model.

#include <algorithm>
#include <cmath>
#include <limits>

#include "krait/kernels/matmul_bf16.hpp"
#include "krait/kernels/ref/lanes.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// A subnormal number becomes a zero of its sign.
inline float flush(float x) noexcept {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0F, x) : x;
}

/// One product of a chain.
inline float fma_flushed(bf16 w, bf16 x, float acc) noexcept {
  return flush(std::fma(flush(to_float(w)), flush(to_float(x)), acc));
}

/// `reduce` with subnormal sums as zeros.
inline float reduce_flushed(Lanes acc) noexcept {
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) acc[i] = flush(acc[i] + acc[i + half]);
  }
  return acc[0];
}

/// The bits of kernels::round_activations.
inline void round_activations(MatrixView<const float> x, Range tokens,
                              const kernels::Bf16Activations& out) noexcept {
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    bf16* values = out.values + t * out.stride;
    for (Index k = 0; k < out.stride; ++k) values[k] = k < x.cols ? to_bf16(x(t, k)) : bf16{};
  }
}

/// Y = X Wᵀ of the rounded operands in double precision.
inline void matmul_bf16_oracle(const kernels::MatmulBf16Args& args, MatrixView<double> y) {
  const auto* W = static_cast<const bf16*>(args.W.data);
  for (Index t = 0; t < args.y.rows; ++t) {
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      double sum = args.bias != nullptr ? static_cast<double>(args.bias[r]) : 0.0;
      for (Index k = 0; k < args.W.cols; ++k) {
        sum += static_cast<double>(to_float(W[r * args.W.cols + k])) *
               static_cast<double>(to_float(args.x.values[t * args.x.stride + k]));
      }
      y(t, r) = sum;
    }
  }
}

/// The bits of kernels::matmul_bf16.
inline void matmul_bf16(const kernels::MatmulBf16Args& args) noexcept {
  const Index n = args.W.cols;
  for (Index t = 0; t < args.y.rows; ++t) {
    const bf16* x = args.x.values + t * args.x.stride;
    for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
      const bf16* w = static_cast<const bf16*>(args.W.data) + r * n;
      Lanes acc{};
      for (Index k = 0; k < n; k += 2) {
        float& lane = acc[static_cast<std::size_t>(k / 2 % 16)];
        lane = fma_flushed(k + 1 < n ? w[k + 1] : bf16{}, x[k + 1], lane);
        lane = fma_flushed(w[k], x[k], lane);
      }
      const float sum = reduce_flushed(acc);
      args.y(t, r) = args.bias != nullptr ? flush(sum + flush(args.bias[r])) : sum;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
