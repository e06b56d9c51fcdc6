#pragma once

/// \file
/// Normalisation over the last axis.

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Arguments of `rms_norm` and `layer_norm`.
struct NormArgs {
  MatrixView<const float> x;      ///< [tokens, d]
  const float* weight = nullptr;  ///< [d]; null: all ones
  const float* bias = nullptr;    ///< [d] or null; layer_norm only
  float eps = 1e-5F;              ///< added to the mean square or variance
  MatrixView<float> y;            ///< [tokens, d] out; may be x
};

/// y = x / sqrt(mean(x²) + eps) · weight, row by row.
///
/// Paper    Zhang & Sennrich 2019, arXiv:1910.07467, eq. 4.
/// Bits     scale = 1 / sqrt(Σx² / d + eps), the sum over 16 lanes; y = (x · scale) · weight.
/// Aliasing y may be x.
/// Oracle   ref::rms_norm.
KRAIT_API void rms_norm(const NormArgs& args) noexcept;

/// y = (x - mean(x)) / sqrt(var(x) + eps) · weight + bias, row by row; the variance is that of the
/// whole row (divided by d).
///
/// Paper    Ba, Kiros & Hinton 2016, arXiv:1607.06450, eq. 4.
/// Bits     mean = Σx / d; c = x - mean; scale = 1 / sqrt(Σc² / d + eps), both sums over 16 lanes;
///          y = fma(c · scale, weight, bias), or a product where there is no bias.
/// Aliasing y may be x.
/// Oracle   ref::layer_norm.
KRAIT_API void layer_norm(const NormArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
