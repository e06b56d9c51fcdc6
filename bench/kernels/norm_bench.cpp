// Norms of rows as wide as mamba-130m's.

#include "krait/kernels/norm.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/norm.hpp"

namespace krait::bench {
namespace {

using Norm = void (*)(const kernels::NormArgs&) noexcept;

void run(benchmark::State& state, Norm kernel, Norm model, Isa isa, Index tokens) {
  constexpr Index d = 768;
  const ForcedIsa forced(isa);
  const auto x = random_values(tokens * d, 1);
  const auto weight = random_values(d, 2);
  std::vector<float> expected(x.size());
  std::vector<float> y(x.size());
  kernels::NormArgs args{
      .x = {x.data(), tokens, d}, .weight = weight.data(), .y = {expected.data(), tokens, d}};
  model(args);
  args.y.data = y.data();
  kernel(args);
  if (std::memcmp(expected.data(), y.data(), x.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    kernel(args);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens * d);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Index tokens : {1, 256}) {
      const std::string suffix = '/' + std::string(to_string(isa)) + '/' + std::to_string(tokens);
      benchmark::RegisterBenchmark(("rms_norm" + suffix).c_str(), run, kernels::rms_norm,
                                   ref::rms_norm, isa, tokens)
          ->MinTime(0.1);
      benchmark::RegisterBenchmark(("layer_norm" + suffix).c_str(), run, kernels::layer_norm,
                                   ref::layer_norm, isa, tokens)
          ->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
