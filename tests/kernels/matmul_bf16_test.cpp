#include "krait/kernels/matmul_bf16.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "krait/kernels/ref/matmul_bf16.hpp"
#include "tests/support/weights.hpp"

namespace krait::matmul_bf16_test {
namespace {

using kernels::Bf16Activations;
using kernels::MatmulBf16Args;
using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;
using test::StoredMatrix;

constexpr float untouched = -77.0F;

// Activations [tokens, cols] rounded by the active kernel.
class Rounded {
 public:
  explicit Rounded(MatrixView<const float> x)
      : memory_(x.rows * Bf16Activations::floats_per_token(x.cols)), view_(memory_.data(), x.cols) {
    kernels::round_activations(x, {0, x.rows}, view_);
  }
  const Bf16Activations& view() const { return view_; }
  std::span<const float> memory() const { return memory_.span(); }

 private:
  AlignedBuffer<float> memory_;
  Bf16Activations view_;
};

TEST(RoundActivations, EqualsTheModelForEveryKindOfNumber) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (Index cols = 0; cols <= 70; ++cols) {
    auto values = random_floats(2 * cols, 1);
    const float special[] = {nan,    -nan,  infinity, -infinity,   0.0F,       -0.0F,
                             1e-40F, 3e38F, -3.4e38F, 1.00390625F, 1.01171875F};
    for (std::size_t i = 0; i < values.size(); i += 3) values[i] = special[i / 3 % 11];
    const MatrixView<const float> x(values.data(), 2, cols);
    AlignedBuffer<float> expected(2 * Bf16Activations::floats_per_token(cols));
    ref::round_activations(x, {0, 2}, {expected.data(), cols});
    for_each_isa([&](Isa) {
      const Rounded rounded(x);
      ASSERT_TRUE(same_bits<float>(expected.span(), rounded.memory())) << cols;
    });
  }
}

void compare(const std::vector<float>& weights, const std::vector<float>& input, Index rows,
             Index cols, Index tokens, Index offset) {
  StoredMatrix W(DType::bf16, weights, rows, cols, offset);
  const Rounded x({input.data(), tokens, cols});
  auto bias = misaligned(random_floats(rows, 3), offset);
  const Index stride = rows + 3;
  for (const bool has_bias : {false, true}) {
    std::vector<float> expected(static_cast<std::size_t>(tokens * stride), untouched);
    MatmulBf16Args args{.W = W.view(),
                        .x = x.view(),
                        .bias = has_bias ? bias.data() : nullptr,
                        .y = {expected.data(), tokens, rows, stride},
                        .outputs = {0, rows}};
    ref::matmul_bf16(args);
    for_each_isa([&](Isa isa) {
      auto y = misaligned(std::vector<float>(expected.size(), untouched), offset);
      args.y.data = y.data();
      kernels::matmul_bf16(args);
      ASSERT_TRUE(same_bits<float>(expected, y.span()))
          << to_string(isa) << " rows=" << rows << " cols=" << cols << " tokens=" << tokens
          << " offset=" << offset << " bias=" << has_bias;
    });
  }
}

void compare_random(Index rows, Index cols, Index tokens, Index offset) {
  compare(random_floats(rows * cols, 1), random_floats(tokens * cols, 2), rows, cols, tokens,
          offset);
}

TEST(MatmulBf16, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for (Index cols = 0; cols <= 70; ++cols) compare_random(6, cols, 5, cols % 4);
  for (Index rows = 1; rows <= 20; ++rows) compare_random(rows, 48, 3, rows % 3);
  for (Index tokens = 1; tokens <= 19; ++tokens) compare_random(9, 80, tokens, 1);
  for (const Index cols : {768, 1536, 2049}) compare_random(5, cols, 4, 0);
  for (const Index rows : {15, 16, 17, 67}) compare_random(rows, 77, 1, 1);  // several streams
}

TEST(MatmulBf16, EqualsTheModelForEveryTileWithEveryRest) {
  test::for_each_tile_and_rest(
      [](Index rows, Index tokens, Index cols) { compare_random(rows, cols, tokens, cols % 2); });
}

// Lanes behind the end of a row hold what no product may touch: a zero times infinity is no zero.
TEST(MatmulBf16, LeavesLanesWithoutAnElementAlone) {
  constexpr Index rows = 7;
  for (Index cols = 1; cols < 64; ++cols) {
    std::vector<float> weights(static_cast<std::size_t>(rows * cols), 1e-30F);
    std::vector<float> input(static_cast<std::size_t>(5 * cols), -1e-30F);  // sums that become -0
    for (const Index tokens : {1, 2, 5}) compare(weights, input, rows, cols, tokens, 0);
  }
}

TEST(MatmulBf16, TreatsSubnormalNumbersAsZeros) {
  constexpr Index cols = 96;
  auto weights = random_floats(4 * cols, 4);
  auto input = random_floats(4 * cols, 5);
  // Operands, products and sums around the smallest normal number.
  for (std::size_t i = 0; i < weights.size(); ++i) {
    weights[i] = std::ldexp(weights[i], -62 - static_cast<int>(i % 5));
    input[i] = std::ldexp(input[i], -62 - static_cast<int>(i % 3));
    if (i % 7 == 0) weights[i] = 1e-39F;
    if (i % 11 == 0) input[i] = -1e-39F;
  }
  compare(weights, input, 4, cols, 4, 0);
}

TEST(MatmulBf16, WritesOnlyTheOutputsAskedFor) {
  constexpr Index rows = 21;
  constexpr Index cols = 37;
  StoredMatrix W(DType::bf16, random_floats(rows * cols, 6), rows, cols);
  const auto input = random_floats(2 * cols, 7);
  const Rounded x({input.data(), 2, cols});
  for (Index begin = 0; begin <= rows; ++begin) {
    for (Index end = begin; end <= rows; ++end) {
      std::vector<float> expected(2 * rows, untouched);
      MatmulBf16Args args{
          .W = W.view(), .x = x.view(), .y = {expected.data(), 2, rows}, .outputs = {begin, end}};
      ref::matmul_bf16(args);
      for_each_isa([&](Isa isa) {
        std::vector<float> y(2 * rows, untouched);
        args.y.data = y.data();
        kernels::matmul_bf16(args);
        ASSERT_EQ(expected, y) << to_string(isa) << ' ' << begin << ' ' << end;
      });
    }
  }
}

TEST(MatmulBf16, IsCloseToTheOracle) {
  constexpr Index rows = 32;
  constexpr Index cols = 1536;
  StoredMatrix W(DType::bf16, random_floats(rows * cols, 8), rows, cols);
  const auto input = random_floats(3 * cols, 9);
  const Rounded x({input.data(), 3, cols});
  std::vector<float> y(3 * rows);
  std::vector<double> exact(3 * rows);
  const MatmulBf16Args args{
      .W = W.view(), .x = x.view(), .y = {y.data(), 3, rows}, .outputs = {0, rows}};
  kernels::matmul_bf16(args);
  ref::matmul_bf16_oracle(args, {exact.data(), 3, rows});
  for (std::size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(y[i]), exact[i], 2e-5);
  }
}

}  // namespace
}  // namespace krait::matmul_bf16_test
