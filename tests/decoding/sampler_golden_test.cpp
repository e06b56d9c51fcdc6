// The steps that llama.cpp and Hugging Face have, against values that transformers computed, and
// where it lacks the step against its published code or formula, transcribed the slow way.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "krait/core/rng.hpp"
#include "krait/decoding/sampler.hpp"
#include "tests/support/support.hpp"

namespace krait::sampler_golden_test {
namespace {

using Tokens = std::vector<Token>;
using Law = std::map<Token, double>;  // logits of the tokens that are left

constexpr double never = -std::numeric_limits<double>::infinity();

nlohmann::json golden() {
  return nlohmann::json::parse(
      test::read_file(test::data_dir() / "golden" / "samplers.json"))["steps"];
}

// What the steps leave.
Law law_of(const SamplerOptions& options, const std::vector<float>& logits, const Tokens& text = {},
           Index position = 0) {
  Sampler sampler = Sampler::make(options, std::ssize(logits)).value();
  sampler.observe(text);
  Law law;
  const TokenMask all(std::ssize(logits));
  for (const Candidate& c : sampler.best(logits, position, logits.size(), all)) {
    law[c.token] = c.logit;
  }
  return law;
}

Tokens tokens_of(const Law& law) {
  Tokens tokens;
  for (const auto& [token, logit] : law) tokens.push_back(token);
  return tokens;
}

void expect_same(const Law& found, const Law& expected, const std::string& what) {
  ASSERT_EQ(tokens_of(found), tokens_of(expected)) << what;
  for (const auto& [token, logit] : expected) {
    ASSERT_NEAR(found.at(token), logit, 1e-9 * std::max(1.0, std::fabs(logit))) << what << token;
  }
}

std::vector<float> some_logits(std::uint64_t seed, Index vocab = 80) {
  return test::random_floats(vocab, seed, static_cast<float>(1 + seed % 7));
}

// In descending order, with their probabilities.
struct Sorted {
  Tokens tokens;
  std::vector<double> p;
};
Sorted sorted(const std::vector<float>& logits) {
  Sorted all;
  all.tokens.resize(logits.size());
  std::iota(all.tokens.begin(), all.tokens.end(), 0);
  const auto logit = [&](Token t) {
    return static_cast<double>(logits[static_cast<std::size_t>(t)]);
  };
  std::ranges::stable_sort(all.tokens, [&](Token a, Token b) { return logit(a) > logit(b); });
  double sum = 0.0;
  for (const Token t : all.tokens) sum += std::exp(logit(t) - logit(all.tokens[0]));
  for (const Token t : all.tokens) all.p.push_back(std::exp(logit(t) - logit(all.tokens[0])) / sum);
  return all;
}

Law plain(const std::vector<float>& logits) {
  Law law;
  for (std::size_t i = 0; i < logits.size(); ++i) law[static_cast<Token>(i)] = logits[i];
  return law;
}

TEST(SamplerGolden, LeavesWhatTransformersLeaves) {
  const auto all = golden();
  const auto rows = all["logits"].get<std::vector<std::vector<float>>>();
  const auto text = all["text"].get<Tokens>();
  int cases = 0;
  for (const auto& [name, kept] : all["kept"].items()) {
    SamplerOptions options;
    const std::string kind = name.substr(0, name.find(' '));
    const double value = kind == name ? 0.0 : std::stod(name.substr(kind.size()));
    if (kind == "epsilon_cutoff") options.epsilon_cutoff = value;
    if (kind == "eta_cutoff") options.eta_cutoff = value;
    if (kind == "min_length") options.min_length = static_cast<Index>(value);
    if (kind == "bad_words") options.bad_words = all["bad_words"].get<std::vector<Tokens>>();
    options.eos_tokens = all["eos"].get<Tokens>();
    for (std::size_t row = 0; row < rows.size(); ++row, ++cases) {
      EXPECT_EQ(tokens_of(law_of(options, rows[row], text, std::ssize(text))),
                kept[row].get<Tokens>())
          << name << ", row " << row;
    }
  }
  EXPECT_EQ(cases, 13 * 5);
}

// llama.cpp, llama_sampler_top_n_sigma_apply.
TEST(SamplerGolden, TopNSigmaIsThatOfLlama) {
  for (std::uint64_t seed = 1; seed < 30; ++seed) {
    const auto logits = some_logits(seed);
    for (const double n : {0.3, 1.0, 2.5}) {
      double mean = 0.0;
      for (const double x : logits) mean += x / static_cast<double>(logits.size());
      double variance = 0.0;
      for (const double x : logits)
        variance += (x - mean) * (x - mean) / static_cast<double>(logits.size());
      const double max = *std::ranges::max_element(logits);
      Law expected = plain(logits);
      std::erase_if(expected,
                    [&](const auto& c) { return c.second < max - n * std::sqrt(variance); });
      expect_same(law_of({.top_n_sigma = n}, logits), expected, "top_n_sigma ");
      // What a temperature would change.
      EXPECT_EQ(tokens_of(law_of(
                    {.top_n_sigma = n, .temperature = 3.0, .order = {"temperature", "top_n_sigma"}},
                    logits)),
                tokens_of(expected));
    }
  }
  // Forbidden tokens take no part in the deviation.
  std::vector<float> logits = {3.0F, 2.0F, 1.0F, -INFINITY, -INFINITY};
  EXPECT_EQ(tokens_of(law_of({.top_n_sigma = 1.3}, logits)), (Tokens{0, 1}));
}

// llama.cpp, llama_sampler_temp_ext_apply.
TEST(SamplerGolden, DynamicTemperatureIsThatOfLlama) {
  for (std::uint64_t seed = 1; seed < 30; ++seed) {
    const auto logits = some_logits(seed);
    const Sorted all = sorted(logits);
    double entropy = 0.0;
    for (const double p : all.p) entropy -= p > 0.0 ? p * std::log(p) : 0.0;
    for (const auto& [t, range, exponent] :
         {std::array{1.0, 0.5, 1.0}, std::array{0.7, 0.7, 2.0}, std::array{0.5, 1.5, 0.3},
          std::array{2.0, 1.0, 0.0}}) {
      const double low = std::max(0.0, t - range);
      const double normalised = entropy / std::log(static_cast<double>(logits.size()));
      const double dynamic = low + (t + range - low) * std::pow(normalised, exponent);
      Law expected = plain(logits);
      for (auto& [token, logit] : expected) logit /= dynamic;
      expect_same(law_of({.temperature = t, .dynatemp_range = range, .dynatemp_exponent = exponent},
                         logits),
                  expected, "dynatemp ");
    }
  }
  // One token of all the probability: the lowest temperature, here 0.
  EXPECT_EQ(tokens_of(law_of({.temperature = 0.5, .dynatemp_range = 0.5}, {900.0F, 0.0F, 0.0F})),
            Tokens{0});
}

// text-generation-webui, XTCLogitsWarper; llama.cpp, llama_sample_xtc_apply.
TEST(SamplerGolden, XtcIsThatOfLlama) {
  for (std::uint64_t seed = 1; seed < 30; ++seed) {
    const auto logits = some_logits(seed);
    const Sorted all = sorted(logits);
    for (const double threshold : {0.01, 0.1, 0.3, 0.6}) {
      std::size_t last = 0;
      for (std::size_t i = 0; i < all.p.size() && all.p[i] >= threshold; ++i) last = i;
      Law expected = plain(logits);
      for (std::size_t i = 0; i < last; ++i) expected.erase(all.tokens[i]);
      expect_same(law_of({.xtc_probability = 1.0, .xtc_threshold = threshold}, logits), expected,
                  "xtc ");
    }
  }
  const std::vector<float> alike(4, 0.0F);
  int cut = 0;
  for (Index position = 0; position < 4000; ++position) {
    const Law law = law_of({.xtc_probability = 0.3, .seed = 5}, alike, {}, position);
    ASSERT_TRUE(law.size() == 4 || law.size() == 1);
    cut += law.size() == 1 ? 1 : 0;
  }
  EXPECT_NEAR(cut, 1200, 5 * std::sqrt(4000 * 0.21));
}

// The loops of text-generation-webui's DRYLogitsProcessor (#5677), for breakers of one token.
Law dry_reference(const std::vector<float>& logits, const SamplerOptions& o, Tokens text) {
  const auto is_breaker = [&](Token t) {
    return std::ranges::find(o.dry_sequence_breakers, Tokens{t}) != o.dry_sequence_breakers.end();
  };
  Law law = plain(logits);
  if (std::ssize(text) > o.dry_penalty_last_n)
    text.erase(text.begin(), text.end() - o.dry_penalty_last_n);
  const auto n = static_cast<int>(text.size());
  const auto at = [&](int i) { return text[static_cast<std::size_t>(i)]; };
  if (n == 0 || is_breaker(at(n - 1))) return law;
  std::map<Token, int> lengths;
  for (int i = 0; i < n - 1; ++i) {
    if (at(i) != at(n - 1) || is_breaker(at(i + 1))) continue;
    int length = 1;
    while (i - length >= 0 && at(i - length) == at(n - 1 - length) && !is_breaker(at(i - length))) {
      ++length;
    }
    lengths[at(i + 1)] = std::max(lengths[at(i + 1)], length);
  }
  for (const auto& [token, length] : lengths) {
    if (length < o.dry_allowed_length) continue;
    law[token] -=
        o.dry_multiplier * std::pow(o.dry_base, static_cast<double>(length - o.dry_allowed_length));
  }
  return law;
}

TEST(SamplerGolden, DryIsThatOfItsAuthor) {
  int penalised = 0;
  for (std::uint64_t seed = 0; seed < 400; ++seed) {
    const auto logits = some_logits(seed, 12);
    Tokens text;
    const auto letters = static_cast<Token>(2 + seed % 5);
    for (const float x : test::random_floats(static_cast<Index>(seed % 90), seed + 1000, 1.0F)) {
      text.push_back(static_cast<Token>(static_cast<double>(x + 1.0F) / 2.0 * letters));
    }
    for (Index allowed = 1; allowed < 4; ++allowed) {
      const SamplerOptions options{.dry_multiplier = 0.8,
                                   .dry_base = 1.0 + 0.25 * static_cast<double>(seed % 5),
                                   .dry_allowed_length = allowed,
                                   .dry_penalty_last_n = static_cast<Index>(1 + seed % 70),
                                   .dry_sequence_breakers = seed % 3 == 0
                                                                ? std::vector<Tokens>{{1}, {9}}
                                                                : std::vector<Tokens>{}};
      const Law expected = dry_reference(logits, options, text);
      penalised += expected != plain(logits) ? 1 : 0;
      expect_same(law_of(options, logits, text), expected, "dry ");
    }
  }
  EXPECT_GT(penalised, 500);
}

// Read from llama_sampler_dry_apply: the longest sequence that ends the text is behind the last
// whole breaker; the beginning of a breaker is no breaker.
TEST(SamplerGolden, DryKnowsBreakersOfSeveralTokens) {
  const std::vector<float> logits(10, 0.0F);
  const auto penalties = [&](const Tokens& text, const std::vector<Tokens>& breakers) {
    Law law = law_of({.dry_multiplier = 1.0,
                      .dry_base = 2.0,
                      .dry_allowed_length = 2,
                      .dry_sequence_breakers = breakers},
                     logits, text);
    std::erase_if(law, [](const auto& c) { return c.second == 0.0; });
    return law;
  };
  const Tokens text = {1, 2, 3, 4, 5, 6, 1, 2, 3, 4};
  EXPECT_EQ(penalties(text, {}), (Law{{5, -4.0}}));
  EXPECT_EQ(penalties(text, {{1, 2}}), (Law{{5, -1.0}}));
  EXPECT_EQ(penalties(text, {{2, 3}}), Law{}) << "one token behind it";
  EXPECT_EQ(penalties(text, {{1, 3}}), (Law{{5, -4.0}}));
  EXPECT_EQ(penalties(text, {{4, 5}}), (Law{{5, -4.0}})) << "only its beginning is there";
  EXPECT_EQ(penalties(text, {{1}, {1, 2}}), (Law{{5, -1.0}})) << "the longest of several";
  EXPECT_EQ(penalties(text, {{5}}), Law{}) << "a breaker loses nothing";
}

// llama.cpp, llama_sampler_mirostat_apply and llama_sampler_mirostat_v2_apply, with the draw of
// krait's sampler.
class MirostatReference {
 public:
  MirostatReference(int version, double tau, double eta, std::uint64_t seed)
      : version_(version), tau_(tau), eta_(eta), seed_(seed), mu_(2.0 * tau) {}

  Token sample(const std::vector<float>& logits, Index position) {
    const Sorted all = sorted(logits);
    const std::size_t size =
        std::min(all.p.size(), version_ == 1 ? zipf(all, logits.size()) : surprise(all));
    double sum = 0.0;
    for (std::size_t i = 0; i < size; ++i) sum += all.p[i];
    const double u =
        random_uniform({.seed = seed_, .position = static_cast<std::uint64_t>(position)});
    std::size_t i = 0;
    for (double reached = all.p[0]; i + 1 < size && reached <= u * sum;) reached += all.p[++i];
    mu_ -= eta_ * (-std::log2(all.p[i] / sum) - tau_);
    return all.tokens[i];
  }

  double mu() const { return mu_; }

 private:
  std::size_t surprise(const Sorted& all) const {
    std::size_t size = 0;
    while (size < all.p.size() && -std::log2(all.p[size]) <= mu_) ++size;
    return std::max<std::size_t>(size, 1);
  }
  std::size_t zipf(const Sorted& all, std::size_t vocab) const {
    double ti_bi = 0.0;
    double ti_sq = 0.0;
    for (std::size_t i = 0; i < 99 && i + 1 < all.p.size(); ++i) {
      const double t = std::log(static_cast<double>(i + 2) / static_cast<double>(i + 1));
      ti_bi += t * std::log(all.p[i] / all.p[i + 1]);
      ti_sq += t * t;
    }
    const double s = ti_bi / ti_sq;
    const double e = s - 1.0;
    const double k = std::pow(
        e * std::pow(2.0, mu_) / (1.0 - std::pow(static_cast<double>(vocab), -e)), 1.0 / s);
    return k < 1e6 ? std::max<std::size_t>(1, static_cast<std::size_t>(k)) : 1000000;
  }

  int version_;
  double tau_;
  double eta_;
  std::uint64_t seed_;
  double mu_;
};

TEST(SamplerGolden, MirostatIsThatOfLlama) {
  for (const int version : {1, 2}) {
    for (const double tau : {0.5, 2.0, 3.5, 7.0}) {
      MirostatReference reference(version, tau, 0.1, 9);
      Sampler sampler =
          Sampler::make({.mirostat = version, .mirostat_tau = tau, .seed = 9}, 300).value();
      sampler.observe(Tokens{1, 2, 3});
      double least = 1e9;
      double most = 0.0;
      for (Index position = 3; position < 400; ++position) {
        const auto logits = some_logits(static_cast<std::uint64_t>(position), 300);
        const Token token = reference.sample(logits, position);
        Sampler copy = sampler;
        ASSERT_EQ(sampler.sample(logits, position), token) << version << ' ' << position;
        ASSERT_EQ(sampler.sample(logits, position), token) << "drawing twice is drawing once";
        ASSERT_EQ(copy.sample(logits, position), token);
        if (position % 3 == 0) sampler = copy;
        sampler.observe({&token, 1});
        least = std::min(least, reference.mu());
        most = std::max(most, reference.mu());
      }
      EXPECT_GT(most - least, 0.2) << "or it is nothing that was compared";
    }
  }
}

// Tokens that were put into the text without a draw leave μ as it is; so does every second token of
// several that come at once.
TEST(SamplerGolden, MirostatLearnsFromDrawsAlone) {
  const SamplerOptions options{.mirostat = 2, .mirostat_tau = 2.0, .mirostat_eta = 1.0, .seed = 1};
  const auto logits = some_logits(6, 300);
  Sampler drawn = Sampler::make(options, 300).value();
  Sampler given = drawn;
  const Token token = drawn.sample(logits, 0);
  drawn.observe({&token, 1});
  given.observe({&token, 1});
  const auto left = [&](Sampler& sampler) {
    return sampler.best(logits, 1, 300, TokenMask(300)).size();
  };
  const std::size_t before = left(given);
  EXPECT_NE(left(drawn), before);
  drawn = Sampler::make(options, 300).value();
  EXPECT_EQ(left(drawn), before);
}

TEST(SamplerGolden, RefusesWhatNoPeerWouldTake) {
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  constexpr double inf = std::numeric_limits<double>::infinity();
  const std::pair<SamplerOptions, const char*> cases[] = {
      {{.dry_multiplier = -1.0}, "dry multiplier: expected a number of at least 0, found -1"},
      {{.dry_multiplier = inf}, "dry multiplier"},
      {{.dry_base = 0.5}, "dry base: expected a number of at least 1, found 0.5"},
      {{.dry_allowed_length = 0},
       "dry allowed length: expected a number from 1 to 1048576, found 0"},
      {{.dry_penalty_last_n = -1}, "dry penalty last n"},
      {{.dry_sequence_breakers = {{}}}, "dry sequence breakers: expected at least one token"},
      {{.dry_sequence_breakers = {{99}}}, "dry sequence breakers: expected tokens from 0 to 49"},
      {{.bad_words = {{1}, {}}}, "bad words: expected at least one token in each, found none"},
      {{.bad_words = {{1, 50}}}, "bad words: expected tokens from 0 to 49, found 50"},
      {{.min_length = 4}, "min-length: expected tokens that end a text, found none"},
      {{.min_length = -4}, "min-length: expected a number of at least 0, found -4"},
      {{.eos_tokens = {50}}, "end-of-text token: expected 0 to 49, found 50"},
      {{.top_n_sigma = -1.0}, "top-n-sigma: expected a number of at least 0, found -1"},
      {{.dynatemp_range = -1.0}, "dynatemp range"},
      {{.dynatemp_exponent = nan}, "dynatemp exponent"},
      {{.epsilon_cutoff = 1.0},
       "epsilon cutoff: expected a number of at least 0 and below 1, found 1"},
      {{.eta_cutoff = nan}, "eta cutoff"},
      {{.xtc_probability = 1.5}, "xtc probability: expected a number from 0 to 1, found 1.5"},
      {{.xtc_threshold = 0.0}, "xtc threshold"},
      {{.mirostat = 3}, "mirostat: expected 0, 1 or 2, found 3"},
      {{.mirostat_tau = -1.0}, "mirostat tau: expected a number from 0 to 100, found -1"},
      {{.mirostat_eta = 2.0}, "mirostat eta: expected a number from 0 to 1, found 2"},
      {{.top_k = 5, .mirostat = 2},
       "mirostat: expected no other step that takes tokens out, found 'top_k'"},
      {{.xtc_probability = 0.5, .mirostat = 1}, "found 'xtc'"},
  };
  for (const auto& [options, message] : cases) {
    const auto sampler = Sampler::make(options, 50);
    ASSERT_FALSE(sampler) << message;
    EXPECT_EQ(sampler.error().code, ErrorCode::bad_argument);
    EXPECT_NE(sampler.error().message.find(std::string("[sampler] ") +
                                           (message[0] == 'f' ? "mirostat" : message)),
              std::string::npos)
        << sampler.error().message;
    EXPECT_NE(sampler.error().message.find(message), std::string::npos);
  }
}

TEST(Sampler, NamesTheBestThatAreLeft) {
  const auto logits = some_logits(3);
  Sampler sampler = Sampler::make({.logit_bias = {{4, never}}, .temperature = 0.5}, 80).value();
  TokenMask mask(80);
  mask.forbid(7);
  const auto best = sampler.best(logits, 0, 80, mask);
  ASSERT_EQ(best.size(), 78U);
  for (std::size_t i = 0; i < best.size(); ++i) {
    EXPECT_TRUE(best[i].token != 4 && best[i].token != 7);
    EXPECT_DOUBLE_EQ(best[i].logit,
                     2.0 * static_cast<double>(logits[static_cast<std::size_t>(best[i].token)]));
    EXPECT_TRUE(i == 0 || best[i].logit <= best[i - 1].logit);
  }
  EXPECT_EQ(sampler.best(logits, 0, 3, mask).size(), 3U);
  mask.forbid_all();
  EXPECT_TRUE(sampler.best(logits, 0, 3, mask).empty());
}

}  // namespace
}  // namespace krait::sampler_golden_test
