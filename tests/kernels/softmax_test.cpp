#include "krait/kernels/softmax.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "krait/kernels/ref/softmax.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::softmax_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;

constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float nan_value = std::numeric_limits<float>::quiet_NaN();

// Everything the header declares, for one row: model against kernel.
void expect_equal(const std::vector<float>& values, Index offset, Isa isa) {
  auto x = misaligned(values, offset);
  std::vector<float> expected(values.size());
  auto y = misaligned(std::vector<float>(values.size(), -1.0F), offset);
  const std::span<float> out{y.data(), values.size()};
  ref::softmax(values, expected);
  kernels::softmax(x.span(), out);
  ASSERT_TRUE(same_bits<float>(expected, out)) << to_string(isa) << " n=" << values.size();
  ref::log_softmax(values, expected);
  kernels::log_softmax(x.span(), out);
  ASSERT_TRUE(same_bits<float>(expected, out)) << to_string(isa) << " n=" << values.size();
  const float total = ref::log_sum_exp(values);
  const float found = kernels::log_sum_exp(x.span());
  ASSERT_TRUE(same_bits<float>({&total, 1}, {&found, 1})) << to_string(isa);
  ASSERT_EQ(ref::argmax(values), kernels::argmax(x.span())) << to_string(isa);
}

TEST(Softmax, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for_each_isa([&](Isa isa) {
    for (Index n = 1; n <= 70; ++n) {
      for (const Index offset : {0, 1, 3}) {
        expect_equal(random_floats(n, 1, 8.0F), offset, isa);
        expect_equal(random_floats(n, 2, 200.0F), offset, isa);  // many subnormal terms
      }
    }
    for (Index n = 80; n <= 256; n += 16) expect_equal(random_floats(n, 3, 8.0F), 0, isa);
    expect_equal(random_floats(50280, 4, 15.0F), 0, isa);
  });
}

TEST(Softmax, EqualsTheModelWithSpecialValuesAtEveryPlace) {
  for_each_isa([&](Isa isa) {
    for (const float special : {inf, -inf, nan_value}) {
      for (std::size_t at = 0; at < 67; ++at) {
        auto x = random_floats(67, 5, 4.0F);
        x[at] = special;
        expect_equal(x, 1, isa);
        x[(at * 7 + 3) % 67] = -inf;
        expect_equal(x, 0, isa);
      }
    }
    expect_equal(std::vector<float>(21, -inf), 0, isa);
    expect_equal(std::vector<float>(21, nan_value), 0, isa);
    expect_equal(std::vector<float>(21, inf), 0, isa);
  });
}

TEST(Softmax, DefinesWhatHappensToSpecialValues) {
  std::vector<float> y(3);
  kernels::softmax(std::vector<float>{1.0F, -inf, 1.0F}, y);
  EXPECT_EQ(y, (std::vector<float>{0.5F, 0.0F, 0.5F}));
  for (const auto& x :
       {std::vector<float>{1.0F, nan_value, 1.0F}, std::vector<float>{-inf, -inf, -inf},
        std::vector<float>{0.0F, inf, 1.0F}}) {
    kernels::softmax(x, y);
    for (const float value : y) EXPECT_TRUE(std::isnan(value));
  }
  EXPECT_EQ(kernels::log_sum_exp(std::vector<float>{-inf, -inf}), -inf);
  EXPECT_EQ(kernels::log_sum_exp(std::vector<float>{3.0F, inf}), inf);
  EXPECT_TRUE(std::isnan(kernels::log_sum_exp(std::vector<float>{inf, nan_value})));
}

TEST(Softmax, IsCloseToTheOracle) {
  // Two things count: x - max lies in (-20, 0], and its rounding is an absolute error of the
  // exponent; a lane of the longest row adds 3143 terms.
  constexpr double relative = 1e-5;
  // The same errors, here absolute.
  constexpr double absolute = 1e-5;
  for (const Index n : {7, 256, 50280}) {
    const auto x = random_floats(n, 6, 10.0F);
    std::vector<double> exact(x.size());
    ref::softmax_oracle(x, exact);
    std::vector<float> y(x.size());
    kernels::softmax(x, y);
    for (std::size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(y[i]), exact[i], relative * exact[i]);
    }
    const double total = ref::log_sum_exp_oracle(x);
    ASSERT_NEAR(static_cast<double>(kernels::log_sum_exp(x)), total, absolute);
    kernels::log_softmax(x, y);
    for (std::size_t i = 0; i < y.size(); ++i) {
      ASSERT_NEAR(static_cast<double>(y[i]), static_cast<double>(x[i]) - total, absolute);
    }
  }
}

TEST(Softmax, WorksInPlace) {
  for_each_isa([&](Isa) {
    auto x = random_floats(45, 7, 5.0F);
    std::vector<float> expected(x.size());
    ref::softmax(x, expected);
    auto y = x;
    kernels::softmax(y, y);
    ASSERT_TRUE(same_bits<float>(expected, y));
    ref::log_softmax(x, expected);
    kernels::log_softmax(x, x);
    ASSERT_TRUE(same_bits<float>(expected, x));
  });
}

TEST(Argmax, TakesTheLowestOfEqualsAndNeverNaN) {
  for_each_isa([&](Isa) {
    for (std::size_t first = 0; first < 67; ++first) {
      std::vector<float> x(67, 1.0F);
      x[first] = 2.0F;
      x[66] = 2.0F;
      ASSERT_EQ(kernels::argmax(x), static_cast<Index>(first));
      x[first / 2] = nan_value;
      ASSERT_EQ(kernels::argmax(x), static_cast<Index>(first / 2 == first ? 66 : first));
    }
    EXPECT_EQ(kernels::argmax(std::vector<float>{-0.0F, 0.0F}), 0);
    EXPECT_EQ(kernels::argmax(std::vector<float>{nan_value, -inf, -inf}), 1);
    EXPECT_EQ(kernels::argmax(std::vector<float>{nan_value, nan_value}), 0);
  });
}

// The comparison above is sensitive: a sum in another order has other bits.
TEST(Softmax, AWrongOrderOfTheSumIsNoticed) {
  bool noticed = false;
  for (Index n = 33; n <= 256 && !noticed; ++n) {
    const auto x = random_floats(n, 8, 8.0F);
    const float largest = ref::max_of(x);
    std::array<ref::Lanes, 2> acc{};
    for (std::size_t i = 0; i < x.size(); ++i) {
      acc[i / 16 % 2][i % 16] += ref::exp_nonpositive_of(ref::ScalarOps(), x[i] - largest);
    }
    for (std::size_t i = 0; i < 16; ++i) acc[0][i] += acc[1][i];
    noticed = ref::reduce(acc[0]) != ref::sum_of_exp(x, largest);
  }
  EXPECT_TRUE(noticed);
}

}  // namespace
}  // namespace krait::softmax_test
