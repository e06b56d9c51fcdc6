#pragma once

/// \file
/// Softmax and its relatives over one row.

#include <span>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// y = exp(x - max) / Σ exp(x - max). x must not be empty; -inf entries get 0. y may be x.
/// A NaN, an infinite maximum, or nothing but -inf gives NaN everywhere (one bit pattern).
/// Bits: numeric contract, section 7, the sum over 16 lanes.
KRAIT_API void softmax(std::span<const float> x, std::span<float> y) noexcept;

/// max + log Σ exp(x - max), or max itself where it is infinite. x must not be empty; NaN if any
/// element is.
KRAIT_API float log_sum_exp(std::span<const float> x) noexcept;

/// y = x - log_sum_exp(x). y may be x.
KRAIT_API void log_softmax(std::span<const float> x, std::span<float> y) noexcept;

/// Index of the largest element, the lowest one of several; NaN never wins. x must not be empty;
/// 0 if all are NaN.
KRAIT_API Index argmax(std::span<const float> x) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
