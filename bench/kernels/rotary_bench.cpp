// The rotary embedding of the queries of one layer. One item is one element.

#include "krait/kernels/rotary.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/rotary.hpp"

namespace krait::bench {
namespace {

void run(benchmark::State& state, Isa isa, Index tokens, bool interleaved) {
  constexpr Index heads = 32;
  constexpr Index d_head = 64;
  const ForcedIsa forced(isa);
  const auto frequencies = kernels::rotary_frequencies(10000.0, d_head);
  auto expected = random_values(tokens * heads * d_head, 1);
  auto x = expected;
  kernels::RotaryArgs args{.x = {expected.data(), tokens, heads * d_head},
                           .position = 1000,
                           .d_head = d_head,
                           .frequencies = frequencies,
                           .interleaved = interleaved};
  ref::rotary(args);
  args.x.data = x.data();
  kernels::rotary(args);
  if (std::memcmp(expected.data(), x.data(), x.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    kernels::rotary(args);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens * heads * d_head);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Index tokens : {1, 256}) {
      const std::string suffix = '/' + std::string(to_string(isa)) + '/' + std::to_string(tokens);
      benchmark::RegisterBenchmark(("rotary/halves" + suffix).c_str(), run, isa, tokens, false)
          ->MinTime(0.1);
      benchmark::RegisterBenchmark(("rotary/neighbours" + suffix).c_str(), run, isa, tokens, true)
          ->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
