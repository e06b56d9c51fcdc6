#pragma once

/// \file
/// Softmax and its relatives: the oracle in double and the bit-exact scalar model.

#include <cmath>
#include <limits>
#include <span>

#include "krait/kernels/ref/elementary.hpp"
#include "krait/kernels/ref/lanes.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The largest element that is not NaN, -inf if there is none.
inline float max_of(std::span<const float> x) noexcept {
  float largest = -std::numeric_limits<float>::infinity();
  for (const float value : x) largest = value > largest ? value : largest;
  return largest;
}

/// Σ exp(x - max) over 16 lanes.
inline float sum_of_exp(std::span<const float> x, float largest) noexcept {
  Lanes acc{};
  for (std::size_t i = 0; i < x.size(); ++i) {
    acc[i % 16] += exp_nonpositive_of(ScalarOps(), x[i] - largest);
  }
  return reduce(acc);
}

/// The bits of kernels::softmax.
inline void softmax(std::span<const float> x, std::span<float> y) noexcept {
  const float largest = max_of(x);
  const float sum = sum_of_exp(x, largest);
  for (std::size_t i = 0; i < x.size(); ++i) {
    y[i] = sum == sum ? exp_nonpositive_of(ScalarOps(), x[i] - largest) / sum
                      : std::numeric_limits<float>::quiet_NaN();
  }
}

/// The bits of kernels::log_sum_exp.
inline float log_sum_exp(std::span<const float> x) noexcept {
  const float largest = max_of(x);
  if (std::isinf(largest)) {  // exp(x - max) has no meaning then, but the limit has
    for (const float value : x) {
      if (std::isnan(value)) return std::numeric_limits<float>::quiet_NaN();
    }
    return largest;
  }
  const float sum = sum_of_exp(x, largest);
  if (std::isnan(sum)) return std::numeric_limits<float>::quiet_NaN();
  return largest + log_of(ScalarOps(), sum);
}

/// The bits of kernels::log_softmax.
inline void log_softmax(std::span<const float> x, std::span<float> y) noexcept {
  const float total = log_sum_exp(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float value = x[i] - total;
    y[i] = value == value ? value : std::numeric_limits<float>::quiet_NaN();
  }
}

/// The result of kernels::argmax.
inline Index argmax(std::span<const float> x) noexcept {
  const float largest = max_of(x);
  for (std::size_t i = 0; i < x.size(); ++i) {
    if (x[i] == largest) return static_cast<Index>(i);
  }
  return 0;
}

/// log Σ e^x in double precision.
inline double log_sum_exp_oracle(std::span<const float> x) {
  const auto largest = static_cast<double>(max_of(x));
  double sum = 0.0;
  for (const float value : x) sum += std::exp(static_cast<double>(value) - largest);
  return largest + std::log(sum);
}

/// Softmax in double precision.
inline void softmax_oracle(std::span<const float> x, std::span<double> y) {
  const double total = log_sum_exp_oracle(x);
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = std::exp(static_cast<double>(x[i]) - total);
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
