// One draw of a token, for the usual chains of steps and the vocabulary of mamba-130m.

#include "krait/decoding/sampler.hpp"

#include <algorithm>
#include <string>

#include "bench/support.hpp"

namespace krait::bench {
namespace {

constexpr Index vocab = 50280;

// About as wide as a model's: the best token has a tenth of the probability.
std::vector<float> logits(std::uint64_t seed) {
  std::vector<float> sum(static_cast<std::size_t>(vocab));
  for (std::uint64_t part = 0; part < 4; ++part) {
    const auto x = random_values(vocab, 4 * seed + part);
    for (std::size_t i = 0; i < sum.size(); ++i) sum[i] += 3.0F * x[i];
  }
  return sum;
}

void run_sampler(benchmark::State& state, const SamplerOptions& options) {
  Sampler sampler = Sampler::make(options, vocab).value();
  std::vector<Token> text;
  for (Token i = 0; i < 1000; ++i) text.push_back((i * i / 7) % 50);
  sampler.observe(text);
  sampler.observe(std::vector<Token>{1, 2, 3, 2, 1});
  std::vector<std::vector<float>> rows;
  for (std::uint64_t seed = 0; seed < 8; ++seed) rows.push_back(logits(seed));
  TokenMask all(vocab);
  for (Index i = 0; i < 8; ++i) {
    const auto& row = rows[static_cast<std::size_t>(i)];
    if (sampler.sample(row, i) != sampler.sample(row, i, all)) {
      return state.SkipWithError("a mask that allows all changes the token");
    }
  }
  Index position = 0;
  for (auto _ : state) {
    const auto& row = rows[static_cast<std::size_t>(position % 8)];
    benchmark::DoNotOptimize(sampler.sample(row, position++));
  }
}

}  // namespace

void register_benchmarks() {
  const std::pair<const char*, SamplerOptions> cases[] = {
      {"greedy", {.greedy = true}},
      {"temperature_0", {.temperature = 0.0}},
      {"plain", {}},
      {"top_k_40_top_p", {.top_k = 40, .top_p = 0.95}},
      {"temperature_top_k_40_top_p", {.temperature = 0.8, .top_k = 40, .top_p = 0.95}},
      {"penalties_top_k_40_top_p", {.repetition_penalty = 1.1, .top_k = 40, .top_p = 0.95}},
      {"top_p", {.top_p = 0.95}},
      {"min_p", {.min_p = 0.05}},
      {"typical_p", {.typical_p = 0.9}},
      {"dry_top_k_40", {.dry_multiplier = 0.8, .dry_penalty_last_n = 1024, .top_k = 40}},
      {"bad_words_top_k_40", {.bad_words = {{5}, {2, 1, 7}, {9, 9, 9}}, .top_k = 40}},
      {"top_n_sigma", {.top_n_sigma = 1.0}},
      {"dynamic_temperature", {.temperature = 0.8, .dynatemp_range = 0.5}},
      {"epsilon_cutoff", {.epsilon_cutoff = 3e-4}},
      {"eta_cutoff", {.eta_cutoff = 3e-4}},
      {"top_k_40_xtc", {.top_k = 40, .xtc_probability = 0.5}},
      {"mirostat_1", {.mirostat = 1}},
      {"mirostat_2", {.mirostat = 2}},
  };
  for (const auto& [name, options] : cases) {
    const std::string full = std::string("sampler/") + name;
    benchmark::RegisterBenchmark(full.c_str(), run_sampler, options)->MinTime(0.1);
  }
}

}  // namespace krait::bench
