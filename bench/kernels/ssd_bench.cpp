// The recurrence of mamba2-130m. One item is one head at one token. A prompt is limited by the
// three products and fused products that the contract's expression takes per state, a few tokens
// by reading and writing the states, which memory has to supply.

#include "krait/kernels/ssd.hpp"

#include <algorithm>
#include <cmath>

#include "bench/support.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/ref/ssd.hpp"

namespace krait::bench {
namespace {

constexpr Index n_head = 24;
constexpr Index head_dim = 64;
constexpr Index d_state = 128;
constexpr Index d_inner = n_head * head_dim;
constexpr Index conv_dim = d_inner + 2 * d_state;
constexpr Index in_proj_row = d_inner + conv_dim + n_head;
constexpr Index layer_size = d_inner * d_state;
constexpr double fma_per_state = 3.0;

using Scan = void (*)(const kernels::SsdScanArgs&) noexcept;

// States beyond the last-level cache, as those of a whole model beside its weights are.
Index layers_beyond_caches() {
  return 4 * last_level_cache_bytes() / (layer_size * static_cast<Index>(sizeof(float))) + 1;
}

// As in a model, where the allocator of vectors would put them across cache lines.
AlignedBuffer<float> aligned(const std::vector<float>& values) {
  AlignedBuffer<float> result(static_cast<Index>(values.size()));
  std::copy(values.begin(), values.end(), result.data());
  return result;
}

struct Problem {
  Index tokens;
  Index layers;
  AlignedBuffer<float> xBC = aligned(random_values(tokens * conv_dim, 1));
  std::vector<float> in_proj = random_values(tokens * in_proj_row, 2);
  std::vector<float> A = random_values(n_head, 3);
  std::vector<float> D = random_values(n_head, 4);
  AlignedBuffer<float> state = aligned(random_values(layers * layer_size, 5));
  std::vector<float> y = std::vector<float>(static_cast<std::size_t>(tokens * d_inner));

  kernels::SsdScanArgs args(Index layer) {
    for (float& value : A) value = -std::abs(value);
    return {.x = {xBC.data(), tokens, d_inner, conv_dim},
            .dt_raw = {in_proj.data() + d_inner + conv_dim, tokens, n_head, in_proj_row},
            .B = {xBC.data() + d_inner, tokens, d_state, conv_dim},
            .C = {xBC.data() + d_inner + d_state, tokens, d_state, conv_dim},
            .A = A.data(),
            .dt_bias = D.data(),
            .D = D.data(),
            .state = state.data() + layer * layer_size,
            .n_head = n_head,
            .head_dim = head_dim,
            .d_state = d_state,
            .y = {y.data(), tokens, d_inner},
            .heads = {0, n_head}};
  }
};

// Fewer tokens than these take less time than the transfer of the state.
constexpr Index tokens_beyond_memory = 16;

void run(benchmark::State& state, Isa isa, Index tokens, Scan scan) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  Problem problem{.tokens = tokens,
                  .layers = tokens < tokens_beyond_memory ? layers_beyond_caches() : 1};
  Problem expected{.tokens = tokens, .layers = 1};
  ref::ssd_scan(expected.args(0));
  scan(problem.args(0));
  if (expected.y != problem.y ||
      !std::equal(expected.state.data(), expected.state.data() + layer_size,
                  problem.state.data())) {
    return state.SkipWithError("differs from the model");
  }
  Index layer = 0;
  auto args = problem.args(0);
  for (auto _ : state) {
    args.state = problem.state.data() + layer * layer_size;
    layer = layer + 1 == problem.layers ? 0 : layer + 1;
    scan(args);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens * n_head);
  if (tokens < tokens_beyond_memory) {
    count_bytes(state, 2 * layer_size * static_cast<Index>(sizeof(float)), serial);
  } else {
    count_fma(state, fma_per_state * static_cast<double>(tokens * layer_size), isa, serial);
  }
}

// The plain order: each token passes over the states of a head.
void token_by_token(const kernels::SsdScanArgs& args) noexcept {
  for (Index t = 0; t < args.x.rows; ++t) {
    auto step = args;
    step.x = args.x.rows_from(t, 1);
    step.dt_raw = args.dt_raw.rows_from(t, 1);
    step.B = args.B.rows_from(t, 1);
    step.C = args.C.rows_from(t, 1);
    step.y = args.y.rows_from(t, 1);
    kernels::ssd_scan(step);
  }
}

// The limit of a few tokens: every state is read, multiplied and written.
void scale_states(benchmark::State& state) {
  SerialExecutor serial;
  const Index layers = layers_beyond_caches();
  AlignedBuffer<float> values = aligned(random_values(layers * layer_size, 1));
  Index layer = 0;
  for (auto _ : state) {
    float* p = values.data() + layer * layer_size;
    layer = layer + 1 == layers ? 0 : layer + 1;
    for (Index i = 0; i < layer_size; ++i) p[i] *= 0.999F;
    benchmark::ClobberMemory();
  }
  count_items(state, n_head);
  count_bytes(state, 2 * layer_size * static_cast<Index>(sizeof(float)), serial);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    const std::string name = "ssd/" + std::string(to_string(isa)) + '/';
    for (const Index tokens : {1, 4, 16, 256}) {
      const std::string full = name + std::to_string(tokens);
      benchmark::RegisterBenchmark(full.c_str(), run, isa, tokens, kernels::ssd_scan)->MinTime(0.1);
    }
    benchmark::RegisterBenchmark((name + "256/token_by_token").c_str(), run, isa, 256,
                                 token_by_token)
        ->MinTime(0.1);
  }
  benchmark::RegisterBenchmark("ssd/limit_of_memory", scale_states)->MinTime(0.1);
}

}  // namespace krait::bench
