#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

namespace krait {
inline namespace v0_1 {

// exp and log in double from additions, multiplications and one division only. The system's libm
// chooses between variants that differ in the last bit from machine to machine; these do not.
// Relative error below 1e-15 for exp, 2e-15 for log.

/// e^x for x ≤ 0; 0 below -700.
inline double exp_nonpositive(double x) noexcept {
  if (!(x > -700.0)) return 0.0;
  const double n = std::nearbyint(x * 1.4426950408889634);
  const double r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;  // |r| ≤ ln2/2
  // Taylor series: the first term left out is below 1e-17.
  double sum = 1.0;
  for (double k = 14.0; k >= 1.0; k -= 1.0) sum = 1.0 + sum * r / k;
  return sum * std::bit_cast<double>(static_cast<std::uint64_t>(static_cast<std::int64_t>(n) + 1023)
                                     << 52U);
}

/// ln x for finite x > 0, not subnormal.
inline double log_positive(double x) noexcept {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  auto exponent = static_cast<double>(static_cast<std::int64_t>(bits >> 52U) - 1023);
  double m = std::bit_cast<double>((bits & 0xFFFFFFFFFFFFFU) | 0x3FF0000000000000U);  // [1, 2)
  if (m > 1.4142135623730951) {
    m *= 0.5;
    exponent += 1.0;
  }
  // ln m = 2 artanh(s), |s| ≤ 0.172: the series converges by a factor of 34 a term.
  const double s = (m - 1.0) / (m + 1.0);
  const double square = s * s;
  double sum = 0.0;
  for (double k = 23.0; k >= 1.0; k -= 2.0) sum = sum * square + 1.0 / k;
  return exponent * 0.6931471805599453 + 2.0 * s * sum;
}

}  // namespace v0_1
}  // namespace krait
