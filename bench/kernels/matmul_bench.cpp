// Prefill and verification: several tokens, one thread. The limit is the multiply-add rate, for
// few tokens the read bandwidth.

#include "krait/kernels/matmul.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/kernels/ref/matmul.hpp"

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

}  // namespace

void register_benchmarks() {
  for (const MatrixShape& shape : mamba_130m) {
    for (const DType dtype : weight_types) {
      for (const Isa isa : benchmarked_isas()) {
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
