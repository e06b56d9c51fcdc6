// The convolution of mamba-130m: rows of in_proj's output in, rows of u out. A decoding step takes
// its operands from another layer's memory each time.

#include "krait/kernels/conv1d.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/conv1d.hpp"

namespace krait::bench {
namespace {

constexpr Index channels = 1536;
constexpr Index d_conv = 4;

void run(benchmark::State& state, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  const Index layers = tokens == 1 ? 256 : 1;  // 256 layers: 19 MB of weights and states
  const auto x = random_values(tokens * 2 * channels, 1);
  const auto weight = random_values(layers * d_conv * channels, 2);
  const auto bias = random_values(channels, 3);
  auto states = random_values(layers * (d_conv - 1) * channels, 4);
  auto state_of_model = states;
  std::vector<float> y(static_cast<std::size_t>(tokens * channels));
  std::vector<float> expected(y.size());
  kernels::Conv1dArgs args{.x = {x.data(), tokens, channels, 2 * channels},
                           .weight = weight.data(),
                           .bias = bias.data(),
                           .d_conv = d_conv,
                           .state = state_of_model.data(),
                           .y = {expected.data(), tokens, channels},
                           .channels = {0, channels}};
  ref::conv1d_silu(args);
  args.state = states.data();
  args.y.data = y.data();
  kernels::conv1d_silu(args);
  if (std::memcmp(expected.data(), y.data(), y.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  Index layer = 0;
  for (auto _ : state) {
    args.weight = weight.data() + layer * d_conv * channels;
    args.state = states.data() + layer * (d_conv - 1) * channels;
    layer = layer + 1 == layers ? 0 : layer + 1;
    kernels::conv1d_silu(args);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens * channels);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Index tokens : {1, 256}) {
      const std::string name =
          "conv1d_silu/" + std::string(to_string(isa)) + '/' + std::to_string(tokens);
      benchmark::RegisterBenchmark(name.c_str(), run, isa, tokens)->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
