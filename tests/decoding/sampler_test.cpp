#include "krait/decoding/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>
#include <set>

#include "decoding/exact_math.hpp"
#include "krait/core/rng.hpp"
#include "tests/support/support.hpp"

namespace krait::sampler_test {
namespace {

constexpr Index vocab = 50;

std::vector<float> some_logits(std::uint64_t seed, Index count = vocab) {
  return test::random_floats(count, seed, 4.0F);
}

// The distribution that the chain of options describes, written the obvious way.
std::vector<double> oracle(const std::vector<float>& logits, const SamplerOptions& o,
                           const std::vector<Token>& text) {
  const std::size_t n = logits.size();
  std::vector<double> x(logits.begin(), logits.end());
  std::map<Token, int> counts;
  for (const Token token : text) ++counts[token];
  for (const auto& [token, count] : counts) {
    double& value = x[static_cast<std::size_t>(token)];
    value = value > 0 ? value / o.repetition_penalty : value * o.repetition_penalty;
    value -= o.presence_penalty + o.frequency_penalty * count;
  }
  for (const auto& [token, bias] : o.logit_bias) x[static_cast<std::size_t>(token)] += bias;
  std::vector<bool> kept(n, true);
  const auto probabilities = [&] {
    std::vector<double> p(n);
    double sum = 0.0;
    for (std::size_t i = 0; i < n; ++i) sum += p[i] = kept[i] ? std::exp(x[i] / o.temperature) : 0;
    for (double& value : p) value /= sum;
    return p;
  };
  const auto ordered = [&](const std::vector<double>& key) {
    std::vector<std::size_t> order(n);
    std::iota(order.begin(), order.end(), 0U);
    std::stable_sort(order.begin(), order.end(),
                     [&](std::size_t a, std::size_t b) { return key[a] > key[b]; });
    return order;
  };
  if (o.top_k > 0 && o.top_k < static_cast<Index>(n)) {
    const auto order = ordered(x);
    const double least = x[order[static_cast<std::size_t>(o.top_k - 1)]];
    for (std::size_t i = 0; i < n; ++i) kept[i] = x[i] >= least;
  }
  if (o.top_p < 1.0) {
    const auto p = probabilities();
    double before = 0.0;
    for (const std::size_t i : ordered(p)) {
      kept[i] = kept[i] && before < o.top_p;
      before += p[i];
    }
  }
  if (o.min_p > 0.0) {
    const auto p = probabilities();
    const double best = *std::max_element(p.begin(), p.end());
    for (std::size_t i = 0; i < n; ++i) kept[i] = kept[i] && p[i] >= o.min_p * best;
  }
  if (o.typical_p < 1.0) {
    const auto p = probabilities();
    double entropy = 0.0;
    for (const double value : p) entropy -= value > 0 ? value * std::log(value) : 0.0;
    std::vector<double> key(n, -1e300);
    for (std::size_t i = 0; i < n; ++i) {
      if (kept[i]) key[i] = -std::fabs(-std::log(p[i]) - entropy);
    }
    double before = 0.0;
    for (const std::size_t i : ordered(key)) {
      kept[i] = kept[i] && before < o.typical_p;
      before += p[i];
    }
  }
  return probabilities();
}

// Chi-square of draws against expected probabilities, and whether anything forbidden was drawn.
void expect_distribution(const SamplerOptions& options, const std::vector<Token>& text,
                         const char* name) {
  const auto logits = some_logits(3);
  const std::vector<double> expected = oracle(logits, options, text);
  Sampler sampler = Sampler::make(options, vocab).value();
  sampler.observe(text);
  constexpr int draws = 20000;
  std::vector<int> counts(vocab);
  for (int i = 0; i < draws; ++i) ++counts[static_cast<std::size_t>(sampler.sample(logits, i))];
  double chi_square = 0.0;
  int cells = 0;
  for (std::size_t i = 0; i < expected.size(); ++i) {
    if (expected[i] == 0.0) {
      ASSERT_EQ(counts[i], 0) << name << ": token " << i << " was filtered out";
      continue;
    }
    const double mean = expected[i] * draws;
    if (mean < 5.0) continue;
    chi_square += (counts[i] - mean) * (counts[i] - mean) / mean;
    ++cells;
  }
  // Five standard deviations above the mean of the chi-square distribution.
  EXPECT_LT(chi_square, cells + 5.0 * std::sqrt(2.0 * cells)) << name << ", " << cells << " cells";
}

TEST(Sampler, DrawsFromTheDistributionTheOptionsDescribe) {
  const std::vector<Token> text = {1, 2, 2, 7, 7, 7};
  expect_distribution({}, {}, "plain");
  expect_distribution({.temperature = 0.5}, {}, "cold");
  expect_distribution({.temperature = 2.0}, {}, "hot");
  expect_distribution({.top_k = 5}, {}, "top-k");
  expect_distribution({.top_p = 0.7}, {}, "top-p");
  expect_distribution({.min_p = 0.2}, {}, "min-p");
  expect_distribution({.typical_p = 0.6}, {}, "typical");
  expect_distribution({.repetition_penalty = 1.8}, text, "repetition");
  expect_distribution({.presence_penalty = 1.0, .frequency_penalty = 0.7}, text, "presence");
  expect_distribution({.logit_bias = {{3, 5.0}, {4, -std::numeric_limits<double>::infinity()}}}, {},
                      "bias");
  expect_distribution({.repetition_penalty = 1.3,
                       .presence_penalty = 0.2,
                       .frequency_penalty = 0.1,
                       .logit_bias = {{9, 1.0}},
                       .temperature = 0.8,
                       .top_k = 30,
                       .top_p = 0.9,
                       .min_p = 0.02,
                       .typical_p = 0.95},
                      text, "all");
}

TEST(Sampler, IsAPureFunctionOfSeedSequenceAndPosition) {
  const auto logits = some_logits(4);
  const auto draw = [&](std::uint64_t seed, std::uint32_t sequence, Index position) {
    Sampler sampler = Sampler::make({.seed = seed, .sequence = sequence}, vocab).value();
    return sampler.sample(logits, position);
  };
  Sampler sampler = Sampler::make({.seed = 1}, vocab).value();
  std::set<Token> different;
  for (Index position = 99; position >= 0; --position) {  // in any order
    EXPECT_EQ(sampler.sample(logits, position), draw(1, 0, position));
    different.insert(draw(static_cast<std::uint64_t>(position), 0, 0));
  }
  EXPECT_GT(different.size(), 5U);
  int same = 0;
  for (Index position = 0; position < 100; ++position) {
    same += draw(1, 0, position) == draw(1, 1, position) ? 1 : 0;
  }
  EXPECT_LT(same, 60) << "sequences are independent";
}

TEST(Sampler, TakesTheBestTokenAtTemperatureZeroAndWhenGreedy) {
  std::vector<float> logits(vocab, 0.0F);
  logits[20] = logits[30] = 2.0F;
  logits[40] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(Sampler::make({.temperature = 0.0}, vocab).value().sample(logits, 0), 20);
  EXPECT_EQ(Sampler::make({.greedy = true}, vocab).value().sample(logits, 0), 20);
  Sampler biased = Sampler::make({.logit_bias = {{30, 1.0}}, .temperature = 0.0}, vocab).value();
  EXPECT_EQ(biased.sample(logits, 0), 30);
  Sampler greedy = Sampler::make({.logit_bias = {{30, 1.0}}, .greedy = true}, vocab).value();
  EXPECT_EQ(greedy.sample(logits, 0), 20) << "greedy ignores everything else";
}

TEST(Sampler, LeavesPaddingOut) {
  std::vector<float> logits(64, 0.0F);
  for (std::size_t i = 50; i < 64; ++i) logits[i] = 100.0F;
  Sampler sampler = Sampler::make({}, vocab).value();
  for (Index i = 0; i < 200; ++i) EXPECT_LT(sampler.sample(logits, i), vocab);
}

TEST(Sampler, CopesWithDegenerateLogits) {
  constexpr float inf = std::numeric_limits<float>::infinity();
  Sampler sampler = Sampler::make({.top_k = 3, .top_p = 0.5, .typical_p = 0.5}, 4).value();
  for (const auto& logits :
       {std::vector<float>{-inf, -inf, -inf, -inf}, std::vector<float>{0, 0, 0, 0},
        std::vector<float>{inf, 0, 0, 0}, std::vector<float>{NAN, NAN, NAN, NAN},
        std::vector<float>{-inf, 3, -inf, -inf}, std::vector<float>{1e38F, -1e38F, 0, 0}}) {
    const Token token = sampler.sample(logits, 0);
    EXPECT_GE(token, 0);
    EXPECT_LT(token, 4);
  }
  EXPECT_EQ(sampler.sample(std::vector<float>{-inf, 3, -inf, -inf}, 0), 1);
}

TEST(Sampler, LargeVocabulariesGiveTheSameAsAFullSort) {
  // Only as much is sorted as is looked at; the result must not show it.
  const auto logits = some_logits(5, 5000);
  Sampler sampler = Sampler::make({.temperature = 1.5}, 5000).value();
  std::vector<std::size_t> order(5000);
  std::iota(order.begin(), order.end(), 0U);
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    return logits[a] > logits[b] || (logits[a] == logits[b] && a < b);
  });
  const std::vector<double> p = oracle(logits, {.temperature = 1.5}, {});
  for (Index position = 0; position < 300; ++position) {
    const double u = random_uniform({.position = static_cast<std::uint64_t>(position)});
    const Token token = sampler.sample(logits, position);
    double sum = 0.0;
    std::size_t i = 0;
    while (i + 1 < order.size() && (sum += p[order[i]]) <= u) ++i;
    if (std::fabs(sum - u) > 1e-9) {
      EXPECT_EQ(token, static_cast<Token>(order[i])) << position;
    }
  }
}

TEST(Sampler, RefusesImpossibleOptions) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  const SamplerOptions bad[] = {
      {.repetition_penalty = 0.0},
      {.repetition_penalty = nan},
      {.presence_penalty = nan},
      {.frequency_penalty = nan},
      {.logit_bias = {{50, 1.0}}},
      {.logit_bias = {{-1, 1.0}}},
      {.logit_bias = {{1, nan}}},
      {.temperature = -1.0},
      {.temperature = nan},
      {.top_k = -1},
      {.top_p = 0.0},
      {.top_p = 1.5},
      {.top_p = nan},
      {.min_p = -0.1},
      {.min_p = 1.1},
      {.typical_p = 0.0},
      {.typical_p = nan},
  };
  for (const SamplerOptions& options : bad) {
    const auto sampler = Sampler::make(options, vocab);
    ASSERT_FALSE(sampler);
    EXPECT_EQ(sampler.error().code, ErrorCode::bad_argument);
    EXPECT_EQ(sampler.error().message.rfind("[sampler] ", 0), 0U) << sampler.error().message;
  }
  EXPECT_FALSE(Sampler::make({}, 0));
}

TEST(ExactMath, IsCloseToTheSystemsFunctions) {
  for (double x = -699.0; x <= 0.0; x += 0.37) {
    EXPECT_NEAR(exp_nonpositive(x) / std::exp(x), 1.0, 1e-14) << x;
  }
  EXPECT_EQ(exp_nonpositive(0.0), 1.0);
  EXPECT_EQ(exp_nonpositive(-800.0), 0.0);
  EXPECT_EQ(exp_nonpositive(-std::numeric_limits<double>::infinity()), 0.0);
  for (double x = 1e-300; x < 1e300; x *= 3.7) {
    EXPECT_NEAR(log_positive(x), std::log(x), 1e-14 * std::max(1.0, std::fabs(std::log(x)))) << x;
  }
}

// As the temperature goes to 0, the best token; not all of them alike because every quotient is
// infinite.
TEST(Sampler, TakesTheBestWhereTheTemperatureIsAlmostNothing) {
  const auto logits = some_logits(3);
  const auto best = static_cast<Token>(
      std::distance(logits.begin(), std::max_element(logits.begin(), logits.end())));
  for (const double temperature : {1e-3, 1e-300, 3e-308, 5e-324}) {
    for (const double typical : {1.0, 0.5}) {
      Sampler sampler =
          Sampler::make({.temperature = temperature, .typical_p = typical}, vocab).value();
      for (int i = 0; i < 50; ++i) ASSERT_EQ(sampler.sample(logits, i), best) << temperature;
    }
  }
}

TEST(Sampler, AForbiddenTokenStaysForbidden) {
  constexpr double never = -std::numeric_limits<double>::infinity();
  const auto logits = some_logits(3);
  for (const std::vector<std::pair<Token, double>>& bias :
       {std::vector<std::pair<Token, double>>{{5, 1e308}, {5, 1e308}, {5, never}},
        std::vector<std::pair<Token, double>>{{5, never}, {5, 1e308}, {5, 1e308}}}) {
    Sampler sampler =
        Sampler::make({.frequency_penalty = -1e308, .logit_bias = bias}, vocab).value();
    sampler.observe(std::vector<Token>{5, 5, 5});
    for (int i = 0; i < 200; ++i) ASSERT_NE(sampler.sample(logits, i), 5);
  }
}

// Every option at its extremes, alone and with every other: the draw is a token of the vocabulary,
// the same for the same position, and never a forbidden one.
TEST(Sampler, TakesOptionsAndLogitsOfAnySize) {
  static constexpr double most = std::numeric_limits<double>::max();
  static constexpr double least = std::numeric_limits<double>::denorm_min();
  static constexpr double never = -std::numeric_limits<double>::infinity();
  constexpr float inf = std::numeric_limits<float>::infinity();
  using Change = void (*)(SamplerOptions&);
  const Change changes[] = {
      [](SamplerOptions&) {},
      [](SamplerOptions& o) { o.repetition_penalty = most; },
      [](SamplerOptions& o) { o.repetition_penalty = least; },
      [](SamplerOptions& o) { o.presence_penalty = most; },
      [](SamplerOptions& o) { o.presence_penalty = -most; },
      [](SamplerOptions& o) { o.frequency_penalty = most; },
      [](SamplerOptions& o) { o.frequency_penalty = -most; },
      [](SamplerOptions& o) { o.temperature = most; },
      [](SamplerOptions& o) { o.temperature = least; },
      [](SamplerOptions& o) { o.temperature = 0.0; },
      [](SamplerOptions& o) { o.top_k = std::numeric_limits<Index>::max(); },
      [](SamplerOptions& o) { o.top_k = 1; },
      [](SamplerOptions& o) { o.top_p = least; },
      [](SamplerOptions& o) { o.min_p = 1.0; },
      [](SamplerOptions& o) { o.min_p = least; },
      [](SamplerOptions& o) { o.typical_p = least; },
      [](SamplerOptions& o) { o.typical_p = 0.999; },
      [](SamplerOptions& o) { o.dry_multiplier = o.dry_base = most, o.dry_allowed_length = 1; },
      [](SamplerOptions& o) {
        o.bad_words = {{5}, {7, 7, 6}}, o.min_length = 3, o.eos_tokens = {8};
      },
      [](SamplerOptions& o) { o.top_n_sigma = least; },
      [](SamplerOptions& o) { o.top_n_sigma = most; },
      [](SamplerOptions& o) { o.dynatemp_range = most, o.dynatemp_exponent = least; },
      [](SamplerOptions& o) { o.dynatemp_range = least, o.dynatemp_exponent = most; },
      [](SamplerOptions& o) { o.epsilon_cutoff = least, o.eta_cutoff = 0.999; },
      [](SamplerOptions& o) { o.xtc_probability = 1.0, o.xtc_threshold = least; },
      [](SamplerOptions& o) { o.mirostat = 1, o.mirostat_tau = 100.0, o.mirostat_eta = 1.0; },
      [](SamplerOptions& o) { o.mirostat = 2, o.mirostat_tau = 0.0; },
      [](SamplerOptions& o) {
        o.logit_bias = {{5, most}, {5, most}, {6, -most}, {6, -most}};
      },
      [](SamplerOptions& o) {
        for (Token t = 0; t < vocab; ++t) o.logit_bias.push_back({t, t == 7 ? most : never});
      },
      [](SamplerOptions& o) {
        for (Token t = 0; t < vocab; ++t) o.logit_bias.push_back({t, never});
      },
  };
  std::vector<std::vector<float>> rows = {some_logits(3), std::vector<float>(vocab, 0.0F),
                                          std::vector<float>(vocab, -inf)};
  rows.push_back(some_logits(4));
  for (std::size_t i = 0; i < 9; ++i) {
    rows.back()[i] =
        std::array{inf, -inf, std::numeric_limits<float>::quiet_NaN(), 3e38F, -3e38F, 1e-45F, -0.0F,
                   inf, 0.0F}[i];
  }
  for (const Change first : changes) {
    for (const Change second : changes) {
      SamplerOptions options{.seed = 3};
      first(options);
      second(options);
      Result<Sampler> made = Sampler::make(options, vocab);
      if (!made && made.error().message.find("mirostat: expected no other") != std::string::npos) {
        continue;
      }
      Sampler sampler = std::move(made).value();
      sampler.observe(std::vector<Token>{0, 1, 2, 3, 5, 5, 7, 7, 7});
      Sampler again = sampler;
      const auto forbidden = [&](Token token) {
        return std::ranges::find(options.logit_bias, std::pair{token, never}) !=
               options.logit_bias.end();
      };
      const bool has_choice = !forbidden(7);
      for (const std::vector<float>& logits : rows) {
        for (Index position = 0; position < 5; ++position) {
          const Token token = sampler.sample(logits, position);
          ASSERT_TRUE(token >= 0 && token < vocab);
          ASSERT_EQ(token, again.sample(logits, position));
          sampler.observe({&token, 1});
          again.observe({&token, 1});
          ASSERT_TRUE(logits[7] == -inf || !has_choice || !forbidden(token)) << token;
        }
      }
    }
  }
}

}  // namespace
}  // namespace krait::sampler_test
