// Prefill and verification: several tokens, one thread. The limit is the multiply-add rate, for
// few tokens the read bandwidth.

#include "krait/kernels/matmul.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "bench/kernels/inexact_matmul.hpp"
#include "bench/support.hpp"
#include "krait/kernels/ref/matmul.hpp"
#include "krait/kernels/ref/matmul_panels.hpp"

namespace krait::bench {
namespace {

// Compares the first and the last rows only: the model is slow.
bool equals_model(kernels::MatmulArgs args) {
  const auto size = static_cast<std::size_t>(args.x.rows * args.W.rows);
  std::vector<float> expected(size);
  std::vector<float> actual(size);
  args.y.data = actual.data();
  kernels::matmul(args);
  const Index count = std::min<Index>(args.W.rows, 20);
  for (const Index begin : {Index{0}, args.W.rows - count}) {
    args.y.data = expected.data();
    args.outputs = {begin, begin + count};
    ref::matmul(args);
    for (Index t = 0; t < args.x.rows; ++t) {
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
  if (!equals_model(args)) return state.SkipWithError("differs from the model");
  for (auto _ : state) {
    args.W = weights.next();
    kernels::matmul(args);
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
  std::vector<float> panels(std::size_t{48} << 10);
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  RotatingWeights weights(dtype, shape.rows, shape.cols);
  kernels::MatmulPanelsArgs args{.W = weights.next(),
                                 .x = {packed.data(), tokens, shape.cols, order},
                                 .y = {y.data(), tokens, shape.rows},
                                 .outputs = {0, shape.rows},
                                 .panels = panels};
  const auto multiply = [&] {
    kernels::pack_activations(x, {0, tokens}, args.x);
    kernels::matmul_panels(args);
  };
  multiply();
  const std::vector<float> result = y;
  y.assign(y.size(), 0.0F);
  args.outputs = {0, std::min<Index>(shape.rows, 20)};
  ref::matmul_panels(args);
  for (Index t = 0; t < tokens; ++t) {
    const auto at = static_cast<std::size_t>(t * shape.rows);
    const auto bytes = static_cast<std::size_t>(args.outputs.end) * sizeof(float);
    if (std::memcmp(&result[at], &y[at], bytes) != 0) {
      return state.SkipWithError("differs from the model");
    }
  }
  args.outputs = {0, shape.rows};
  for (auto _ : state) {
    args.W = weights.next();
    multiply();
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

void register_panels(const MatrixShape& shape, DType dtype, Isa isa, kernels::LaneOrder order) {
  for (const Index tokens : {16, 24, 64, 256}) {
    const std::string name =
        std::string(order == kernels::LaneOrder::pairs ? "matmul_panels_bf16/" : "matmul_panels/") +
        shape.name + '/' + std::string(to_string(dtype)) + '/' + std::string(to_string(isa)) + '/' +
        std::to_string(tokens);
    benchmark::RegisterBenchmark(name.c_str(), run_panels, shape, dtype, isa, tokens, order)
        ->UseRealTime()
        ->MinTime(0.1);
  }
}

}  // namespace

void register_benchmarks() {
  for (const MatrixShape& shape : mamba_130m) {
    for (const Isa isa : benchmarked_isas()) {
      if ((isa != Isa::avx2 && isa != Isa::avx512) || shape.rows % 32 != 0) continue;
      const std::string name = std::string("matmul_inexact/") + shape.name + "/f32/" +
                               std::string(to_string(isa)) + "/256";
      benchmark::RegisterBenchmark(name.c_str(), run_inexact, shape, isa, 256)
          ->UseRealTime()
          ->MinTime(0.1);
    }
  }
  for (const MatrixShape& shape : mamba_130m) {
    for (const DType dtype : weight_types) {
      for (const Isa isa : benchmarked_isas()) {
        if (isa == Isa::avx512_vnni || isa == Isa::avx512_bf16) continue;  // those of avx512
        register_panels(shape, dtype, isa, kernels::LaneOrder::single);
        if (dtype == DType::bf16) register_panels(shape, dtype, isa, kernels::LaneOrder::pairs);
        for (const Index tokens : {1, 2, 3, 4, 5, 6, 8, 16, 64, 256}) {
          const std::string name = std::string("matmul/") + shape.name + '/' +
                                   std::string(to_string(dtype)) + '/' +
                                   std::string(to_string(isa)) + '/' + std::to_string(tokens);
          benchmark::RegisterBenchmark(name.c_str(), run, shape, dtype, isa, tokens)
              ->UseRealTime()
              ->MinTime(0.1);
        }
      }
    }
  }
}

}  // namespace krait::bench
