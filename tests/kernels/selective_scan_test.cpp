#include "krait/kernels/selective_scan.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/kernels/ref/selective_scan.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::selective_scan_test {
namespace {

using test::for_each_isa;
using test::misaligned;
using test::Misaligned;
using test::random_floats;
using test::same_bits;

enum class Output { apart, u, dt_raw, z };

// One problem with its buffers. Rows of the [tokens, d_inner] operands lie `gap` elements apart.
struct Problem {
  Index tokens;
  Index d_inner;
  Index d_state;
  Index gap = 0;
  Index offset = 0;
  bool has_gate = true;
  Index stride = d_inner + gap;
  Misaligned<float> u = misaligned(random_floats(tokens * stride, 1), offset);
  Misaligned<float> dt_raw = misaligned(random_floats(tokens * stride, 2, 4.0F), offset);
  Misaligned<float> z = misaligned(random_floats(tokens * stride, 3, 4.0F), offset);
  Misaligned<float> B = misaligned(random_floats(tokens * (2 * d_state + 3), 4), offset);
  Misaligned<float> D = misaligned(random_floats(d_inner, 5), offset);
  Misaligned<float> y =
      misaligned(std::vector<float>(static_cast<std::size_t>(tokens * stride), -7.0F), offset);
  AlignedBuffer<float> A{kernels::scan_size(d_inner, d_state)};
  AlignedBuffer<float> h{kernels::scan_size(d_inner, d_state)};

  void fill_state() {
    for (Index d = 0; d < d_inner; ++d) {
      for (Index n = 0; n < d_state; ++n) {
        const Index at = kernels::scan_offset(d, n, d_state);
        A[at] = -0.1F - static_cast<float>((d * 7 + n * 3) % 23);
        h[at] = static_cast<float>((d * 5 + n) % 11) * 0.25F - 1.0F;
      }
    }
  }

  // B and C share rows, as in x_proj's output.
  kernels::SelectiveScanArgs args(Output output = Output::apart) {
    const Index row = 2 * d_state + 3;
    float* out = output == Output::u        ? u.data()
                 : output == Output::dt_raw ? dt_raw.data()
                 : output == Output::z      ? z.data()
                                            : y.data();
    return {.u = {u.data(), tokens, d_inner, stride},
            .dt_raw = {dt_raw.data(), tokens, d_inner, stride},
            .B = {B.data(), tokens, d_state, row},
            .C = {B.data() + d_state, tokens, d_state, row},
            .z = {has_gate ? z.data() : nullptr, tokens, d_inner, stride},
            .A = A.data(),
            .D = D.data(),
            .h = h.data(),
            .d_state = d_state,
            .y = {out, tokens, d_inner, stride},
            .channels = {0, d_inner}};
  }
};

void expect_same(const kernels::SelectiveScanArgs& expected,
                 const kernels::SelectiveScanArgs& actual) {
  for (Index t = 0; t < expected.y.rows; ++t) {
    ASSERT_TRUE(same_bits<float>(expected.y.row(t), actual.y.row(t))) << "t=" << t;
  }
  const auto size = static_cast<std::size_t>(kernels::scan_size(expected.u.cols, expected.d_state));
  ASSERT_TRUE(same_bits<float>({expected.h, size}, {actual.h, size})) << "state";
}

// Model and kernel on the same problem; whatever lies between the rows must stay as it was.
void compare(Problem expected, Output output) {
  expected.fill_state();
  Problem actual = expected;
  const auto want = expected.args(output);
  const auto found = actual.args(output);
  ref::selective_scan(want);
  kernels::selective_scan(found);
  expect_same(want, found);
  for (Index t = 0; t < expected.tokens; ++t) {
    for (Index d = expected.d_inner; d < expected.stride; ++d) {
      ASSERT_EQ(want.y.data[t * expected.stride + d], found.y.data[t * expected.stride + d]);
    }
  }
}

TEST(SelectiveScan, EqualsTheModelBitForBitOnEveryInstructionSet) {
  for_each_isa([&](Isa) {
    for (Index d_inner = 1; d_inner <= 70; d_inner += (d_inner < 34 ? 1 : 6)) {
      for (const Index tokens : {0, 1, 2, 5, 9}) {
        SCOPED_TRACE(testing::Message() << "d_inner=" << d_inner << " tokens=" << tokens);
        compare({.tokens = tokens,
                 .d_inner = d_inner,
                 .d_state = 16,
                 .gap = d_inner % 4,
                 .offset = d_inner % 3 == 2 ? 3 : d_inner % 3,
                 .has_gate = tokens != 2},
                Output::apart);
      }
    }
  });
}

TEST(SelectiveScan, EqualsTheModelForEveryStateSize) {
  for_each_isa([&](Isa) {
    for (const Index d_state : {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 32, 64, 128, 256}) {
      SCOPED_TRACE(testing::Message() << "d_state=" << d_state);
      compare({.tokens = 5, .d_inner = 21, .d_state = d_state}, Output::apart);
    }
    compare({.tokens = 75, .d_inner = 40, .d_state = 16}, Output::apart);  // several chunks
  });
}

TEST(SelectiveScan, OutputMayBeAnyInput) {
  for_each_isa([&](Isa) {
    for (const Output output : {Output::u, Output::dt_raw, Output::z}) {
      compare({.tokens = 40, .d_inner = 37, .d_state = 16, .gap = 3}, output);
      compare({.tokens = 9, .d_inner = 16, .d_state = 5}, output);
    }
  });
}

TEST(SelectiveScan, AnyCutOfTheTokensAndChannelsGivesTheSameBits) {
  for_each_isa([&](Isa) {
    for (const Index tokens : {9, 70}) {
      Problem whole{.tokens = tokens, .d_inner = 50, .d_state = 16};
      whole.fill_state();
      const Problem start = whole;
      kernels::selective_scan(whole.args());
      for (Index cut = 0; cut <= tokens; cut += (tokens > 10 ? 13 : 1)) {
        Problem parts = start;
        for (const Range channels : {Range{0, 16}, Range{16, 48}, Range{48, 50}}) {
          for (const Range part : {Range{0, cut}, Range{cut, tokens}}) {
            auto args = parts.args();
            args.u = args.u.rows_from(part.begin, part.size());
            args.dt_raw = args.dt_raw.rows_from(part.begin, part.size());
            args.B = args.B.rows_from(part.begin, part.size());
            args.C = args.C.rows_from(part.begin, part.size());
            args.z = args.z.rows_from(part.begin, part.size());
            args.y = args.y.rows_from(part.begin, part.size());
            args.channels = channels;
            kernels::selective_scan(args);
          }
        }
        expect_same(whole.args(), parts.args());
      }
    }
  });
}

TEST(SelectiveScan, PaddingOfTheStateStaysZeroWhateverTheInputs) {
  for_each_isa([&](Isa) {
    Problem problem{.tokens = 3, .d_inner = 19, .d_state = 16};
    problem.fill_state();
    problem.B.data()[1] = std::numeric_limits<float>::infinity();
    problem.B.data()[2] = std::numeric_limits<float>::quiet_NaN();
    kernels::selective_scan(problem.args());
    for (Index d = 19; d < 32; ++d) {
      for (Index n = 0; n < 16; ++n) {
        const float value = problem.h[kernels::scan_offset(d, n, 16)];
        constexpr float zero = 0.0F;
        ASSERT_TRUE(same_bits<float>({&value, 1}, {&zero, 1}));
      }
    }
    EXPECT_TRUE(std::isnan(problem.h[kernels::scan_offset(18, 2, 16)]));
  });
}

TEST(SelectiveScan, SubnormalStatesAreKeptAndTinyDecaysAreZero) {
  for_each_isa([&](Isa) {
    Problem expected{.tokens = 4, .d_inner = 17, .d_state = 4};
    expected.fill_state();
    for (float& value : expected.h.span()) value *= 0x1p-140F;
    for (float& value : expected.A.span()) value *= 20.0F;  // decays down to 2^-126.5 and below
    for (Index i = 0; i < 4 * 17; ++i) expected.u.data()[i] *= 0x1p-130F;
    Problem actual = expected;
    ref::selective_scan(expected.args());
    kernels::selective_scan(actual.args());
    expect_same(expected.args(), actual.args());
  });
}

TEST(SelectiveScan, IsCloseToTheOracle) {
  constexpr double nmse = 1e-12;  // each step rounds a few times, and A < 0 lets errors die out
  constexpr Index tokens = 200;
  constexpr Index d_inner = 48;
  constexpr Index d_state = 16;
  Problem problem{.tokens = tokens, .d_inner = d_inner, .d_state = d_state};
  problem.fill_state();
  std::vector<double> h(static_cast<std::size_t>(d_inner * d_state));
  for (Index d = 0; d < d_inner; ++d) {
    for (Index n = 0; n < d_state; ++n) {
      h[static_cast<std::size_t>(d * d_state + n)] =
          static_cast<double>(problem.h[kernels::scan_offset(d, n, d_state)]);
    }
  }
  std::vector<double> exact(static_cast<std::size_t>(tokens * d_inner));
  const auto args = problem.args();
  ref::selective_scan_oracle(args, {h.data(), d_inner, d_state}, {exact.data(), tokens, d_inner});
  kernels::selective_scan(args);
  double error = 0.0;
  double power = 0.0;
  for (Index t = 0; t < tokens; ++t) {
    for (Index d = 0; d < d_inner; ++d) {
      const double want = exact[static_cast<std::size_t>(t * d_inner + d)];
      const double difference = static_cast<double>(args.y(t, d)) - want;
      error += difference * difference;
      power += want * want;
    }
  }
  EXPECT_LE(error, nmse * power) << error / power;
}

}  // namespace
}  // namespace krait::selective_scan_test
