#pragma once

/// \file
/// Functions of single elements: the oracle in double and the bit-exact scalar model.

#include <cmath>
#include <span>

#include "krait/kernels/ref/elementary.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// ln(1 + e^x) in double precision, precise at both ends.
inline double softplus_oracle(double x) noexcept {
  return x > 0.0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
}

/// 1 / (1 + e^-x) in double precision.
inline double sigmoid_oracle(double x) noexcept {
  return x > 0.0 ? 1.0 / (1.0 + std::exp(-x)) : std::exp(x) / (1.0 + std::exp(x));
}

/// x / (1 + e^-x) in double precision; at -inf the limit, -0.
inline double silu_oracle(double x) noexcept { return x < -1000.0 ? -0.0 : x * sigmoid_oracle(x); }

/// The bits of kernels::exp.
inline void exp(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = exp_of(ScalarOps(), x[i]);
}

/// The bits of kernels::log.
inline void log(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = log_of(ScalarOps(), x[i]);
}

/// The bits of kernels::softplus.
inline void softplus(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = softplus_of(ScalarOps(), x[i]);
}

/// The bits of kernels::sigmoid.
inline void sigmoid(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = sigmoid_of(ScalarOps(), x[i]);
}

/// The bits of kernels::silu.
inline void silu(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = silu_of(ScalarOps(), x[i]);
}

/// x Φ(x) in double precision; at -inf the limit, -0.
inline double gelu_oracle(double x) noexcept {
  return x < -1000.0 ? -0.0 : 0.5 * x * std::erfc(-x / std::sqrt(2.0));
}

/// The bits of kernels::gelu.
inline void gelu(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = gelu_of(ScalarOps(), x[i]);
}

/// The bits of kernels::scale.
inline void scale(float a, std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = a * x[i];
}

/// The bits of kernels::relu.
inline void relu(std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = x[i] < 0.0F ? 0.0F : x[i];
}

/// The bits of kernels::add.
inline void add(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < a.size(); ++i) y[i] = a[i] + b[i];
}

/// The bits of kernels::mul.
inline void mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < a.size(); ++i) y[i] = a[i] * b[i];
}

/// The bits of kernels::silu_mul.
inline void silu_mul(std::span<const float> a, std::span<const float> b,
                     std::span<float> y) noexcept {
  for (std::size_t i = 0; i < a.size(); ++i) y[i] = a[i] * silu_of(ScalarOps(), b[i]);
}

/// The bits of kernels::add_scaled.
inline void add_scaled(float a, std::span<const float> x, std::span<float> y) noexcept {
  for (std::size_t i = 0; i < x.size(); ++i) y[i] = std::fma(a, x[i], y[i]);
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
