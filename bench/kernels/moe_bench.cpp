// The choice of experts. One item is one token. What is beside softmax is a search for the largest
// of a few dozen scores.

#include "krait/kernels/moe.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/moe.hpp"

namespace krait::bench {
namespace {

using kernels::RouterScore;

struct Router {
  const char* name;
  RouterScore score;
  Index n_expert;
  Index top_k;
  bool normalize;
};

constexpr Router routers[] = {{"switch_8", RouterScore::softmax, 8, 1, false},
                              {"switch_42", RouterScore::softmax, 42, 1, false},
                              {"jamba_16", RouterScore::softmax, 16, 2, false},
                              {"granite_72", RouterScore::softmax_of_chosen, 72, 10, false},
                              {"nemotron_128", RouterScore::sigmoid, 128, 6, true}};

constexpr Index tokens = 64;

void run(benchmark::State& state, Isa isa, const Router& router) {
  const ForcedIsa forced(isa);
  const Index size = tokens * router.n_expert;
  auto logits = random_values(size, 1);
  for (float& value : logits) value *= 4.0F;
  std::vector<float> expected(logits.size());
  std::vector<float> gates(logits.size());
  kernels::RouteArgs args{.logits = {logits.data(), tokens, router.n_expert},
                          .score = router.score,
                          .top_k = router.top_k,
                          .normalize = router.normalize,
                          .gates = {expected.data(), tokens, router.n_expert}};
  ref::route(args);
  args.gates.data = gates.data();
  kernels::route(args);
  if (std::memcmp(expected.data(), gates.data(), gates.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    kernels::route(args);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Router& router : routers) {
      const std::string name = "route/" + std::string(to_string(isa)) + '/' + router.name;
      benchmark::RegisterBenchmark(name.c_str(), run, isa, router)->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
