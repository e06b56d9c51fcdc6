#include "krait/kernels/rotary.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "krait/kernels/ref/rotary.hpp"
#include "tests/support/control_word.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::rotary_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::Misaligned;
using test::random_floats;
using test::same_bits;

// Rows of some heads between other things.
struct Problem {
  Index tokens;
  Index heads;
  Index d_head;
  Index rotary_dim;
  bool interleaved = false;
  Index position = 0;
  double theta = 10000.0;
  double factor = 1.0;
  Index offset = 0;
  Index row = heads * d_head + 3;
  Misaligned<float> x = misaligned(random_floats((tokens - 1) * row + heads * d_head, 1), offset);
  std::vector<double> frequencies = kernels::rotary_frequencies(theta, rotary_dim, factor);

  kernels::RotaryArgs args() {
    return {.x = {x.data(), tokens, heads * d_head, row},
            .position = position,
            .d_head = d_head,
            .frequencies = frequencies,
            .interleaved = interleaved};
  }
};

void compare(Problem problem) {
  Problem expected = problem;
  ref::rotary(expected.args());
  for_each_isa([&](Isa) {
    Problem actual = problem;
    kernels::rotary(actual.args());
    ASSERT_TRUE(same_bits<float>(expected.x.span(), actual.x.span()))
        << "d_head=" << problem.d_head << " rotary_dim=" << problem.rotary_dim
        << " interleaved=" << problem.interleaved << " tokens=" << problem.tokens;
  });
}

TEST(Rotary, EqualsTheModelForEveryWidthOfHeads) {
  for (const bool interleaved : {false, true}) {
    for (Index d_head = 1; d_head <= 130; ++d_head) {
      compare({.tokens = 1 + d_head % 3,
               .heads = 1 + d_head % 4,
               .d_head = d_head,
               .rotary_dim = d_head / 2 * 2,
               .interleaved = interleaved,
               .position = 1000 * d_head,
               .offset = d_head % 5});
      if (HasFatalFailure()) return;
    }
    compare(
        {.tokens = 2, .heads = 2, .d_head = 300, .rotary_dim = 290, .interleaved = interleaved});
  }
}

TEST(Rotary, EqualsTheModelForPartsOfHeads) {
  for (const bool interleaved : {false, true}) {
    for (Index rotary_dim = 0; rotary_dim <= 64; rotary_dim += 2) {
      compare({.tokens = 3,
               .heads = 3,
               .d_head = 64,
               .rotary_dim = rotary_dim,
               .interleaved = interleaved,
               .position = 77});
      if (HasFatalFailure()) return;
    }
  }
}

TEST(Rotary, EqualsTheModelAtFarPositions) {
  for (const Index position : {Index{0}, Index{1} << 20, Index{1} << 31, Index{1} << 52}) {
    compare({.tokens = 70, .heads = 1, .d_head = 64, .rotary_dim = 64, .position = position});
  }
}

TEST(Rotary, AnyCutOfTheTokensAndHeadsGivesTheSameBits) {
  for_each_isa([&](Isa) {
    Problem whole{.tokens = 9, .heads = 4, .d_head = 20, .rotary_dim = 16, .position = 100};
    Problem parts = whole;
    kernels::rotary(whole.args());
    for (Index t = 0; t < 9; ++t) {
      for (const Range heads : {Range{0, 1}, Range{1, 4}}) {
        auto args = parts.args();
        args.x = args.x.rows_from(t, 1).cols_from(heads.begin * 20, heads.size() * 20);
        args.position += t;
        kernels::rotary(args);
      }
    }
    ASSERT_TRUE(same_bits<float>(whole.x.span(), parts.x.span()));
  });
}

TEST(Rotary, PositionZeroAndTheRestOfAHeadStay) {
  for_each_isa([&](Isa) {
    for (const bool interleaved : {false, true}) {
      Problem problem{
          .tokens = 2, .heads = 2, .d_head = 30, .rotary_dim = 10, .interleaved = interleaved};
      Problem before = problem;
      kernels::rotary(problem.args());
      const auto was = before.args().x;
      const auto is = problem.args().x;
      for (Index i = 0; i < 60; ++i) {
        EXPECT_EQ(is(0, i), was(0, i));
        EXPECT_EQ(is(1, i) == was(1, i), i % 30 >= 10) << i;
      }
    }
  });
}

TEST(Rotary, PairsAreHalvesOrNeighbours) {
  Problem halves{.tokens = 2, .heads = 1, .d_head = 4, .rotary_dim = 4};
  Problem neighbours = halves;
  neighbours.interleaved = true;
  for (Problem* problem : {&halves, &neighbours}) {
    std::fill_n(problem->args().x.row_data(1), 4, 0.0F);
    problem->args().x(1, 0) = 1.0F;
    kernels::rotary(problem->args());
    EXPECT_FLOAT_EQ(problem->args().x(1, 0), std::cos(1.0F));
  }
  EXPECT_FLOAT_EQ(halves.args().x(1, 2), std::sin(1.0F));
  EXPECT_EQ(halves.args().x(1, 1), 0.0F);
  EXPECT_FLOAT_EQ(neighbours.args().x(1, 1), std::sin(1.0F));
  EXPECT_EQ(neighbours.args().x(1, 2), 0.0F);
}

TEST(Rotary, SinesAndCosinesAreThoseOfTheCLibrary) {
  // Units in the last place of 1; both errors are below one of their own.
  constexpr double absolute = 0x1p-52;
  const auto check = [&](double angle) {
    const auto found = ref::sin_cos_of(ref::ScalarDoubleOps(), angle);
    ASSERT_NEAR(found.sin, std::sin(angle), absolute) << angle;
    ASSERT_NEAR(found.cos, std::cos(angle), absolute) << angle;
    // As floats, in which the result is used, they differ by one unit at most, and that rarely.
    ASSERT_NEAR(static_cast<float>(found.sin), static_cast<float>(std::sin(angle)),
                std::abs(std::sin(angle)) * 0x1p-23);
  };
  for (Index i = 0; i < 100000; ++i) check(static_cast<double>(i) * 0.001);
  for (Index i = 0; i < 100000; ++i) check(static_cast<double>(i) * 16.47);  // 2^20 π/2
  const float nothing = std::numeric_limits<float>::infinity();
  const auto undefined = ref::sin_cos_of(ref::ScalarDoubleOps(), static_cast<double>(nothing));
  EXPECT_TRUE(std::isnan(undefined.sin));
}

TEST(Rotary, FrequenciesAreThePowers) {
  for (const double theta : {10000.0, 500000.0, 1e6, 1e7, 2.0, 1.0, 0.5, 1e300}) {
    for (const Index dim : {2, 32, 64, 100, 128}) {
      const auto found = kernels::rotary_frequencies(theta, dim, 4.0);
      ASSERT_EQ(found.size(), static_cast<std::size_t>(dim / 2));
      EXPECT_EQ(found[0], 0.25);
      for (std::size_t i = 0; i < found.size(); ++i) {
        const double exponent = static_cast<double>(2 * i) / static_cast<double>(dim);
        const double exact = std::pow(theta, -exponent) / 4.0;
        // The logarithm's rounding counts as often as it is large.
        const double relative = 0x1p-52 * (2.0 + std::abs(std::log(theta)));
        ASSERT_NEAR(found[i], exact, exact * relative) << theta << ' ' << i;
      }
    }
  }
}

// The same on every machine, whatever its C library, and whatever the caller's rounding.
TEST(Rotary, FrequenciesHaveTheseBits) {
  const std::uint64_t before = test::control_word();
  for (const std::uint64_t word : test::odd_control_words()) {
    test::set_control_word(word);
    const auto found = kernels::rotary_frequencies(10000.0, 64);
    test::set_control_word(before);
    EXPECT_EQ(found[1], 0x1.7ff2224115d9ap-1);
    EXPECT_EQ(found[13], 0x1.84869f47f1712p-6);
    EXPECT_EQ(found[31], 0x1.17a8e301c443ep-13);
  }
}

TEST(Rotary, IsCloseToTheOracle) {
  // Two roundings of products and sums of values below 1, and half a unit of sine and cosine.
  constexpr double absolute = 2.5e-7;
  for (const bool interleaved : {false, true}) {
    for (const Index position : {0, 4000, 1000000}) {
      for (const double theta : {10000.0, 1e6}) {
        Problem problem{.tokens = 40,
                        .heads = 2,
                        .d_head = 80,
                        .rotary_dim = 64,
                        .interleaved = interleaved,
                        .position = position,
                        .theta = theta,
                        .factor = 2.0};
        const auto args = problem.args();
        std::vector<double> exact(static_cast<std::size_t>(40 * 160));
        ref::rotary_oracle(args, theta, 2.0, {exact.data(), 40, 160});
        kernels::rotary(args);
        for (Index t = 0; t < 40; ++t) {
          for (Index i = 0; i < 160; ++i) {
            ASSERT_NEAR(static_cast<double>(args.x(t, i)),
                        exact[static_cast<std::size_t>(t * 160 + i)], absolute);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace krait::rotary_test
