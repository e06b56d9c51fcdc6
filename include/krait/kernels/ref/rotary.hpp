#pragma once

/// \file
/// The rotary embedding: the oracle in double and the bit-exact scalar model.

#include <bit>
#include <cmath>
#include <cstdint>

#include "krait/kernels/rotary.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// Scalar operations in double for sin_cos.inl.
struct ScalarDoubleOps {
  using V = double;
  static V set(double x) noexcept { return x; }
  static V add(V a, V b) noexcept { return a + b; }
  static V sub(V a, V b) noexcept { return a - b; }
  static V mul(V a, V b) noexcept { return a * b; }
  /// By the lowest bits of 1.5 · 2^52 + n.
  static V if_odd(V biased, V yes, V no) noexcept {
    return std::bit_cast<std::uint64_t>(biased) % 2 == 1 ? yes : no;
  }
  /// -v if n + more has bit 1.
  static V negate_if_bit_1(V biased, std::uint64_t more, V v) noexcept {
    const std::uint64_t bits = std::bit_cast<std::uint64_t>(biased) + more;
    return std::bit_cast<double>(std::bit_cast<std::uint64_t>(v) ^ (bits & 2U) << 62U);
  }
};

#define KRAIT_INLINE inline
#include "krait/kernels/ref/sin_cos.inl"
#undef KRAIT_INLINE

/// Calls rotate(token, pair, x0, x1) for every pair of every head of x.
template <class Rotate>
void for_each_pair(const kernels::RotaryArgs& args, MatrixView<float> x, Rotate rotate) {
  const auto pairs = static_cast<Index>(args.frequencies.size());
  for (Index t = 0; t < x.rows; ++t) {
    for (Index head = 0; head + args.d_head <= x.cols; head += args.d_head) {
      for (Index i = 0; i < pairs; ++i) {
        const Index first = head + (args.interleaved ? 2 * i : i);
        rotate(t, i, x(t, first), x(t, first + (args.interleaved ? 1 : pairs)));
      }
    }
  }
}

/// The bits of kernels::rotary.
inline void rotary(const kernels::RotaryArgs& args) noexcept {
  for_each_pair(args, args.x, [&](Index t, Index i, float& x0, float& x1) {
    const double angle =
        static_cast<double>(args.position + t) * args.frequencies[static_cast<std::size_t>(i)];
    const auto exact = sin_cos_of(ScalarDoubleOps(), angle);
    const auto s = static_cast<float>(exact.sin);
    const auto c = static_cast<float>(exact.cos);
    const float rotated = std::fma(x0, c, -(x1 * s));
    x1 = std::fma(x1, c, x0 * s);
    x0 = rotated;
  });
}

/// The rotation in double precision, with the sine and cosine of the C library. `theta` and
/// `factor` are those of the frequencies, which are not used.
inline void rotary_oracle(const kernels::RotaryArgs& args, double theta, double factor,
                          MatrixView<double> y) {
  const auto dim = 2.0 * static_cast<double>(args.frequencies.size());
  for (Index t = 0; t < args.x.rows; ++t) {
    for (Index i = 0; i < args.x.cols; ++i) y(t, i) = static_cast<double>(args.x(t, i));
  }
  for_each_pair(args, args.x, [&](Index t, Index i, float& x0, float& x1) {
    const double angle = static_cast<double>(args.position + t) *
                         std::pow(theta, -2.0 * static_cast<double>(i) / dim) / factor;
    const Index at = &x0 - args.x.row_data(t);
    const Index other = &x1 - args.x.row_data(t);
    const auto a = static_cast<double>(x0);
    const auto b = static_cast<double>(x1);
    y(t, at) = a * std::cos(angle) - b * std::sin(angle);
    y(t, other) = b * std::cos(angle) + a * std::sin(angle);
  });
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
