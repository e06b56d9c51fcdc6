#include "krait/kernels/ssd.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "krait/kernels/ref/ssd.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::ssd_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::Misaligned;
using test::random_floats;
using test::same_bits;

constexpr float untouched = -7.0F;

// One problem with its buffers. As in a model, x, B and C share rows; so do dt_raw and something
// else. Memory ends with the last element that may be read.
struct Problem {
  Index tokens;
  Index n_head;
  Index head_dim;
  Index d_state;
  Index n_group = 1;
  Index offset = 0;
  bool D_per_channel = false;
  Index channels = n_head * head_dim;
  Index row = channels + 2 * n_group * d_state;
  Misaligned<float> xBC = misaligned(random_floats(tokens * row, 1), offset);
  Misaligned<float> dt_raw = misaligned(random_floats(tokens * (n_head + 2), 2, 4.0F), offset);
  Misaligned<float> dt_bias = misaligned(random_floats(n_head, 3, 2.0F), offset);
  Misaligned<float> A = misaligned(random_floats(n_head, 4), offset);
  Misaligned<float> D = misaligned(random_floats(channels, 5), offset);
  Misaligned<float> state = misaligned(random_floats(channels * d_state, 6), offset);
  Misaligned<float> y = misaligned(
      std::vector<float>(static_cast<std::size_t>(tokens * (channels + 3)), untouched), offset);

  kernels::SsdScanArgs args() {
    for (Index h = 0; h < n_head; ++h) A.data()[h] = -std::abs(A.data()[h]);
    return {.x = {xBC.data(), tokens, channels, row},
            .dt_raw = {dt_raw.data() + 2, tokens, n_head, n_head + 2},
            .B = {xBC.data() + channels, tokens, n_group * d_state, row},
            .C = {xBC.data() + channels + n_group * d_state, tokens, n_group * d_state, row},
            .A = A.data(),
            .dt_bias = dt_bias.data(),
            .D = D.data(),
            .D_per_channel = D_per_channel,
            .state = state.data(),
            .n_head = n_head,
            .head_dim = head_dim,
            .d_state = d_state,
            .n_group = n_group,
            .y = {y.data(), tokens, channels, channels + 3},
            .heads = {0, n_head}};
  }
  kernels::SsdScanArgs args_in_place() {
    auto result = args();
    result.y = {xBC.data(), tokens, channels, row};
    return result;
  }
};

// Everything that may have been written, and what lies beside it.
void expect_same(Problem& expected, Problem& actual) {
  ASSERT_TRUE(same_bits<float>(expected.state.span(), actual.state.span())) << "state";
  ASSERT_TRUE(same_bits<float>(expected.y.span(), actual.y.span())) << "y";
  ASSERT_TRUE(same_bits<float>(expected.xBC.span(), actual.xBC.span())) << "x, B, C";
}

void compare(Problem expected) {
  Problem actual = expected;
  ref::ssd_scan(expected.args());
  kernels::ssd_scan(actual.args());
  expect_same(expected, actual);
}

TEST(Ssd, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for_each_isa([&](Isa) {
    for (Index head_dim = 1; head_dim <= 20; ++head_dim) {
      for (const Index tokens : {0, 1, 2, 5, 40}) {
        SCOPED_TRACE(testing::Message() << "head_dim=" << head_dim << " tokens=" << tokens);
        compare({.tokens = tokens,
                 .n_head = 3,
                 .head_dim = head_dim,
                 .d_state = 20,
                 .offset = head_dim % 4,
                 .D_per_channel = tokens == 5});
      }
    }
  });
}

TEST(Ssd, EqualsTheModelForEveryStateSize) {
  for_each_isa([&](Isa) {
    for (Index d_state = 1; d_state <= 70; ++d_state) {
      SCOPED_TRACE(testing::Message() << "d_state=" << d_state);
      for (const Index tokens : {1, 3, 18}) {
        compare({.tokens = tokens,
                 .n_head = 2,
                 .head_dim = 11,
                 .d_state = d_state,
                 .n_group = 2,
                 .offset = d_state % 3});
      }
    }
    for (const Index d_state : {128, 256, 300}) {
      SCOPED_TRACE(testing::Message() << "d_state=" << d_state);
      for (const Index tokens : {1, 70, 130}) {
        compare({.tokens = tokens, .n_head = 2, .head_dim = 64, .d_state = d_state});
      }
    }
  });
}

TEST(Ssd, EqualsTheModelForEveryNumberOfTokens) {
  for_each_isa([&](Isa) {
    for (Index tokens = 0; tokens <= 70; ++tokens) {
      SCOPED_TRACE(testing::Message() << "tokens=" << tokens);
      compare({.tokens = tokens, .n_head = 2, .head_dim = 17, .d_state = 32, .n_group = 2});
    }
  });
}

TEST(Ssd, HeadsUseTheirGroupOfBAndC) {
  for_each_isa([&](Isa) {
    for (Index n_group = 1; n_group <= 4; ++n_group) {
      for (const Index heads_per_group : {1, 2, 7}) {
        SCOPED_TRACE(testing::Message() << n_group << " groups of " << heads_per_group);
        compare({.tokens = 6,
                 .n_head = n_group * heads_per_group,
                 .head_dim = 8,
                 .d_state = 16,
                 .n_group = n_group});
      }
    }
  });
  // Head 1 of 2 heads and 2 groups sees the second group's B only.
  Problem problem{.tokens = 1, .n_head = 2, .head_dim = 1, .d_state = 1, .n_group = 2};
  auto args = problem.args();
  std::fill_n(problem.state.data(), 2, 0.0F);
  problem.xBC.data()[2] = 0.0F;  // B of group 0
  kernels::ssd_scan(args);
  EXPECT_EQ(problem.state.data()[0], 0.0F);
  EXPECT_NE(problem.state.data()[1], 0.0F);
}

TEST(Ssd, AnyCutOfTheTokensAndHeadsGivesTheSameBits) {
  for_each_isa([&](Isa) {
    for (const Index tokens : {9, 130}) {
      Problem whole{.tokens = tokens, .n_head = 20, .head_dim = 9, .d_state = 48, .n_group = 2};
      const Problem start = whole;
      kernels::ssd_scan(whole.args());
      for (Index cut = 0; cut <= tokens; cut += (tokens > 10 ? 13 : 1)) {
        SCOPED_TRACE(testing::Message() << tokens << " tokens cut at " << cut);
        Problem parts = start;
        for (const Range heads : {Range{0, 1}, Range{1, 12}, Range{12, 20}}) {
          for (const Range part : {Range{0, cut}, Range{cut, tokens}}) {
            auto args = parts.args();
            args.x = args.x.rows_from(part.begin, part.size());
            args.dt_raw = args.dt_raw.rows_from(part.begin, part.size());
            args.B = args.B.rows_from(part.begin, part.size());
            args.C = args.C.rows_from(part.begin, part.size());
            args.y = args.y.rows_from(part.begin, part.size());
            args.heads = heads;
            kernels::ssd_scan(args);
          }
        }
        expect_same(whole, parts);
      }
      Problem steps = start;
      for (Index t = 0; t < tokens; ++t) {
        auto args = steps.args();
        args.x = args.x.rows_from(t, 1);
        args.dt_raw = args.dt_raw.rows_from(t, 1);
        args.B = args.B.rows_from(t, 1);
        args.C = args.C.rows_from(t, 1);
        args.y = args.y.rows_from(t, 1);
        kernels::ssd_scan(args);
      }
      expect_same(whole, steps);
    }
  });
}

TEST(Ssd, OutputMayBeTheInput) {
  for_each_isa([&](Isa) {
    for (const Index tokens : {1, 40}) {
      for (const bool D_per_channel : {false, true}) {
        Problem expected{.tokens = tokens,
                         .n_head = 3,
                         .head_dim = 13,
                         .d_state = 24,
                         .D_per_channel = D_per_channel};
        Problem actual = expected;
        Problem apart = expected;
        ref::ssd_scan(expected.args_in_place());
        kernels::ssd_scan(actual.args_in_place());
        expect_same(expected, actual);
        kernels::ssd_scan(apart.args());
        for (Index t = 0; t < tokens; ++t) {
          ASSERT_TRUE(same_bits<float>(apart.args().y.row(t), actual.args_in_place().y.row(t)));
        }
      }
    }
  });
}

TEST(Ssd, WithoutCOnlyTheStateAdvances) {
  for_each_isa([&](Isa) {
    for (const Index d_state : {5, 16, 100}) {
      for (const Index tokens : {1, 3, 40}) {
        Problem expected{.tokens = tokens, .n_head = 3, .head_dim = 13, .d_state = d_state};
        Problem actual = expected;
        kernels::ssd_scan(expected.args());
        auto args = actual.args();
        args.C = {};
        args.D = nullptr;
        args.y = {};
        kernels::ssd_scan(args);
        ASSERT_TRUE(same_bits<float>(expected.state.span(), actual.state.span()));
        for (const float value : actual.y.span()) ASSERT_EQ(value, untouched);
      }
    }
  });
}

TEST(Ssd, StepSizesAreClamped) {
  for_each_isa([&](Isa) {
    Problem expected{.tokens = 7, .n_head = 18, .head_dim = 4, .d_state = 16};
    Problem actual = expected;
    Problem unclamped = expected;
    for (Problem* problem : {&expected, &actual}) {
      auto args = problem->args();
      args.dt_min = 0.5F;
      args.dt_max = 1.5F;
      problem == &expected ? ref::ssd_scan(args) : kernels::ssd_scan(args);
    }
    expect_same(expected, actual);
    kernels::ssd_scan(unclamped.args());
    EXPECT_FALSE(same_bits<float>(expected.y.span(), unclamped.y.span()));
  });
}

TEST(Ssd, SubnormalStatesAreKeptAndTinyDecaysAreZero) {
  for_each_isa([&](Isa) {
    for (const Index tokens : {1, 20}) {
      Problem expected{.tokens = tokens, .n_head = 4, .head_dim = 9, .d_state = 17};
      static_cast<void>(expected.args());
      expected.A.data()[0] *= 100.0F;  // decays down to 2^-126.5 and below
      for (Index i = 0; i < 4 * 9 * 17; ++i) expected.state.data()[i] *= 0x1p-140F;
      for (Index t = 0; t < tokens; ++t) {
        for (Index i = 0; i < expected.channels; ++i) {
          expected.xBC.data()[t * expected.row + i] *= 0x1p-130F;
        }
      }
      compare(expected);
    }
  });
}

TEST(Ssd, LeavesLanesWithoutAnElementAlone) {
  // C·S underflows to -0 in every lane with an element; fma(0, 0, -0) in one without would make it
  // +0, and the sum with it.
  for_each_isa([&](Isa) {
    for (Index d_state = 17; d_state < 32; ++d_state) {
      for (const Index tokens : {1, 20}) {
        Problem problem{.tokens = tokens, .n_head = 1, .head_dim = 10, .d_state = d_state};
        auto args = problem.args();
        args.dt_min = 1.0F;
        args.dt_max = 1.0F;
        problem.A.data()[0] = 0.0F;
        problem.D.data()[0] = -1e-30F;
        std::fill_n(problem.state.data(), 10 * d_state, 1e-30F);
        for (Index t = 0; t < tokens; ++t) {
          float* row = problem.xBC.data() + t * problem.row;
          std::fill_n(row, problem.channels, 1e-30F);
          std::fill_n(row + problem.channels, d_state, 0.0F);
          std::fill_n(row + problem.channels + d_state, d_state, -1e-30F);
        }
        compare(problem);
        kernels::ssd_scan(args);
        EXPECT_TRUE(std::signbit(args.y(tokens - 1, 9)));
        EXPECT_EQ(args.y(tokens - 1, 9), 0.0F);
      }
    }
  });
}

TEST(Ssd, NumbersThatAreNotFiniteStayInTheirRow) {
  for_each_isa([&](Isa) {
    for (const Index tokens : {1, 20}) {
      Problem problem{.tokens = tokens, .n_head = 2, .head_dim = 9, .d_state = 21};
      const auto args = problem.args();
      problem.xBC.data()[3] = std::numeric_limits<float>::quiet_NaN();
      problem.state.data()[5 * 21] = std::numeric_limits<float>::infinity();
      kernels::ssd_scan(args);
      for (Index channel = 0; channel < problem.channels; ++channel) {
        EXPECT_EQ(std::isfinite(args.y(0, channel)), channel != 3 && channel != 5) << channel;
      }
      // A step size that is no number reaches its head and no other.
      Problem step{.tokens = tokens, .n_head = 2, .head_dim = 9, .d_state = 21};
      const auto step_args = step.args();
      step.dt_raw.data()[2] = std::numeric_limits<float>::quiet_NaN();
      kernels::ssd_scan(step_args);
      for (Index channel = 0; channel < step.channels; ++channel) {
        EXPECT_EQ(std::isfinite(step_args.y(0, channel)), channel >= 9) << channel;
      }
    }
  });
}

// What a kernel with two accumulators per lane would sum up.
float sum_with_two_accumulators(const float* C, const float* S, Index n) {
  ref::Lanes even{};
  ref::Lanes odd{};
  for (Index k = 0; k < n; ++k) {
    float& lane = (k / 16 % 2 == 0 ? even : odd)[static_cast<std::size_t>(k % 16)];
    lane = std::fma(C[k], S[k], lane);
  }
  for (std::size_t i = 0; i < 16; ++i) even[i] += odd[i];
  return ref::reduce(even);
}

TEST(Ssd, WouldNoticeAnotherOrder) {
  constexpr Index d_state = 128;
  Problem problem{.tokens = 1, .n_head = 1, .head_dim = 32, .d_state = d_state};
  const Problem start = problem;
  const auto args = problem.args();
  kernels::ssd_scan(args);
  const ref::ScalarOps ops;
  const float dt = ref::softplus_of(ops, args.dt_raw(0, 0) + args.dt_bias[0]);
  const float decay = ref::exp2_nonpositive_of(ops, dt * args.A[0]);
  int different_sums = 0;
  int different_states = 0;
  Problem wrong = start;
  for (Index p = 0; p < args.head_dim; ++p) {
    const float* S = args.state + p * d_state;
    const float sum = sum_with_two_accumulators(args.C.row_data(0), S, d_state);
    if (std::fma(args.D[0], args.x(0, p), sum) != args.y(0, p)) ++different_sums;
    for (Index n = 0; n < d_state; ++n) {
      const float before = wrong.state.data()[p * d_state + n];
      if (std::fma(decay, before, dt * args.B(0, n) * args.x(0, p)) != S[n]) ++different_states;
    }
  }
  EXPECT_GT(different_sums, 0);
  EXPECT_GT(different_states, 0);
}

TEST(Ssd, IsCloseToTheOracle) {
  constexpr double nmse = 1e-12;  // each step rounds a few times, and A < 0 lets errors die out
  constexpr Index tokens = 200;
  Problem problem{.tokens = tokens,
                  .n_head = 4,
                  .head_dim = 24,
                  .d_state = 128,
                  .n_group = 2,
                  .D_per_channel = true};
  auto args = problem.args();
  args.dt_min = 0.01F;
  args.dt_max = 3.0F;
  const auto before = problem.state.span();
  std::vector<double> state(before.begin(), before.end());
  std::vector<double> exact(static_cast<std::size_t>(tokens * problem.channels));
  ref::ssd_scan_oracle(args, {state.data(), problem.channels, problem.d_state},
                       {exact.data(), tokens, problem.channels});
  kernels::ssd_scan(args);
  double error = 0.0;
  double power = 0.0;
  const auto add = [&](float found, double want) {
    const double difference = static_cast<double>(found) - want;
    error += difference * difference;
    power += want * want;
  };
  for (Index t = 0; t < tokens; ++t) {
    for (Index i = 0; i < problem.channels; ++i) {
      add(args.y(t, i), exact[static_cast<std::size_t>(t * problem.channels + i)]);
    }
  }
  EXPECT_LE(error, nmse * power) << error / power;
  error = power = 0.0;
  for (std::size_t i = 0; i < state.size(); ++i) add(args.state[i], state[i]);
  EXPECT_LE(error, nmse * power) << error / power;
}

}  // namespace
}  // namespace krait::ssd_test
