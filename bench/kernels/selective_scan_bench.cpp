// The recurrence of mamba-130m. One item is one state of one channel at one token; the limit is the
// multiply-add rate for the 11 products and fused products that the contract's expression takes.

#include "krait/kernels/selective_scan.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/selective_scan.hpp"

namespace krait::bench {
namespace {

constexpr Index d_inner = 1536;
constexpr Index d_state = 16;
constexpr Index x_proj_row = 80;  // dt_rank + 2 d_state

// dt·A, the power of two (7), (dt·u)·B and the two updates.
constexpr double fma_per_item = 11.0;

void run(benchmark::State& state, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  const Index layers = tokens == 1 ? 128 : 1;  // 128 layers: 25 MB of A and states
  const Index block = kernels::scan_size(d_inner, d_state);
  const auto u = random_values(tokens * d_inner, 1);
  auto dt = random_values(tokens * d_inner, 2);
  for (float& value : dt) value = 3.0F * value - 3.0F;
  const auto xz = random_values(tokens * 2 * d_inner, 3);
  const auto x_proj = random_values(tokens * x_proj_row, 4);
  const auto D = random_values(d_inner, 5);
  auto A = random_values(layers * block, 6);
  for (float& value : A) value = 8.0F * value - 8.1F;
  auto h = random_values(layers * block, 7);
  auto h_of_model = h;
  std::vector<float> y(u.size());
  std::vector<float> expected(u.size());
  kernels::SelectiveScanArgs args{.u = {u.data(), tokens, d_inner},
                                  .dt_raw = {dt.data(), tokens, d_inner},
                                  .B = {x_proj.data() + 48, tokens, d_state, x_proj_row},
                                  .C = {x_proj.data() + 64, tokens, d_state, x_proj_row},
                                  .z = {xz.data() + d_inner, tokens, d_inner, 2 * d_inner},
                                  .A = A.data(),
                                  .D = D.data(),
                                  .h = h_of_model.data(),
                                  .d_state = d_state,
                                  .y = {expected.data(), tokens, d_inner},
                                  .channels = {0, d_inner}};
  ref::selective_scan(args);
  args.h = h.data();
  args.y.data = y.data();
  kernels::selective_scan(args);
  if (std::memcmp(expected.data(), y.data(), y.size() * sizeof(float)) != 0) {
    return state.SkipWithError("differs from the model");
  }
  Index layer = 0;
  for (auto _ : state) {
    args.A = A.data() + layer * block;
    args.h = h.data() + layer * block;
    layer = layer + 1 == layers ? 0 : layer + 1;
    kernels::selective_scan(args);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens * d_inner * d_state);
  count_fma(state, fma_per_item * static_cast<double>(tokens * d_inner * d_state), isa, serial);
}

}  // namespace

void register_benchmarks() {
  for (const Isa isa : benchmarked_isas()) {
    for (const Index tokens : {1, 16, 256}) {
      const std::string name =
          "selective_scan/" + std::string(to_string(isa)) + '/' + std::to_string(tokens);
      benchmark::RegisterBenchmark(name.c_str(), run, isa, tokens)->MinTime(0.1);
    }
  }
}

}  // namespace krait::bench
