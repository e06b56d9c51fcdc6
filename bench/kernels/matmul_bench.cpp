// Prefill and verification: several tokens, one thread. The limit is the multiply-add rate, for
// few tokens the read bandwidth.

#include "krait/kernels/matmul.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "bench/kernels/inexact_matmul.hpp"
#include "bench/support.hpp"
#include "krait/kernels/ref/matmul.hpp"
#include "krait/kernels/ref/matmul_panels.hpp"

namespace krait::bench {
namespace {

// Whether kernel(args) and model(args) agree; compares the first and the last rows only: the model
// is slow.
template <class Args>
bool equals_model(Args args, void (*kernel)(const Args&) noexcept,
                  void (*model)(const Args&) noexcept) {
  const Index tokens = args.y.rows;
  const auto size = static_cast<std::size_t>(tokens * args.W.rows);
  std::vector<float> expected(size);
  std::vector<float> actual(size);
  args.y.data = actual.data();
  kernel(args);
  const Index count = std::min<Index>(args.W.rows, 20);
  for (const Index begin : {Index{0}, args.W.rows - count}) {
    args.y.data = expected.data();
    args.outputs = {begin, begin + count};
    model(args);
    for (Index t = 0; t < tokens; ++t) {
      const auto at = static_cast<std::size_t>(t * args.W.rows + begin);
      const auto bytes = static_cast<std::size_t>(count) * sizeof(float);
      if (std::memcmp(&expected[at], &actual[at], bytes) != 0) return false;
    }
  }
  return true;
}

void run(benchmark::State& state, MatrixShape shape, DType dtype, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  const auto x = random_values(tokens * shape.cols, 1);
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  RotatingWeights weights(dtype, shape.rows, shape.cols);
  kernels::MatmulArgs args{.W = weights.next(),
                           .x = {x.data(), tokens, shape.cols},
                           .y = {y.data(), tokens, shape.rows},
                           .outputs = {0, shape.rows}};
  if (!equals_model(args, kernels::matmul, ref::matmul)) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    args.W = weights.next();
    kernels::matmul(args);
    benchmark::ClobberMemory();
  }
  count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
}

// The same product with packed tokens, packing included.
void run_packed(benchmark::State& state, MatrixShape shape, DType dtype, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  const auto x = random_values(tokens * shape.cols, 1);
  std::vector<float> packed(static_cast<std::size_t>(tokens * round_up(shape.cols, 16)));
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  RotatingWeights weights(dtype, shape.rows, shape.cols);
  kernels::MatmulArgs args{.W = weights.next(),
                           .x = {x.data(), tokens, shape.cols},
                           .y = {y.data(), tokens, shape.rows},
                           .outputs = {0, shape.rows},
                           .packed = packed.data()};
  kernels::pack_tokens(args.x, packed.data());
  if (!equals_model(args, kernels::matmul_packed, ref::matmul)) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    args.W = weights.next();
    kernels::pack_tokens(args.x, packed.data());
    kernels::matmul_packed(args);
    benchmark::ClobberMemory();
  }
  count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
}

// The same product from packed operands, packing included.
void run_panels(benchmark::State& state, MatrixShape shape, DType dtype, Isa isa, Index tokens,
                kernels::LaneOrder order) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  const auto values = random_values(tokens * shape.cols, 1);
  const MatrixView<const float> x(values.data(), tokens, shape.cols);
  std::vector<float> packed(
      static_cast<std::size_t>(kernels::PanelActivations::floats(order, tokens, shape.cols)));
  std::vector<float> panels(static_cast<std::size_t>(kernels::panel_block(order, shape.cols) / 16 *
                                                     kernels::panel_floats(order, shape.cols)));
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  RotatingWeights weights(dtype, shape.rows, shape.cols);
  kernels::MatmulPanelsArgs args{.W = weights.next(),
                                 .x = {packed.data(), tokens, shape.cols, order},
                                 .y = {y.data(), tokens, shape.rows},
                                 .outputs = {0, shape.rows},
                                 .panels = panels};
  kernels::pack_activations(x, {0, tokens}, args.x);
  if (!equals_model(args, kernels::matmul_panels, ref::matmul_panels)) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    args.W = weights.next();
    kernels::pack_activations(x, {0, tokens}, args.x);
    kernels::matmul_panels(args);
    benchmark::ClobberMemory();
  }
  count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
}

// The same product in whatever order is fastest: what exactness costs.
void run_inexact(benchmark::State& state, MatrixShape shape, Isa isa, Index tokens) {
  SerialExecutor serial;
  const auto W = random_values(shape.rows * shape.cols, 2);
  const auto x = random_values(tokens * shape.cols, 1);
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  std::vector<float> exact(y.size());
  const PackedWeights packed(W.data(), shape.rows, shape.cols, isa);
  packed.matmul({x.data(), tokens, shape.cols}, {y.data(), tokens, shape.rows});
  kernels::matmul({.W = {W.data(), DType::f32, shape.rows, shape.cols},
                   .x = {x.data(), tokens, shape.cols},
                   .y = {exact.data(), tokens, shape.rows},
                   .outputs = {0, shape.rows}});
  for (std::size_t i = 0; i < y.size(); ++i) {
    if (!(std::abs(y[i] - exact[i]) < 1e-4F)) return state.SkipWithError("wrong result");
  }
  for (auto _ : state) {
    packed.matmul({x.data(), tokens, shape.cols}, {y.data(), tokens, shape.rows});
    benchmark::ClobberMemory();
  }
  count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
}

// A benchmark kind/matrix/type/instruction set/tokens.
template <class... Arguments>
void add(const std::string& kind, const MatrixShape& shape, DType dtype, Isa isa, Index tokens,
         Arguments&&... arguments) {
  const std::string name = kind + '/' + shape.name + '/' + std::string(to_string(dtype)) + '/' +
                           std::string(to_string(isa)) + '/' + std::to_string(tokens);
  benchmark::RegisterBenchmark(name.c_str(), std::forward<Arguments>(arguments)...)
      ->UseRealTime()
      ->MinTime(0.1);
}

void add_panels(const std::string& kind, const MatrixShape& shape, DType dtype, Isa isa,
                kernels::LaneOrder order) {
  for (const Index tokens : {16, 24, 64, 256}) {
    add(kind, shape, dtype, isa, tokens, run_panels, shape, dtype, isa, tokens, order);
  }
}

}  // namespace

void register_benchmarks() {
  for (const MatrixShape& shape : mamba_130m) {
    for (const Isa isa : benchmarked_isas()) {
      if ((isa != Isa::avx2 && isa != Isa::avx512) || shape.rows % 32 != 0) continue;
      add("matmul_inexact", shape, DType::f32, isa, 256, run_inexact, shape, isa, 256);
    }
  }
  for (const MatrixShape& shape : mamba_130m) {
    for (const DType dtype : weight_types) {
      for (const Isa isa : benchmarked_isas()) {
        if (isa > Isa::avx512) continue;  // those of avx512
        add_panels("matmul_panels", shape, dtype, isa, kernels::LaneOrder::single);
        if (dtype == DType::bf16) {
          add_panels("matmul_panels_bf16", shape, dtype, isa, kernels::LaneOrder::pairs);
        }
        for (const Index tokens : {2, 3, 4, 5, 6, 8, 16}) {
          add("matmul_packed", shape, dtype, isa, tokens, run_packed, shape, dtype, isa, tokens);
        }
        for (const Index tokens : {1, 2, 3, 4, 5, 6, 8, 16, 64, 256}) {
          add("matmul", shape, dtype, isa, tokens, run, shape, dtype, isa, tokens);
        }
      }
    }
  }
}

}  // namespace krait::bench
