#pragma once

/// \file
/// Matrix times vector: the oracle in double and the bit-exact scalar model.

#include <span>

#include "krait/kernels/matvec.hpp"
#include "krait/kernels/ref/lanes.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// Σ_k W[r,k] x[k] by the contract's lanes, for any storage type.
inline float dot_row(const kernels::DenseWeights& W, Index r, const float* x) noexcept {
  const Index at = r * W.cols;
  switch (W.dtype) {
    case DType::f16:
      return dot(static_cast<const f16*>(W.data) + at, x, W.cols);
    case DType::bf16:
      return dot(static_cast<const bf16*>(W.data) + at, x, W.cols);
    default:
      return dot(static_cast<const float*>(W.data) + at, x, W.cols);
  }
}

/// W[r,k] in double.
inline double weight_at(const kernels::DenseWeights& W, Index r, Index k) noexcept {
  const Index at = r * W.cols + k;
  switch (W.dtype) {
    case DType::f16:
      return static_cast<double>(to_float(static_cast<const f16*>(W.data)[at]));
    case DType::bf16:
      return static_cast<double>(to_float(static_cast<const bf16*>(W.data)[at]));
    default:
      return static_cast<double>(static_cast<const float*>(W.data)[at]);
  }
}

/// Matrix times vector in double precision; writes y[r] for r in the outputs.
inline void matvec_oracle(const kernels::MatvecArgs& args, std::span<double> y) {
  for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
    double sum = 0.0;
    for (Index k = 0; k < args.W.cols; ++k) {
      sum += weight_at(args.W, r, k) * static_cast<double>(args.x[k]);
    }
    if (args.bias != nullptr) sum += static_cast<double>(args.bias[r]);
    y[static_cast<std::size_t>(r)] = sum;
  }
}

/// The bits of kernels::matvec.
inline void matvec(const kernels::MatvecArgs& args) noexcept {
  for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
    const float sum = dot_row(args.W, r, args.x);
    args.y[r] = args.bias != nullptr ? sum + args.bias[r] : sum;
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
