#pragma once

/// \file
/// The elementary functions in the bit-exact scalar form (numeric contract, section 5).

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

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
  /// x = mantissa · 2^exponent with the mantissa in [√½, √2), for positive normal x; anything for
  /// other values.
  static V mantissa(V x) noexcept {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return std::bit_cast<float>(bits - (static_cast<std::uint32_t>(whole_exponent(x)) << 23U));
  }
  static V exponent(V x) noexcept { return static_cast<float>(whole_exponent(x)); }
  /// x · 2^n, rounded once, for integral n in [-160, 130] and |x| in [2^-16, 2^16].
  static V scale(V x, V n) noexcept {
    if (!(n == n)) return x;  // x is NaN too
    const auto whole = static_cast<std::int32_t>(n);
    const std::int32_t half = whole >> 1;
    return x * power(half) * power(whole - half);
  }
  /// As `scale`, for n ≤ 0 only. Smaller |x| are allowed with n = 0; larger ones give anything.
  static V scale_down(V x, V n) noexcept { return scale(x, n); }
  /// 2^n of the sum 1.5 · 2^23 + 127 + n, for integral n in [-126, 127]; 0 for n = -127. NaN of
  /// NaN.
  static V power_of_biased(V biased) noexcept {
    return std::bit_cast<float>(std::bit_cast<std::uint32_t>(biased) << 23U);
  }
  static float quiet_nan() noexcept { return std::numeric_limits<float>::quiet_NaN(); }
  static float infinity() noexcept { return std::numeric_limits<float>::infinity(); }

 private:
  static std::int32_t whole_exponent(V x) noexcept {
    return static_cast<std::int32_t>(std::bit_cast<std::uint32_t>(x) - sqrt_half_bits) >> 23;
  }
  static float power(std::int32_t n) noexcept {
    return std::bit_cast<float>(static_cast<std::uint32_t>(n + 127) << 23U);
  }
  static constexpr std::uint32_t sqrt_half_bits = 0x3F3504F3U;
};

#define KRAIT_INLINE inline
#include "krait/kernels/ref/elementary.inl"
#undef KRAIT_INLINE

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
