#pragma once

/// \file
/// Functions of single elements. All spans have the same length; outputs may be inputs.

#include <span>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// y = e^x, below 0.9 ulp over the whole range, subnormal results included.
KRAIT_API void exp(std::span<const float> x, std::span<float> y) noexcept;

/// y = ln x, below 0.9 ulp; -inf at 0, NaN below.
KRAIT_API void log(std::span<const float> x, std::span<float> y) noexcept;

/// y = ln(1 + e^x), below 1.9 ulp, and x where x > 20 (as PyTorch).
KRAIT_API void softplus(std::span<const float> x, std::span<float> y) noexcept;

/// y = 1 / (1 + e^-x), below 2.5 ulp.
KRAIT_API void sigmoid(std::span<const float> x, std::span<float> y) noexcept;

/// y = x / (1 + e^-x), below 2.8 ulp; -0 at -inf, the limit.
KRAIT_API void silu(std::span<const float> x, std::span<float> y) noexcept;

/// y = x Φ(x), below 6.9 ulp, Φ the normal distribution (Hendrycks & Gimpel 2016,
/// arXiv:1606.08415), by erf and not by tanh.
KRAIT_API void gelu(std::span<const float> x, std::span<float> y) noexcept;

/// y = max(x, 0); NaN and -0 stay.
KRAIT_API void relu(std::span<const float> x, std::span<float> y) noexcept;

/// y = a + b.
KRAIT_API void add(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept;

/// y = a · b.
KRAIT_API void mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept;

/// y = a · x.
KRAIT_API void scale(float a, std::span<const float> x, std::span<float> y) noexcept;

/// y = a · silu(b): a gate.
KRAIT_API void silu_mul(std::span<const float> a, std::span<const float> b,
                        std::span<float> y) noexcept;

/// y = a · x + y, one rounding.
KRAIT_API void add_scaled(float a, std::span<const float> x, std::span<float> y) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
