#include "krait/kernels/norm.hpp"

#include <gtest/gtest.h>

#include "krait/kernels/ref/norm.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::norm_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;

struct Case {
  const char* name;
  void (*kernel)(const kernels::NormArgs&) noexcept;
  void (*model)(const kernels::NormArgs&) noexcept;
  void (*oracle)(const kernels::NormArgs&, MatrixView<double>);
};

const Case cases[] = {
    {"rms_norm", kernels::rms_norm, ref::rms_norm, ref::rms_norm_oracle},
    {"layer_norm", kernels::layer_norm, ref::layer_norm, ref::layer_norm_oracle},
};

TEST(Norm, EqualsTheModelBitForBitOnEveryInstructionSet) {
  constexpr Index tokens = 3;
  for (const Case& c : cases) {
    for_each_isa([&](Isa isa) {
      for (Index d = 1; d <= 70; ++d) {
        for (const Index offset : {0, 1, 3}) {
          for (const int parts : {0, 1, 2}) {  // nothing, weight, weight and bias
            auto x = misaligned(random_floats(tokens * d, 1, 3.0F), offset);
            auto weight = misaligned(random_floats(d, 2), offset);
            auto bias = misaligned(random_floats(d, 3), offset);
            std::vector<float> expected(static_cast<std::size_t>(tokens * d), -1.0F);
            auto actual = misaligned(expected, offset);
            kernels::NormArgs args{.x = {x.data(), tokens, d},
                                   .weight = parts > 0 ? weight.data() : nullptr,
                                   .bias = parts > 1 ? bias.data() : nullptr,
                                   .eps = 1e-5F,
                                   .y = {expected.data(), tokens, d}};
            c.model(args);
            args.y = {actual.data(), tokens, d};
            c.kernel(args);
            ASSERT_TRUE(same_bits<float>(expected, actual.span()))
                << c.name << ' ' << to_string(isa) << " d=" << d << " offset=" << offset;
          }
        }
      }
    });
  }
}

TEST(Norm, IsCloseToTheOracle) {
  constexpr Index tokens = 4;
  constexpr Index d = 768;
  for (const Case& c : cases) {
    const auto x = random_floats(tokens * d, 4, 5.0F);
    const auto weight = random_floats(d, 5);
    const auto bias = random_floats(d, 6);
    std::vector<float> y(x.size());
    std::vector<double> exact(x.size());
    const kernels::NormArgs args{.x = {x.data(), tokens, d},
                                 .weight = weight.data(),
                                 .bias = bias.data(),
                                 .eps = 1e-5F,
                                 .y = {y.data(), tokens, d}};
    c.kernel(args);
    c.oracle(args, {exact.data(), tokens, d});
    if (c.kernel == kernels::rms_norm) {
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(static_cast<double>(y[i]), exact[i], 1e-6);
    } else {
      for (std::size_t i = 0; i < y.size(); ++i)
        ASSERT_NEAR(static_cast<double>(y[i]), exact[i], 2e-6);
    }
  }
}

TEST(Norm, WorksInPlaceAndOnStridedRows) {
  constexpr Index tokens = 5;
  constexpr Index d = 37;
  constexpr Index stride = 53;
  for (const Case& c : cases) {
    auto x = random_floats(tokens * stride, 7);
    const auto before = x;
    const auto weight = random_floats(d, 8);
    std::vector<float> expected(static_cast<std::size_t>(tokens * d));
    kernels::NormArgs args{.x = {x.data(), tokens, d, stride},
                           .weight = weight.data(),
                           .eps = 1e-5F,
                           .y = {expected.data(), tokens, d}};
    c.model(args);
    args.y = {x.data(), tokens, d, stride};
    c.kernel(args);
    for (Index t = 0; t < tokens; ++t) {
      for (Index i = 0; i < stride; ++i) {
        const auto at = static_cast<std::size_t>(t * stride + i);
        ASSERT_EQ(x[at], i < d ? expected[static_cast<std::size_t>(t * d + i)] : before[at]);
      }
    }
  }
}

}  // namespace
}  // namespace krait::norm_test
