#include "krait/kernels/elementwise.hpp"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>

#include "krait/kernels/ref/elementwise.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::elementwise_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;

using Unary = void (*)(std::span<const float>, std::span<float>) noexcept;
using Binary = void (*)(std::span<const float>, std::span<const float>, std::span<float>) noexcept;

// y = 0.3 a + b as a function of two operands.
template <auto function>
void add_scaled(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  const std::vector<float> x(a.begin(), a.end());  // y may be a
  if (y.data() != b.data()) std::copy(b.begin(), b.end(), y.begin());
  function(0.3F, x, y);
}

// y = 0.3 b.
template <auto function>
void scale(std::span<const float>, std::span<const float> b, std::span<float> y) noexcept {
  function(0.3F, b, y);
}

double exp_oracle(double x) { return std::exp(x); }
double log_oracle(double x) { return std::log(x); }
double relu_oracle(double x) { return x < 0.0 ? 0.0 : x; }

struct UnaryCase {
  const char* name;
  Unary kernel;
  Unary model;
  double (*oracle)(double);
  // Largest error over all 2^32 arguments, in units of the last place, rounded up a little.
  double bound;
};

const UnaryCase unary_cases[] = {
    {"exp", kernels::exp, ref::exp, exp_oracle, 0.9},
    {"log", kernels::log, ref::log, log_oracle, 0.9},
    {"softplus", kernels::softplus, ref::softplus, ref::softplus_oracle, 1.9},
    {"sigmoid", kernels::sigmoid, ref::sigmoid, ref::sigmoid_oracle, 2.5},
    {"silu", kernels::silu, ref::silu, ref::silu_oracle, 2.8},
    {"gelu", kernels::gelu, ref::gelu, ref::gelu_oracle, 6.9},
    {"relu", kernels::relu, ref::relu, relu_oracle, 0.0},
};

const struct {
  const char* name;
  Binary kernel;
  Binary model;
} binary_cases[] = {
    {"add", kernels::add, ref::add},
    {"mul", kernels::mul, ref::mul},
    {"scale", scale<kernels::scale>, scale<ref::scale>},
    {"silu_mul", kernels::silu_mul, ref::silu_mul},
    {"add_scaled", add_scaled<kernels::add_scaled>, add_scaled<ref::add_scaled>},
};

// Error of y in units of the last place of a float at the exact value; infinite if y is of the
// wrong kind or sign.
double ulp_error(float y, double exact) {
  constexpr double wrong = std::numeric_limits<double>::infinity();
  if (std::isnan(exact) || std::isnan(y)) return std::isnan(exact) && std::isnan(y) ? 0.0 : wrong;
  if (std::signbit(y) != std::signbit(exact)) return wrong;
  constexpr double overflow = 0x1.ffffffp+127;  // from here on nearest is infinity
  if (std::isinf(y)) return std::fabs(exact) >= overflow ? 0.0 : wrong;
  int exponent = 0;
  std::frexp(exact, &exponent);
  const int unit = std::clamp(exponent - 24, -149, 104);
  return std::fabs(static_cast<double>(y) - exact) * std::ldexp(1.0, -unit);
}

std::vector<float> special_values() {
  std::vector<float> values;
  for (const float x : {0.0F,
                        0x1p-149F,
                        0x1p-130F,
                        0x1p-126F,
                        1e-30F,
                        1e-8F,
                        0.3F,
                        0.5F,
                        0.999999F,
                        1.0F,
                        1.000001F,
                        2.0F,
                        16.7F,
                        20.0F,
                        20.00001F,
                        87.3F,
                        88.72283F,
                        88.8F,
                        89.5F,
                        103.9F,
                        104.0F,
                        104.5F,
                        108.0F,
                        110.0F,
                        1e4F,
                        3e38F,
                        std::numeric_limits<float>::infinity(),
                        std::numeric_limits<float>::quiet_NaN()}) {
    values.push_back(x);
    values.push_back(-x);
  }
  values.push_back(std::bit_cast<float>(0x7FC12345U));  // a NaN with a payload
  values.push_back(std::bit_cast<float>(0xFFC54321U));
  return values;
}

TEST(Elementary, StaysBelowItsBoundEverywhere) {
  constexpr std::uint32_t step = 257;  // odd, so that all low bits occur
  std::vector<float> x;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32U); bits += step) {
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  }
  std::vector<float> y(x.size());
  for (const UnaryCase& c : unary_cases) {
    c.kernel(x, y);
    double worst = 0.0;
    float at = 0.0F;
    for (std::size_t i = 0; i < x.size(); ++i) {
      const double error = ulp_error(y[i], c.oracle(static_cast<double>(x[i])));
      if (error > worst) {
        worst = error;
        at = x[i];
      }
    }
    EXPECT_LE(worst, c.bound) << c.name << " at " << at;
  }
}

TEST(Elementary, PowersOfTwoStayBelowTheirBoundWhereTheyAreNotFlushed) {
  const ref::ScalarOps ops;
  double worst = 0.0;
  // From -126.5 on, where results begin to be flushed, to -0.
  for (std::uint32_t bits = 0x80000000U; bits < 0xC2FD0000U; bits += 97) {
    const float x = std::bit_cast<float>(bits);
    const double exact = std::exp2(static_cast<double>(x));
    worst = std::max(worst, ulp_error(ref::exp2_nonpositive_of(ops, x), exact));
  }
  EXPECT_LE(worst, 0.9);
  EXPECT_EQ(ref::exp2_nonpositive_of(ops, 0.0F), 1.0F);
  EXPECT_EQ(ref::exp2_nonpositive_of(ops, -1.0F), 0.5F);
  EXPECT_EQ(ref::exp2_nonpositive_of(ops, -126.0F), 0x1p-126F);
  for (const float x : {-126.51F, -127.0F, -1e30F, -std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(ref::exp2_nonpositive_of(ops, x), 0.0F) << x;
  }
  EXPECT_TRUE(std::isnan(ref::exp2_nonpositive_of(ops, std::numeric_limits<float>::quiet_NaN())));
}

TEST(Elementary, HasTheRightValuesAtTheEnds) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  const ref::ScalarOps ops;
  EXPECT_EQ(ref::exp_of(ops, 0.0F), 1.0F);
  EXPECT_EQ(ref::exp_of(ops, -inf), 0.0F);
  EXPECT_EQ(ref::exp_of(ops, inf), inf);
  EXPECT_EQ(ref::exp_of(ops, -103.9F), 0x1p-149F);  // the smallest subnormal
  EXPECT_EQ(ref::exp_of(ops, -104.0F), 0.0F);
  EXPECT_EQ(ref::log_of(ops, 1.0F), 0.0F);
  EXPECT_EQ(ref::log_of(ops, 0.0F), -inf);
  EXPECT_EQ(ref::log_of(ops, -0.0F), -inf);
  EXPECT_EQ(ref::log_of(ops, inf), inf);
  EXPECT_TRUE(std::isnan(ref::log_of(ops, -0x1p-149F)));
  EXPECT_TRUE(std::isnan(ref::log_of(ops, -inf)));
  EXPECT_EQ(ref::softplus_of(ops, -inf), 0.0F);
  EXPECT_EQ(ref::softplus_of(ops, inf), inf);
  EXPECT_EQ(ref::sigmoid_of(ops, -inf), 0.0F);
  EXPECT_EQ(ref::sigmoid_of(ops, inf), 1.0F);
  EXPECT_EQ(ref::silu_of(ops, inf), inf);
  const float lowest = ref::silu_of(ops, -inf);
  EXPECT_TRUE(lowest == 0.0F && std::signbit(lowest));
}

TEST(Elementary, SoftplusIsLinearAboveTheThresholdOfPyTorch) {
  for (float x = 20.0F; x < 3e38F; x = x * 1.001F + 1e-6F) {
    ASSERT_EQ(ref::softplus_of(ref::ScalarOps(), x), x);
  }
}

TEST(Elementary, ExpOfNonpositiveArgumentsHasTheBitsOfExp) {
  const ref::ScalarOps ops;
  for (std::uint64_t bits = 0x80000000U; bits <= 0xFF800000U; bits += 4099) {
    const float x = std::bit_cast<float>(static_cast<std::uint32_t>(bits));
    ASSERT_EQ(std::bit_cast<std::uint32_t>(ref::exp_of(ops, x)),
              std::bit_cast<std::uint32_t>(ref::exp_nonpositive_of(ops, x)));
  }
}

TEST(Elementwise, EqualsTheModelBitForBitOverTheWholeRange) {
  constexpr std::uint32_t step = 4099;
  std::vector<float> x;
  for (std::uint64_t bits = 0; bits < (std::uint64_t{1} << 32U); bits += step) {
    x.push_back(std::bit_cast<float>(static_cast<std::uint32_t>(bits)));
  }
  std::vector<float> expected(x.size());
  std::vector<float> actual(x.size());
  for (const UnaryCase& c : unary_cases) {
    c.model(x, expected);
    for_each_isa([&](Isa isa) {
      c.kernel(x, actual);
      ASSERT_TRUE(same_bits<float>(expected, actual)) << c.name << ' ' << to_string(isa);
    });
  }
}

TEST(Elementwise, EqualsTheModelForEverySizeAndAlignment) {
  const auto special = special_values();
  const auto random = random_floats(80, 1, 30.0F);
  for_each_isa([&](Isa isa) {
    for (std::size_t n = 0; n <= 70; ++n) {
      for (const Index offset : {0, 1, 3}) {
        for (const auto* source : {&special, &random}) {
          std::vector<float> values(n);
          for (std::size_t i = 0; i < n; ++i) values[i] = (*source)[(i + n) % source->size()];
          auto x = misaligned(values, offset);
          std::vector<float> expected(n);
          auto y = misaligned(std::vector<float>(n, -1.0F), offset);
          for (const UnaryCase& c : unary_cases) {
            c.model(x.span(), expected);
            c.kernel(x.span(), {y.data(), n});
            ASSERT_TRUE(same_bits<float>(expected, y.span()))
                << c.name << ' ' << to_string(isa) << " n=" << n << " offset=" << offset;
          }
        }
        auto a = misaligned(random_floats(static_cast<Index>(n), 2, 9.0F), offset);
        auto b = misaligned(random_floats(static_cast<Index>(n), 3, 9.0F), offset);
        std::vector<float> expected(n);
        auto y = misaligned(std::vector<float>(n, -1.0F), offset);
        for (const auto& c : binary_cases) {
          c.model(a.span(), b.span(), expected);
          c.kernel(a.span(), b.span(), {y.data(), n});
          ASSERT_TRUE(same_bits<float>(expected, y.span()))
              << c.name << ' ' << to_string(isa) << " n=" << n << " offset=" << offset;
        }
      }
    }
  });
}

TEST(Elementwise, OutputMayBeAnyInput) {
  constexpr Index n = 53;
  for_each_isa([&](Isa) {
    for (const UnaryCase& c : unary_cases) {
      auto x = random_floats(n, 4, 9.0F);
      std::vector<float> expected(x.size());
      c.model(x, expected);
      c.kernel(x, x);
      ASSERT_TRUE(same_bits<float>(expected, x)) << c.name;
    }
    for (const auto& c : binary_cases) {
      const auto a = random_floats(n, 5, 9.0F);
      const auto b = random_floats(n, 6, 9.0F);
      std::vector<float> expected(a.size());
      c.model(a, b, expected);
      auto left = a;
      c.kernel(left, b, left);
      ASSERT_TRUE(same_bits<float>(expected, left)) << c.name;
      auto right = b;
      c.kernel(a, right, right);
      ASSERT_TRUE(same_bits<float>(expected, right)) << c.name;
    }
  });
}

}  // namespace
}  // namespace krait::elementwise_test
