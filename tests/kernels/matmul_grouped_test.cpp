#include "krait/kernels/matmul_grouped.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/kernels/ref/matmul_grouped.hpp"
#include "tests/support/grouped.hpp"

namespace krait::matmul_grouped_test {
namespace {

using kernels::GroupedForm;
using kernels::MatmulGroupedArgs;
using test::for_each_isa;
using test::grouped_forms;
using test::GroupedMatrix;
using test::misaligned;
using test::random_floats;
using test::RoundedActivations;
using test::same_bits;

constexpr float untouched = -77.0F;

// Compares all instruction sets with the model, with and without a bias.
void compare(GroupedForm form, Index rows, Index cols, Index tokens, Index offset) {
  const GroupedMatrix W(form, random_floats(rows * cols, 1), rows, cols, offset);
  const auto input = random_floats(tokens * cols, 2);
  const RoundedActivations x({input.data(), tokens, cols});
  auto bias = misaligned(random_floats(rows, 3), offset);
  const Index stride = rows + 3;
  for (const bool has_bias : {false, true}) {
    std::vector<float> expected(static_cast<std::size_t>(tokens * stride), untouched);
    MatmulGroupedArgs args{.W = W.view(),
                           .x = x.view(),
                           .bias = has_bias ? bias.data() : nullptr,
                           .y = {expected.data(), tokens, rows, stride},
                           .outputs = {0, rows}};
    ref::matmul_grouped(args);
    for_each_isa([&](Isa isa) {
      auto y = misaligned(std::vector<float>(expected.size(), untouched), offset);
      args.y.data = y.data();
      kernels::matmul_grouped(args);
      ASSERT_TRUE(same_bits<float>(expected, y.span()))
          << to_string(isa) << ' ' << to_string(form) << " rows=" << rows << " cols=" << cols
          << " tokens=" << tokens << " offset=" << offset << " bias=" << has_bias;
    });
  }
}

TEST(MatmulGrouped, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (const GroupedForm form : grouped_forms) {
    for (Index cols = 0; cols <= 70; ++cols) {
      for (const Index tokens : {2, 9}) compare(form, 19, cols, tokens, cols % 4);
    }
    for (Index rows = 1; rows <= 50; ++rows) compare(form, rows, 48, 3, rows % 3);
    for (Index tokens = 1; tokens <= 35; ++tokens) compare(form, 37, 80, tokens, 1);
    for (const Index cols : {768, 1536, 2049}) {
      for (const Index tokens : {5, 9, 17}) compare(form, 33, cols, tokens, 0);
    }
    for (const Index rows : {63, 64, 65, 203}) compare(form, rows, 80, 1, 1);  // several streams
  }
}

TEST(MatmulGrouped, EqualsTheModelForEveryTileWithEveryRest) {
  for (const GroupedForm form : grouped_forms) {
    test::for_each_tile_and_rest(
        [&](Index rows, Index tokens, Index cols) { compare(form, rows, cols, tokens, cols % 2); });
    // Every rest of a block of rows, for every number of tokens.
    for (Index rows = 17; rows <= 32; ++rows) {
      for (Index tokens = 1; tokens <= 8; ++tokens) compare(form, rows, 40, tokens, 1);
    }
  }
}

TEST(MatmulGrouped, WritesOnlyTheOutputsAskedFor) {
  constexpr Index rows = 70;
  constexpr Index cols = 64;
  for (const GroupedForm form : grouped_forms) {
    for (const Index tokens : {2, 18}) {
      const GroupedMatrix W(form, random_floats(rows * cols, 6), rows, cols);
      const auto input = random_floats(tokens * cols, 7);
      const RoundedActivations x({input.data(), tokens, cols});
      const auto size = static_cast<std::size_t>(tokens * rows);
      for (Index begin = 0; begin < rows; begin += 16) {
        for (Index end = begin; end <= 80; end += 16) {
          std::vector<float> expected(size, untouched);
          MatmulGroupedArgs args{.W = W.view(),
                                 .x = x.view(),
                                 .y = {expected.data(), tokens, rows},
                                 .outputs = {begin, std::min(end, rows)}};
          ref::matmul_grouped(args);
          for_each_isa([&](Isa isa) {
            std::vector<float> y(size, untouched);
            args.y.data = y.data();
            kernels::matmul_grouped(args);
            ASSERT_EQ(expected, y) << to_string(isa) << ' ' << tokens << ' ' << begin << ' ' << end;
          });
        }
      }
    }
  }
}

TEST(MatmulGrouped, HoldsTheLargestSums) {
  // Every product of a group at its largest, of either sign: what 16-bit sums must hold.
  for (const GroupedForm form : grouped_forms) {
    for (const float sign : {1.0F, -1.0F}) {
      for (const float top : {1.0F, -1.0F}) {
        const std::vector<float> values(16 * 64, top);
        const GroupedMatrix W(form, values, 16, 64);
        for (const Index tokens : {1, 16}) {
          const std::vector<float> input(static_cast<std::size_t>(tokens * 64), sign);
          const RoundedActivations x({input.data(), tokens, 64});
          for_each_isa([&](Isa isa) {
            std::vector<float> y(static_cast<std::size_t>(tokens * 16));
            kernels::matmul_grouped(
                {.W = W.view(), .x = x.view(), .y = {y.data(), tokens, 16}, .outputs = {0, 16}});
            for (const float value : y) {
              ASSERT_NEAR(value, 64.0F * sign * top, 0.1F) << to_string(isa) << to_string(form);
            }
          });
        }
      }
    }
  }
}

TEST(MatmulGrouped, IsCloseToTheOracleAndToTheWeights) {
  constexpr Index rows = 48;
  constexpr Index cols = 768;
  constexpr Index tokens = 3;
  const auto values = random_floats(rows * cols, 8);
  const auto input = random_floats(tokens * cols, 9);
  for (const GroupedForm form : grouped_forms) {
    const GroupedMatrix W(form, values, rows, cols);
    const RoundedActivations x({input.data(), tokens, cols});
    std::vector<float> y(tokens * rows);
    std::vector<double> exact(tokens * rows);
    const MatmulGroupedArgs args{
        .W = W.view(), .x = x.view(), .y = {y.data(), tokens, rows}, .outputs = {0, rows}};
    kernels::matmul_grouped(args);
    ref::matmul_grouped_oracle(args, {exact.data(), tokens, rows});
    double error = 0.0;
    double power = 0.0;
    for (Index t = 0; t < tokens; ++t) {
      for (Index r = 0; r < rows; ++r) {
        const auto at = static_cast<std::size_t>(t * rows + r);
        ASSERT_NEAR(static_cast<double>(y[at]), exact[at], 1e-4);
        double sum = 0.0;
        for (Index k = 0; k < cols; ++k) {
          sum += static_cast<double>(values[static_cast<std::size_t>(r * cols + k)]) *
                 static_cast<double>(input[static_cast<std::size_t>(t * cols + k)]);
        }
        error += (sum - static_cast<double>(y[at])) * (sum - static_cast<double>(y[at]));
        power += sum * sum;
      }
    }
    EXPECT_LT(error / power, form == GroupedForm::q8 ? 1e-4 : 7e-3) << to_string(form);
  }
}

}  // namespace
}  // namespace krait::matmul_grouped_test
