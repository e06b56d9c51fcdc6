// Steps, their order, steps of an application's own, and masks.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "krait/decoding/sampler.hpp"
#include "tests/support/support.hpp"

namespace krait::sampler_steps_test {
namespace {

constexpr Index vocab = 130;  // more than two words of a mask
constexpr double never = -std::numeric_limits<double>::infinity();

std::vector<float> some_logits(std::uint64_t seed) {
  return test::random_floats(vocab, seed, 4.0F);
}

// Forbids what the text ended with, and counts how often it was asked.
class NoRepeat final : public SamplerStep {
 public:
  explicit NoRepeat(std::shared_ptr<int> calls = std::make_shared<int>(0), const char* name = "own")
      : calls_(std::move(calls)), name_(name) {}
  std::unique_ptr<SamplerStep> clone() const override { return std::make_unique<NoRepeat>(*this); }
  std::string_view name() const noexcept override { return name_; }
  void observe(std::span<const Token> tokens) noexcept override {
    if (!tokens.empty()) last_ = tokens.back();
  }
  void apply(Candidates& candidates, const SamplerContext& context) noexcept override {
    ++*calls_;
    context_ = context;
    if (const auto at = candidates.find(last_)) candidates.change_logit(*at, never);
  }

 private:
  std::shared_ptr<int> calls_;
  const char* name_;
  Token last_ = -1;
  SamplerContext context_;
};

// Keeps what a condition holds for.
class Keep final : public SamplerStep {
 public:
  Keep(const char* name, bool (*keep)(const Candidate&)) : name_(name), keep_(keep) {}
  std::unique_ptr<SamplerStep> clone() const override { return std::make_unique<Keep>(*this); }
  std::string_view name() const noexcept override { return name_; }
  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    candidates.keep_if(keep_);
  }

 private:
  const char* name_;
  bool (*keep_)(const Candidate&);
};

std::map<Token, int> draws(const SamplerOptions& options, const std::vector<float>& logits,
                           int count = 2000) {
  Sampler sampler = Sampler::make(options, vocab).value();
  std::map<Token, int> counts;
  for (int i = 0; i < count; ++i) ++counts[sampler.sample(logits, i)];
  return counts;
}

TEST(SamplerSteps, AStepOfTheApplicationsOwnSeesTheTextAndTheCandidates) {
  const auto logits = some_logits(1);
  const auto calls = std::make_shared<int>(0);
  const SamplerOptions options{
      .temperature = 0.7, .top_k = 3, .steps = {std::make_shared<NoRepeat>(calls)}, .seed = 3};
  Sampler sampler = Sampler::make(options, vocab).value();
  Sampler plain = Sampler::make({.temperature = 0.7, .top_k = 3, .seed = 3}, vocab).value();
  Token last = sampler.sample(logits, 0);
  EXPECT_EQ(last, plain.sample(logits, 0)) << "nothing was observed yet";
  for (Index position = 1; position < 200; ++position) {
    sampler.observe({&last, 1});
    Sampler copy = sampler;  // has a step of its own, which observed the same
    const Token next = sampler.sample(logits, position);
    EXPECT_NE(next, last);
    EXPECT_EQ(copy.sample(logits, position), next);
    copy.observe(std::vector<Token>{0});
    EXPECT_EQ(sampler.sample(logits, position), next) << "the copy observes for itself";
    last = next;
  }
  EXPECT_EQ(*calls, 1 + 3 * 199);
}

TEST(SamplerSteps, TheOrderIsTheOneThatIsGiven) {
  const auto logits = some_logits(2);
  std::vector<Token> best(vocab);
  std::iota(best.begin(), best.end(), 0);
  std::ranges::sort(best, [&](Token a, Token b) {
    return logits[static_cast<std::size_t>(a)] > logits[static_cast<std::size_t>(b)];
  });
  const auto even = [](const Candidate& c) { return c.token % 2 == 0; };
  const auto step = std::make_shared<Keep>("even", even);
  const auto tokens_of = [&](const SamplerOptions& options) {
    std::vector<Token> tokens;
    for (const auto& [token, count] : draws(options, logits)) tokens.push_back(token);
    return tokens;
  };
  // The even ones of the eight best; the eight best of the even ones.
  std::vector<Token> last;
  std::vector<Token> first;
  for (std::size_t i = 0; i < best.size(); ++i) {
    if (best[i] % 2 != 0) continue;
    if (i < 8) last.push_back(best[i]);
    if (first.size() < 8) first.push_back(best[i]);
  }
  std::ranges::sort(last);
  std::ranges::sort(first);
  ASSERT_NE(first, last);
  SamplerOptions options{.temperature = 3.0, .top_k = 8, .steps = {step}};
  EXPECT_EQ(tokens_of(options), last);
  options.order = {"temperature", "top_k", "even"};
  EXPECT_EQ(tokens_of(options), last);
  options.order = {"even", "top_k", "temperature"};
  EXPECT_EQ(tokens_of(options), first);
  options.order = {"top_k", "temperature", "min_p", "even"};
  EXPECT_EQ(tokens_of(options), last);
}

// Temperature before or behind top-p: with weights that change in between.
TEST(SamplerSteps, LaterStepsSeeWhatEarlierOnesMade) {
  std::vector<float> logits(vocab, -100.0F);
  for (std::size_t i = 0; i < 4; ++i)
    logits[10 + i] = static_cast<float>(std::log(0.4 - 0.1 * static_cast<double>(i)));
  const SamplerOptions cold{.temperature = 0.25, .top_p = 0.65};
  EXPECT_EQ(draws(cold, logits).size(), 1U);  // 0.4^4 is 72 % of what is left
  SamplerOptions warm = cold;
  warm.order = {"top_p", "temperature"};
  EXPECT_EQ(draws(warm, logits).size(), 2U);  // 0.4 + 0.3
  // Behind "typical_p", whose order is another, top-k keeps the most probable.
  SamplerOptions typical{.top_k = 1, .typical_p = 0.9999};
  typical.order = {"typical_p", "top_k"};
  EXPECT_EQ(draws(typical, logits).begin()->first, 10);
  EXPECT_EQ(draws(typical, logits).size(), 1U);
  // What is forbidden behind it is not drawn, and what a low temperature leaves is the best.
  SamplerOptions forbidding{.logit_bias = {{10, never}, {11, never}}, .typical_p = 0.9999};
  forbidding.order = {"typical_p", "logit_bias"};
  const auto rest = draws(forbidding, logits);
  EXPECT_EQ(rest.count(10) + rest.count(11), 0U);
  EXPECT_EQ(rest.count(12), 1U);
  SamplerOptions sharp{.temperature = 1e-4, .typical_p = 0.9999};
  sharp.order = {"typical_p", "temperature"};
  EXPECT_EQ(draws(sharp, logits).size(), 1U);
  EXPECT_EQ(draws(sharp, logits).begin()->first, 10);
}

TEST(SamplerSteps, EveryOrderGivesTheSameOnCopiesAndNoForbiddenToken) {
  SamplerOptions options{.repetition_penalty = 1.4,
                         .logit_bias = {{5, never}, {9, 2.0}},
                         .temperature = 0.9,
                         .top_k = 30,
                         .top_p = 0.95,
                         .min_p = 0.01,
                         .typical_p = 0.9,
                         .seed = 4};
  options.order = {"logit_bias", "min_p", "penalties", "temperature",
                   "top_k",      "top_p", "typical_p"};
  auto logits = some_logits(6);
  logits[5] = 20.0F;
  int orders = 0;
  do {
    if (++orders % 7 != 0) continue;  // 720 of 5040
    Sampler sampler = Sampler::make(options, vocab).value();
    sampler.observe(std::vector<Token>{9, 9, 1, 2});
    Sampler copy = sampler;
    const bool first = options.order[0] == "logit_bias";
    for (Index position = 0; position < 4; ++position) {
      const Token token = sampler.sample(logits, position);
      ASSERT_EQ(copy.sample(logits, position), token);
      ASSERT_TRUE(!first || token != 5);
    }
  } while (std::ranges::next_permutation(options.order).found);
  EXPECT_EQ(orders, 5040);
}

TEST(SamplerSteps, RefuseUnknownDoubleAndMissingNames) {
  const auto own = std::make_shared<NoRepeat>();
  const auto with = [](auto change) {
    SamplerOptions options;
    change(options);
    return options;
  };
  const std::pair<SamplerOptions, const char*> cases[] = {
      {with([](auto& o) { o.order = {"top_q"}; }),
       "order: expected names of steps (penalties, dry, logit_bias, bad_words, min_length, "
       "top_n_sigma, temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, xtc, "
       "mirostat), found 'top_q'"},
      {with([](auto& o) {
         o.order = {"top_k", "top_p", "top_k"};
       }),
       "found 'top_k' twice"},
      {with([](auto& o) { o.order = {"temperature"}, o.top_k = 5; }), "expected 'top_k', which is"},
      {with([&](auto& o) { o.order = {"temperature"}, o.steps = {own}; }), "expected 'own', which"},
      {with([&](auto& o) {
         o.steps = {own, own};
       }),
       "a name that no other step has, found 'own'"},
      {with([&](auto& o) { o.steps = {std::make_shared<NoRepeat>(nullptr, "top_k")}; }),
       "found 'top_k'"},
      {with([&](auto& o) { o.steps = {std::make_shared<NoRepeat>(nullptr, "")}; }), "found ''"},
      {with([&](auto& o) { o.steps = {nullptr}; }), "found null"},
  };
  for (const auto& [options, message] : cases) {
    const auto sampler = Sampler::make(options, vocab);
    ASSERT_FALSE(sampler) << message;
    EXPECT_EQ(sampler.error().code, ErrorCode::bad_argument);
    EXPECT_EQ(sampler.error().message.rfind("[sampler] ", 0), 0U);
    EXPECT_NE(sampler.error().message.find(message), std::string::npos) << sampler.error().message;
  }
  EXPECT_TRUE(Sampler::make(with([](auto& o) { o.order = {"top_p", "top_k"}, o.top_k = 5; }), 9));
}

TEST(SamplerSteps, RandomNumbersOfAStepAreItsOwn) {
  const SamplerContext here{.position = 7, .seed = 3, .sequence = 1};
  EXPECT_EQ(here.uniform(0), (SamplerContext{.position = 7, .seed = 3, .sequence = 1}.uniform(0)));
  EXPECT_NE(here.uniform(0), here.uniform(1));
  EXPECT_NE(here.uniform(0), (SamplerContext{.position = 8, .seed = 3, .sequence = 1}.uniform(0)));
  EXPECT_NE(here.uniform(0), random_uniform({.seed = 3, .sequence = 1, .position = 7}));
}

TEST(TokenMask, IsASetOfTokens) {
  for (const Index size : {0, 1, 63, 64, 65, 130}) {
    TokenMask mask(size);
    EXPECT_EQ(mask.size(), size);
    EXPECT_EQ(mask.allows_any(), size > 0);
    mask.forbid_all();
    EXPECT_FALSE(mask.allows_any());
    mask.allow(static_cast<Token>(size));  // beyond
    mask.allow(-1);
    EXPECT_FALSE(mask.allows_any());
    if (size == 0) continue;
    const auto last = static_cast<Token>(size - 1);
    mask.allow(last);
    EXPECT_TRUE(mask.allows(last));
    EXPECT_TRUE(mask.allows_any());
    EXPECT_EQ(mask.allows(0), last == 0);
    mask.forbid(last);
    EXPECT_FALSE(mask.allows_any());
    mask.allow_all();
    std::size_t bits = 0;
    for (const std::uint64_t word : mask.words())
      bits += static_cast<std::size_t>(std::popcount(word));
    EXPECT_EQ(bits, static_cast<std::size_t>(size));
    EXPECT_FALSE(mask.allows(static_cast<Token>(size)));
    EXPECT_FALSE(mask.allows(-1));
  }
}

// Whatever the options and logits are, what the mask forbids is not drawn; and what it allows is
// drawn as if the others' logits were -infinity.
TEST(TokenMask, ComesBeforeEveryStep) {
  std::vector<std::vector<float>> rows = {some_logits(3), std::vector<float>(vocab, 0.0F),
                                          std::vector<float>(vocab, -INFINITY),
                                          std::vector<float>(vocab, NAN)};
  const SamplerOptions cases[] = {
      {.greedy = true},
      {.temperature = 0.0},
      {.repetition_penalty = 1.3, .temperature = 0.0},
      {.seed = 1},
      {.temperature = 0.8, .top_k = 5, .top_p = 0.9, .seed = 1},
      {.repetition_penalty = 2.0, .logit_bias = {{70, 3.0}, {4, never}}, .min_p = 0.1, .seed = 2},
      {.typical_p = 0.5, .seed = 3},
      {.temperature = 1e-320, .seed = 3},
  };
  for (const std::vector<Token>& allowed :
       {std::vector<Token>{70}, {4}, {0, 129}, {3, 4, 70, 71, 128}, {64, 65, 66}}) {
    TokenMask mask(vocab);
    mask.forbid_all();
    for (const Token token : allowed) mask.allow(token);
    for (const SamplerOptions& options : cases) {
      Sampler sampler = Sampler::make(options, vocab).value();
      sampler.observe(std::vector<Token>{70, 70, 3});
      for (std::size_t r = 0; r < rows.size(); ++r) {
        auto masked = rows[r];
        for (Token t = 0; t < vocab; ++t) {
          if (!mask.allows(t)) masked[static_cast<std::size_t>(t)] = -INFINITY;
        }
        for (Index position = 0; position < 20; ++position) {
          const auto token = sampler.sample(rows[r], position, mask);
          ASSERT_TRUE(token);
          ASSERT_TRUE(mask.allows(*token)) << *token;
          const bool has_choice = r < 2 && allowed != std::vector<Token>{4};
          ASSERT_TRUE(!has_choice || *token == sampler.sample(masked, position));
        }
      }
    }
  }
}

TEST(TokenMask, ThatAllowsNothingGivesNothing) {
  TokenMask none(vocab);
  none.forbid_all();
  for (const SamplerOptions& options :
       {SamplerOptions{.greedy = true}, SamplerOptions{.temperature = 0.0}, SamplerOptions{}}) {
    Sampler sampler = Sampler::make(options, vocab).value();
    EXPECT_FALSE(sampler.sample(some_logits(1), 0, none));
    EXPECT_FALSE(sampler.sample(some_logits(1), 0, TokenMask()));
    TokenMask all(vocab);
    EXPECT_EQ(sampler.sample(some_logits(1), 0, all), sampler.sample(some_logits(1), 0));
  }
}

}  // namespace
}  // namespace krait::sampler_steps_test
