// Softmax over the vocabulary and over a few experts.

#include "krait/kernels/softmax.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/softmax.hpp"

namespace krait::bench {
namespace {

std::vector<float> logits(Index n) {
  auto x = random_values(n, 1);
  for (float& value : x) value *= 10.0F;
  return x;
}

void run_softmax(benchmark::State& state, Isa isa, Index n) {
  const ForcedIsa forced(isa);
  const auto x = logits(n);
  std::vector<float> expected(x.size());
  std::vector<float> y(x.size());
  ref::softmax(x, expected);
  kernels::softmax(x, y);
  if (std::memcmp(expected.data(), y.data(), x.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    kernels::softmax(x, y);
    benchmark::ClobberMemory();
  }
  count_items(state, n);
}

void run_log_sum_exp(benchmark::State& state, Isa isa, Index n) {
  const ForcedIsa forced(isa);
  const auto x = logits(n);
  if (kernels::log_sum_exp(x) != ref::log_sum_exp(x)) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) benchmark::DoNotOptimize(kernels::log_sum_exp(x));
  count_items(state, n);
}

void run_argmax(benchmark::State& state, Isa isa, Index n) {
  const ForcedIsa forced(isa);
  const auto x = logits(n);
  if (kernels::argmax(x) != ref::argmax(x)) return state.SkipWithError("differs from the model");
  for (auto _ : state) benchmark::DoNotOptimize(kernels::argmax(x));
  count_items(state, n);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Index n : {32, 50280}) {
      const std::string suffix = '/' + std::string(to_string(isa)) + '/' + std::to_string(n);
      benchmark::RegisterBenchmark(("softmax" + suffix).c_str(), run_softmax, isa, n)->MinTime(0.1);
      benchmark::RegisterBenchmark(("log_sum_exp" + suffix).c_str(), run_log_sum_exp, isa, n)
          ->MinTime(0.1);
      benchmark::RegisterBenchmark(("argmax" + suffix).c_str(), run_argmax, isa, n)->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
