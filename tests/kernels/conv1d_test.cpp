#include "krait/kernels/conv1d.hpp"

#include <gtest/gtest.h>

#include "krait/kernels/ref/conv1d.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::conv1d_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::random_floats;
using test::same_bits;

constexpr float filling = -7.0F;

// One problem with its buffers; `run` gives y and leaves the new state in `state`.
struct Problem {
  Index tokens;
  Index channels;
  Index d_conv;
  Index stride;
  Index offset = 0;
  bool has_bias = true;
  bool silu = true;
  std::vector<float> x = random_floats(tokens * stride, 1, 3.0F);
  std::vector<float> weight = random_floats(d_conv * channels, 2);
  std::vector<float> bias = random_floats(channels, 3);
  std::vector<float> state = random_floats((d_conv - 1) * channels, 4, 3.0F);

  template <class Kernel>
  std::vector<float> run(Kernel kernel, bool in_place = false) {
    auto in = misaligned(x, offset);
    auto w = misaligned(weight, offset);
    auto b = misaligned(bias, offset);
    auto s = misaligned(state, offset);
    auto out = misaligned(std::vector<float>(x.size(), filling), offset);
    float* y = in_place ? in.data() : out.data();
    kernel(kernels::Conv1dArgs{.x = {in.data(), tokens, channels, stride},
                               .weight = w.data(),
                               .bias = has_bias ? b.data() : nullptr,
                               .d_conv = d_conv,
                               .state = d_conv > 1 ? s.data() : nullptr,
                               .y = {y, tokens, channels, stride},
                               .channels = {0, channels},
                               .silu = silu});
    state.assign(s.span().begin(), s.span().end());
    return {y, y + x.size()};
  }
};

// The elements between the rows, which nothing may touch, hold what y held before.
void expect_same(const Problem& problem, const std::vector<float>& expected,
                 const std::vector<float>& actual, bool in_place = false) {
  for (Index t = 0; t < problem.tokens; ++t) {
    for (Index c = 0; c < problem.stride; ++c) {
      const auto at = static_cast<std::size_t>(t * problem.stride + c);
      const float between = in_place ? problem.x[at] : filling;
      const float want = c < problem.channels ? expected[at] : between;
      const float found = actual[at];
      ASSERT_TRUE(same_bits<float>({&want, 1}, {&found, 1})) << "t=" << t << " c=" << c;
    }
  }
}

TEST(Conv1d, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for_each_isa([&](Isa isa) {
    for (const Index d_conv : {1, 2, 3, 4, 5, 9}) {
      for (Index channels = 1; channels <= 70; channels += (channels < 34 ? 1 : 7)) {
        for (const Index tokens : {0, 1, 2, 3, 4, 9}) {
          Problem expected{.tokens = tokens,
                           .channels = channels,
                           .d_conv = d_conv,
                           .stride = channels + 5,
                           .offset = channels % 3 == 2 ? 3 : channels % 3,
                           .has_bias = tokens != 3,
                           .silu = channels % 4 != 1};
          Problem actual = expected;
          const auto want = expected.run(ref::conv1d_silu);
          const auto found = actual.run(kernels::conv1d_silu);
          expect_same(expected, want, found);
          ASSERT_TRUE(same_bits<float>(expected.state, actual.state))
              << to_string(isa) << " channels=" << channels << " tokens=" << tokens;
        }
      }
    }
  });
}

TEST(Conv1d, WorksInPlace) {
  for_each_isa([&](Isa) {
    for (const Index d_conv : {1, 3, 4, 6}) {
      Problem apart{.tokens = 7, .channels = 37, .d_conv = d_conv, .stride = 40};
      Problem in_place = apart;
      const auto want = apart.run(ref::conv1d_silu);
      expect_same(apart, want, in_place.run(kernels::conv1d_silu, true), true);
      ASSERT_TRUE(same_bits<float>(apart.state, in_place.state));
    }
  });
}

TEST(Conv1d, AnyCutOfTheTokensAndChannelsGivesTheSameBits) {
  for_each_isa([&](Isa) {
    for (const Index d_conv : {2, 4, 7}) {
      constexpr Index tokens = 9;
      constexpr Index channels = 50;
      Problem whole{.tokens = tokens, .channels = channels, .d_conv = d_conv, .stride = channels};
      const auto before = whole.state;
      const auto expected = whole.run(kernels::conv1d_silu);
      for (Index cut = 0; cut <= tokens; ++cut) {
        auto state = before;
        std::vector<float> y(expected.size());
        for (const Range channel_range : {Range{0, 32}, Range{32, channels}}) {
          for (const Range part : {Range{0, cut}, Range{cut, tokens}}) {
            kernels::conv1d_silu(
                {.x = {whole.x.data() + part.begin * channels, part.size(), channels},
                 .weight = whole.weight.data(),
                 .bias = whole.bias.data(),
                 .d_conv = d_conv,
                 .state = state.data(),
                 .y = {y.data() + part.begin * channels, part.size(), channels},
                 .channels = channel_range});
          }
        }
        ASSERT_TRUE(same_bits<float>(expected, y)) << "cut=" << cut;
        ASSERT_TRUE(same_bits<float>(whole.state, state)) << "cut=" << cut;
      }
    }
  });
}

TEST(Conv1d, IsCloseToTheOracle) {
  // Four products and one SiLU, on values up to about 10.
  constexpr double tolerance = 5e-6;
  Problem problem{.tokens = 20, .channels = 48, .d_conv = 4, .stride = 48};
  std::vector<double> exact(problem.x.size());
  ref::conv1d_silu_oracle({.x = {problem.x.data(), 20, 48},
                           .weight = problem.weight.data(),
                           .bias = problem.bias.data(),
                           .d_conv = 4,
                           .state = problem.state.data(),
                           .y = {},
                           .channels = {0, 48}},
                          {exact.data(), 20, 48});
  const auto y = problem.run(kernels::conv1d_silu);
  for (std::size_t i = 0; i < y.size(); ++i) {
    ASSERT_NEAR(static_cast<double>(y[i]), exact[i], tolerance);
  }
}

}  // namespace
}  // namespace krait::conv1d_test
