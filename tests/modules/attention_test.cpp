// Attention blocks against a plain loop in double, and their specs.

#include "krait/modules/attention.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/cache_pages.hpp"
#include "tests/modules/block_fixture.hpp"
#include "tests/support/eager_thread_pool.hpp"

namespace krait::attention_test {
namespace {

constexpr Index d_model = 12;
constexpr Index tokens = 9;

struct Kind {
  const char* name;
  AttentionSpec spec;
  friend void PrintTo(const Kind& kind, std::ostream* out) { *out << kind.name; }
};

std::vector<Kind> kinds() {
  return {{"OneHead", {}},
          {"Heads", {.n_head = 3}},
          {"SharedKeys", {.n_head = 4, .n_kv_head = 2, .d_head = 6, .scale = 0.3F}},
          {"Biases", {.n_head = 2, .n_kv_head = 1, .d_head = 5, .bias = true, .out_bias = true}},
          {"Rotary", {.n_head = 2, .d_head = 6, .rotary = RotarySpec{}}},
          {"RotaryPart",
           {.n_head = 2,
            .n_kv_head = 1,
            .d_head = 8,
            .rotary = RotarySpec{.theta = 100.0, .dim = 4, .factor = 2.0}}},
          {"RotaryInterleaved",
           {.n_head = 2, .d_head = 6, .rotary = RotarySpec{.dim = 4, .interleaved = true}}},
          {"RotaryDivisors",
           {.n_head = 2, .d_head = 6, .rotary = RotarySpec{.dim = 4, .divisors = {1.0, 2.5}}}}};
}

test::BlockWeights weights_of(const AttentionSpec& unresolved) {
  const AttentionSpec spec = unresolved.resolved(d_model);
  test::BlockWeights weights;
  const Index d_q = spec.n_head * spec.d_head;
  const Index d_kv = spec.n_kv_head * spec.d_head;
  weights.add("q_proj.weight", {d_q, d_model}, 0.5F);
  weights.add("k_proj.weight", {d_kv, d_model}, 0.5F);
  weights.add("v_proj.weight", {d_kv, d_model}, 0.5F);
  weights.add("o_proj.weight", {d_model, d_q}, 0.5F);
  if (spec.bias) {
    weights.add("q_proj.bias", {d_q}, 0.5F);
    weights.add("k_proj.bias", {d_kv}, 0.5F);
    weights.add("v_proj.bias", {d_kv}, 0.5F);
  }
  if (spec.out_bias) weights.add("o_proj.bias", {d_model}, 0.5F);
  return weights;
}

void rotate(std::vector<double>& x, Index position, const AttentionSpec& spec) {
  if (!spec.rotary) return;
  const RotarySpec& rotary = *spec.rotary;
  for (std::size_t head = 0; head < x.size(); head += static_cast<std::size_t>(spec.d_head)) {
    for (Index i = 0; i < rotary.dim / 2; ++i) {
      const double frequency =
          std::pow(rotary.theta, -2.0 * static_cast<double>(i) / static_cast<double>(rotary.dim)) /
          rotary.factor /
          (rotary.divisors.empty() ? 1.0 : rotary.divisors[static_cast<std::size_t>(i)]);
      const double angle = static_cast<double>(position) * frequency;
      const auto a = head + static_cast<std::size_t>(rotary.interleaved ? 2 * i : i);
      const auto b = a + static_cast<std::size_t>(rotary.interleaved ? 1 : rotary.dim / 2);
      const double x0 = x[a];
      const double x1 = x[b];
      x[a] = x0 * std::cos(angle) - x1 * std::sin(angle);
      x[b] = x1 * std::cos(angle) + x0 * std::sin(angle);
    }
  }
}

std::vector<std::vector<double>> plain(const AttentionSpec& unresolved,
                                       const test::BlockWeights& weights,
                                       const std::vector<float>& input) {
  const AttentionSpec spec = unresolved.resolved(d_model);
  const auto d_head = static_cast<std::size_t>(spec.d_head);
  std::vector<std::vector<double>> keys;
  std::vector<std::vector<double>> values;
  std::vector<std::vector<double>> result;
  for (Index t = 0; t < tokens; ++t) {
    const auto x = test::row_of(input, t, d_model);
    auto q = weights.linear("q_proj", x, spec.n_head * spec.d_head);
    keys.push_back(weights.linear("k_proj", x, spec.n_kv_head * spec.d_head));
    values.push_back(weights.linear("v_proj", x, spec.n_kv_head * spec.d_head));
    rotate(q, t, spec);
    rotate(keys.back(), t, spec);
    std::vector<double> mixed(q.size());
    for (Index h = 0; h < spec.n_head; ++h) {
      const std::size_t own = static_cast<std::size_t>(h) * d_head;
      const std::size_t shared =
          static_cast<std::size_t>(h / (spec.n_head / spec.n_kv_head)) * d_head;
      std::vector<double> p;
      double total = 0.0;
      for (const auto& key : keys) {
        double score = 0.0;
        for (std::size_t i = 0; i < d_head; ++i) score += q[own + i] * key[shared + i];
        p.push_back(std::exp(score * static_cast<double>(spec.scale)));
        total += p.back();
      }
      for (std::size_t j = 0; j < p.size(); ++j) {
        for (std::size_t i = 0; i < d_head; ++i) {
          mixed[own + i] += p[j] / total * values[j][shared + i];
        }
      }
    }
    result.push_back(weights.linear("o_proj", mixed, d_model));
  }
  return result;
}

class AttentionBlock : public testing::TestWithParam<Kind> {};

TEST_P(AttentionBlock, EqualsAPlainLoop) {
  const AttentionSpec& spec = GetParam().spec;
  ASSERT_TRUE(spec.validate(d_model));
  const test::BlockWeights weights = weights_of(spec);
  WeightBinder binder(&weights.store(), {});
  Bookings bookings(d_model);
  const auto block = spec.bind(WeightScope(binder, ""), bookings).value();
  ASSERT_EQ(bookings.cache_tensors().size(), 2U);
  EXPECT_EQ(bookings.state_floats(), 0);
  const auto input = test::random_floats(tokens * d_model, 3);
  test::EagerThreadPool threads(3);
  const auto output = test::run_block(*block, bookings, input, tokens, threads);
  const auto expected = plain(spec, weights, input);
  for (Index t = 0; t < tokens; ++t) {
    for (Index d = 0; d < d_model; ++d) {
      EXPECT_NEAR(double{output[static_cast<std::size_t>(t * d_model + d)]},
                  expected[static_cast<std::size_t>(t)][static_cast<std::size_t>(d)], 2e-5)
          << t << ' ' << d;
    }
  }
  SerialExecutor serial;
  for (const Index chunk : {Index{1}, Index{4}}) {
    EXPECT_EQ(test::run_block(*block, bookings, input, chunk, serial), output) << chunk;
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, AttentionBlock, testing::ValuesIn(kinds()),
                         [](const auto& kind) { return kind.param.name; });

TEST(AttentionSpec, RefusesWhatIsNoBlock) {
  const auto refusal = [](const AttentionSpec& spec) {
    const auto result = spec.validate(d_model);
    return result ? std::string() : result.error().message;
  };
  EXPECT_EQ(refusal({.n_head = 0}), "[spec] n_head: expected 1 to 268435456, found 0");
  EXPECT_EQ(refusal({.n_head = 4, .n_kv_head = 3}),
            "[spec] n_kv_head: expected a divisor of the 4 heads, found 3");
  EXPECT_EQ(refusal({.n_head = 13}), "[spec] n_head: expected a divisor of d_model (12), found 13");
  EXPECT_EQ(refusal({.n_head = 1 << 20, .d_head = 1 << 20}),
            "[spec] n_head · d_head: expected 1 to 268435456, found 1099511627776");
  EXPECT_EQ(refusal({.n_head = 2, .scale = std::nanf("")}),
            "[spec] scale: expected a finite number, found nan");
  EXPECT_EQ(refusal({.n_head = 4, .rotary = RotarySpec{}}),
            "[spec] rotary dim: expected an even number from 2 to 3, found 3");
  EXPECT_EQ(refusal({.n_head = 3, .rotary = RotarySpec{.dim = 6}}),
            "[spec] rotary dim: expected an even number from 2 to 4, found 6");
  EXPECT_EQ(refusal({.n_head = 3, .rotary = RotarySpec{.theta = 0.0}}),
            "[spec] rotary theta: expected a finite number above 0, found 0");
  EXPECT_EQ(refusal({.n_head = 3, .rotary = RotarySpec{.yarn = true}}),
            "[spec] rotary yarn: expected an original context, theta > 1 and turns > 0, found 0, "
            "10000 and 1");
  EXPECT_EQ(refusal({.n_head = 3, .rotary = RotarySpec{.divisors = {1.0}}}),
            "[spec] rotary divisors: expected positive numbers, one for each pair, found 1 of 2 "
            "pairs");
  EXPECT_EQ(refusal({.n_head = 3, .rotary = RotarySpec{.divisors = {1.0, 0.0}}}),
            "[spec] rotary divisors: expected positive numbers, one for each pair, found 2 of 2 "
            "pairs");
  EXPECT_EQ(refusal({.n_head = 3, .rotary = RotarySpec{.factor = -1.0}}),
            "[spec] rotary factor: expected a finite number above 0, found -1");
}

TEST(AttentionSpec, SaysEverythingThatIsComputed) {
  EXPECT_EQ((AttentionSpec{.n_head = 3}.to_string(d_model)),
            "Attention n_head 3 n_kv_head 3 d_head 4 scale 0.5");
  const AttentionSpec spec{
      .n_head = 2,
      .n_kv_head = 1,
      .d_head = 8,
      .scale = 0.25F,
      .rotary = RotarySpec{.theta = 500.0, .dim = 4, .factor = 2.0, .interleaved = true},
      .bias = true,
      .out_bias = true};
  EXPECT_EQ(spec.to_string(d_model),
            "Attention n_head 2 n_kv_head 1 d_head 8 scale 0.25 rotary 4 theta 500 factor 2 "
            "interleaved bias out-bias");
}

}  // namespace
}  // namespace krait::attention_test
