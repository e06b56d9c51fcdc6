#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <span>

namespace krait::test {

/// The largest size of a number; NaN if one is.
inline double largest_size(std::span<const float> x) {
  double largest = 0.0;
  for (const float value : x) {
    const double size = std::abs(static_cast<double>(value));
    if (!(size <= largest)) largest = size;
    if (std::isnan(largest)) break;
  }
  return largest;
}

/// The largest difference of two arrays over the largest number of `expected`.
inline double relative_difference(std::span<const float> found, std::span<const float> expected) {
  EXPECT_EQ(found.size(), expected.size());
  double worst = found.size() == expected.size() ? 0.0 : std::nan("");
  for (std::size_t i = 0; i < std::min(found.size(), expected.size()); ++i) {
    const double difference =
        std::abs(static_cast<double>(found[i]) - static_cast<double>(expected[i]));
    if (!(difference <= worst)) worst = difference;
    if (std::isnan(worst)) break;
  }
  return worst == 0.0 ? 0.0 : worst / largest_size(expected);
}

}  // namespace krait::test
