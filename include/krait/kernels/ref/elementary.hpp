#pragma once

/// \file
/// The elementary functions in the bit-exact scalar form (numeric contract, section 5).

#include <bit>
#include <cmath>
#include <cstdint>

#include "krait/core/config.hpp"

namespace krait::inline v0_1::ref {

/// Scalar operations for elementary.inl.
struct ScalarOps {
  using V = float;
  static V set(float x) noexcept { return x; }
  static V add(V a, V b) noexcept { return a + b; }
  static V sub(V a, V b) noexcept { return a - b; }
  static V mul(V a, V b) noexcept { return a * b; }
  static V div(V a, V b) noexcept { return a / b; }
  static V fma(V a, V b, V c) noexcept { return std::fma(a, b, c); }
  static V sqrt(V a) noexcept { return std::sqrt(a); }
  static V abs(V a) noexcept { return std::fabs(a); }
  static V neg(V a) noexcept { return -a; }
  /// As the x86 instructions: the second operand if either is NaN.
  static V max(V a, V b) noexcept { return a > b ? a : b; }
  static V min(V a, V b) noexcept { return a < b ? a : b; }
  /// To the nearest integer, ties to even.
  static V round(V a) noexcept { return std::nearbyint(a); }
  /// a > b ? yes : no.
  static V if_greater(V a, V b, V yes, V no) noexcept { return a > b ? yes : no; }
  /// x · 2^n for integral n in [-151, 130] and x in [0.5, 2], rounded once.
  static V scale_by_power_of_two(V x, V n) noexcept {
    if (!(n == n)) return n;
    const auto whole = static_cast<std::int32_t>(n);
    const std::int32_t half = whole >> 1;
    return x * power(half) * power(whole - half);
  }

 private:
  static float power(std::int32_t n) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23U);
  }
};

#define KRAIT_INLINE inline
#include "krait/kernels/ref/elementary.inl"
#undef KRAIT_INLINE

}  // namespace krait::inline v0_1::ref
