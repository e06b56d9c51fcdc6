#include "krait/core/rng.hpp"

#include <gtest/gtest.h>

namespace krait::rng_test {
namespace {

using Words4 = std::array<std::uint32_t, 4>;

// Known answers published with the Random123 library (Salmon et al., SC 2011).
TEST(Philox, MatchesThePublishedVectors) {
  EXPECT_EQ(philox4x32({0, 0, 0, 0}, {0, 0}),
            (Words4{0x6627e8d5U, 0xe169c58dU, 0xbc57ac4cU, 0x9b00dbd8U}));
  EXPECT_EQ(
      philox4x32({0xffffffffU, 0xffffffffU, 0xffffffffU, 0xffffffffU}, {0xffffffffU, 0xffffffffU}),
      (Words4{0x408f276dU, 0x41c83b0eU, 0xa20bc7c6U, 0x6d5451fdU}));
  EXPECT_EQ(
      philox4x32({0x243f6a88U, 0x85a308d3U, 0x13198a2eU, 0x03707344U}, {0xa4093822U, 0x299f31d0U}),
      (Words4{0xd16cfe09U, 0x94fdccebU, 0x5001e420U, 0x24126ea1U}));
}

TEST(Philox, UniformIsInTheHalfOpenUnitIntervalAndCentred) {
  double sum = 0.0;
  for (std::uint64_t i = 0; i < 10000; ++i) {
    const double u = random_uniform({.seed = 7, .position = i});
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000.0, 0.5, 0.02);
}

TEST(Philox, EveryPartOfTheCounterMatters) {
  const RandomCounter base{.seed = 1, .sequence = 2, .position = 3, .draw = 4};
  const auto bits = random_bits(base);
  EXPECT_NE(bits, random_bits({.seed = 2, .sequence = 2, .position = 3, .draw = 4}));
  EXPECT_NE(bits, random_bits({.seed = 1, .sequence = 3, .position = 3, .draw = 4}));
  EXPECT_NE(bits, random_bits({.seed = 1, .sequence = 2, .position = 4, .draw = 4}));
  EXPECT_NE(bits, random_bits({.seed = 1, .sequence = 2, .position = 3, .draw = 5}));
  EXPECT_NE(bits, random_bits({.seed = 1ULL << 40, .sequence = 2, .position = 3, .draw = 4}));
}

}  // namespace
}  // namespace krait::rng_test
