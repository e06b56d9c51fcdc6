#include "krait/kernels/moe.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "krait/kernels/ref/moe.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::moe_test {
namespace {

using kernels::RouterScore;
using test::for_each_isa;
using test::random_floats;
using test::same_bits;

struct Rule {
  const char* name;
  RouterScore score;
  Index top_k;
  bool has_selection_bias;
  bool normalize;
  float scale;
};

const Rule rules[] = {
    {"switch", RouterScore::softmax, 1, false, false, 1.0F},
    {"softmax top-k", RouterScore::softmax, 2, false, false, 1.0F},
    {"sigmoid top-1", RouterScore::sigmoid, 1, false, false, 1.0F},
    {"softmax of the top k", RouterScore::softmax_of_chosen, 3, false, false, 1.0F},
    {"sigmoid with selection bias", RouterScore::sigmoid, 4, true, true, 2.5F},
};

kernels::RouteArgs arguments(const Rule& rule, const std::vector<float>& logits, Index n_expert,
                             const std::vector<float>& bias, std::vector<float>& gates) {
  const Index tokens = static_cast<Index>(logits.size()) / n_expert;
  gates.resize(logits.size());
  return {.logits = {logits.data(), tokens, n_expert},
          .score = rule.score,
          .top_k = std::min(rule.top_k, n_expert),
          .selection_bias = rule.has_selection_bias ? bias.data() : nullptr,
          .normalize = rule.normalize,
          .scale = rule.scale,
          .gates = {gates.data(), tokens, n_expert}};
}

TEST(Route, EqualsTheModelBitForBitAndTheOracleNearly) {
  for (const Rule& rule : rules) {
    for (const Index n_expert : {1, 2, 7, 8, 16, 17, 42, 129}) {
      const auto logits = random_floats(n_expert * 9, 1, 4.0F);
      const auto bias = random_floats(n_expert, 2, 0.3F);
      std::vector<float> expected;
      std::vector<float> found;
      auto args = arguments(rule, logits, n_expert, bias, expected);
      ref::route(args);
      for (Index t = 0; t < args.logits.rows; ++t) {
        const std::vector<double> exact = ref::route_oracle(args, t);
        for (Index e = 0; e < n_expert; ++e) {
          ASSERT_NEAR(static_cast<double>(args.gates(t, e)), exact[static_cast<std::size_t>(e)],
                      2e-6)
              << rule.name << ' ' << n_expert;
        }
      }
      for_each_isa([&](Isa) {
        args = arguments(rule, logits, n_expert, bias, found);
        kernels::route(args);
        ASSERT_TRUE(same_bits<float>(expected, found)) << rule.name << ' ' << n_expert;
        found = logits;  // in place
        args.logits = {found.data(), args.logits.rows, n_expert};
        args.gates = {found.data(), args.logits.rows, n_expert};
        kernels::route(args);
        ASSERT_TRUE(same_bits<float>(expected, found)) << rule.name << ' ' << n_expert;
      });
    }
  }
}

// Four logits through the rules of five families, worked out by hand.
TEST(Route, GivesTheGatesOfTheFamilies) {
  const std::vector<float> logits{1.0F, 2.0F, 0.5F, -1.0F};
  const struct {
    RouterScore score;
    Index top_k;
    bool normalize;
    float scale;
    double first;   // gate of expert 1, the highest
    double second;  // gate of expert 0
  } cases[] = {
      {RouterScore::softmax, 1, false, 1.0F, 0.609460, 0.0},
      {RouterScore::sigmoid, 1, false, 1.0F, 0.880797, 0.0},
      {RouterScore::softmax, 2, false, 1.0F, 0.609460, 0.224208},
      {RouterScore::softmax_of_chosen, 2, false, 1.0F, 0.731059, 0.268941},
      {RouterScore::sigmoid, 2, true, 2.5F, 1.366123, 1.133877},
  };
  for (const auto& c : cases) {
    std::vector<float> gates(4);
    kernels::route({.logits = {logits.data(), 1, 4},
                    .score = c.score,
                    .top_k = c.top_k,
                    .normalize = c.normalize,
                    .scale = c.scale,
                    .gates = {gates.data(), 1, 4}});
    EXPECT_NEAR(static_cast<double>(gates[1]), c.first, 1e-6);
    EXPECT_NEAR(static_cast<double>(gates[0]), c.second, 1e-6);
    EXPECT_EQ(gates[2], 0.0F);
    EXPECT_EQ(gates[3], 0.0F);
  }
}

TEST(Route, ABiasChangesTheChoiceButNotTheGate) {
  const std::vector<float> logits{1.0F, 2.0F, 0.5F, -1.0F};
  const std::vector<float> bias{0.0F, -1.0F, 0.0F, 0.9F};  // scores .73 .88 .62 .27
  std::vector<float> gates(4);
  kernels::route({.logits = {logits.data(), 1, 4},
                  .score = RouterScore::sigmoid,
                  .top_k = 2,
                  .selection_bias = bias.data(),
                  .gates = {gates.data(), 1, 4}});
  EXPECT_NEAR(static_cast<double>(gates[0]), 0.731059, 1e-6);
  EXPECT_EQ(gates[1], 0.0F);
  EXPECT_EQ(gates[2], 0.0F);
  EXPECT_NEAR(static_cast<double>(gates[3]), 0.268941, 1e-6);
}

TEST(Route, TiesGoToTheLowestIndexAndNaNIsNeverPreferred) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  const auto chosen = [](const std::vector<float>& logits, Index top_k) {
    std::vector<float> gates(logits.size());
    const auto n = static_cast<Index>(logits.size());
    kernels::route({.logits = {logits.data(), 1, n},
                    .score = RouterScore::sigmoid,
                    .top_k = top_k,
                    .gates = {gates.data(), 1, n}});
    std::string picks;
    for (const float gate : gates) picks += gate != 0.0F ? '1' : '0';
    return picks;
  };
  EXPECT_EQ(chosen({1, 1, 1, 1}, 1), "1000");
  EXPECT_EQ(chosen({0, 1, 1, 1}, 2), "0110");
  EXPECT_EQ(chosen({1, 2, 1, 2}, 3), "1101");
  EXPECT_EQ(chosen({50, 60, 40, 0}, 1), "1000");  // all of sigmoid 1
  EXPECT_EQ(chosen({nan, 0, inf, nan}, 2), "0110");
  EXPECT_EQ(chosen({nan, 0, nan, nan}, 2), "1100");
}

// With one expert per token the switch router keeps the probability, however small the rest.
TEST(Route, AllExpertsMayBeChosen) {
  const auto logits = random_floats(8, 3, 2.0F);
  std::vector<float> gates(8);
  kernels::route({.logits = {logits.data(), 1, 8}, .top_k = 8, .gates = {gates.data(), 1, 8}});
  std::vector<float> expected(8);
  ref::softmax(logits, expected);
  EXPECT_TRUE(same_bits<float>(expected, gates));
}

}  // namespace
}  // namespace krait::moe_test
