// The search for codewords that encodes additively quantised weights, from the L1 and L2 caches, as
// the encoder calls it: for one group of weights after another, hypotheses beside all codewords of
// a codebook. An item is one call.
//
// Percent of the multiply-add peak, of which group + 1 for each pair. A pair also takes an addition
// and a comparison, a half of what 8 multiply-adds take, and every pair that is among the best so
// far is put in its place one by one: with 16 codewords half of all pairs are.

#include "krait/kernels/codeword_search.hpp"

#include "bench/support.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/kernels/ref/codeword_search.hpp"

namespace krait::bench {
namespace {

using kernels::CodewordChoice;
using kernels::CodewordSearchArgs;

struct Search {
  const char* name;
  Index hypotheses;
  Index codewords;
  Index group;
  Index keep;
};

constexpr Search searches[] = {
    {"kmeans_16", 1, 16, 8, 1},          {"kmeans_256", 1, 256, 8, 1},
    {"kmeans_65536", 1, 65536, 8, 1},    {"4bit_beam_8", 8, 16, 8, 8},
    {"4bit_beam_32", 32, 16, 8, 32},     {"4bit_g16_beam_8", 8, 16, 16, 8},
    {"8bit_first_beam_8", 1, 256, 8, 8}, {"8bit_beam_8", 8, 256, 8, 8},
    {"8bit_beam_32", 32, 256, 8, 32},    {"8bit_g16_beam_8", 8, 256, 16, 8},
};

// Groups of weights that are searched for one after the other, so that no branch is learned.
constexpr Index groups = 64;

std::vector<float> squared_norms(std::span<const float> values, Index vectors, Index size,
                                 Index step, Index stride) {
  std::vector<float> norms(static_cast<std::size_t>(vectors));
  for (Index i = 0; i < vectors; ++i) {
    for (Index d = 0; d < size; ++d) {
      const float value = values[static_cast<std::size_t>(i * step + d * stride)];
      norms[static_cast<std::size_t>(i)] += value * value;
    }
  }
  return norms;
}

void run(benchmark::State& state, Isa isa, const Search& search) {
  const ForcedIsa forced(isa);
  const Index rows = groups * search.hypotheses;
  const auto residuals = random_values(rows * search.group, 1);
  const auto codewords = random_values(search.group * search.codewords, 2);
  const auto costs = squared_norms(residuals, rows, search.group, search.group, 1);
  const auto norms = squared_norms(codewords, search.codewords, search.group, 1, search.codewords);
  const auto args_of = [&](Index group) -> CodewordSearchArgs {
    const Index first = group * search.hypotheses;
    return {.residuals = {residuals.data() + first * search.group, search.hypotheses, search.group},
            .costs = costs.data() + first,
            .codewords = {codewords.data(), search.group, search.codewords},
            .norms = norms.data(),
            .keep = search.keep};
  };
  std::vector<CodewordChoice> best(static_cast<std::size_t>(search.keep));
  std::vector<CodewordChoice> expected(best.size());
  for (Index group = 0; group < groups; ++group) {
    const Index found = kernels::search_codewords(args_of(group), best.data());
    if (found != ref::search_codewords(args_of(group), expected.data()) || best != expected) {
      return state.SkipWithError("differs from the model");
    }
  }
  Index group = 0;
  for (auto _ : state) {
    kernels::search_codewords(args_of(group), best.data());
    benchmark::ClobberMemory();
    group = (group + 1) % groups;
  }
  count_items(state, 1);
  SerialExecutor serial;
  count_fma(state, static_cast<double>(search.hypotheses * search.codewords * (search.group + 1)),
            isa, serial);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Search& search : searches) {
      const std::string name = "codeword_search/" + std::string(to_string(isa)) + '/' + search.name;
      benchmark::RegisterBenchmark(name.c_str(), run, isa, search)->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
