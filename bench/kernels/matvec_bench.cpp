// Decoding: one token, weights from memory. The limit is the read bandwidth.

#include "krait/kernels/matvec.hpp"

#include <algorithm>
#include <cstring>
#include <memory>

#include "bench/support.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/kernels/ref/matvec.hpp"

namespace krait::bench {
namespace {

bool equals_model(kernels::MatvecArgs args) {
  const auto size = static_cast<std::size_t>(args.W.rows);
  std::vector<float> expected(size);
  std::vector<float> actual(size);
  args.y = actual.data();
  kernels::matvec(args);
  args.y = expected.data();
  ref::matvec(args);
  return std::memcmp(expected.data(), actual.data(), size * sizeof(float)) == 0;
}

void run(benchmark::State& state, MatrixShape shape, DType dtype, Isa isa, int threads) {
  const ForcedIsa forced(isa);
  ThreadPool pool(threads);
  const auto x = random_values(shape.cols, 1);
  std::vector<float> y(static_cast<std::size_t>(shape.rows));
  RotatingWeights weights(dtype, shape.rows, shape.cols);
  kernels::MatvecArgs args{
      .W = weights.next(), .x = x.data(), .y = y.data(), .outputs = {0, shape.rows}};
  if (!equals_model(args)) return state.SkipWithError("differs from the model");
  for (auto _ : state) {
    args.W = weights.next();
    parallel_for(pool, shape.rows, 64, [&args](Range outputs) {
      kernels::MatvecArgs part = args;
      part.outputs = outputs;
      kernels::matvec(part);
    });
    benchmark::ClobberMemory();
  }
  count_bytes(state, shape.rows * shape.cols * bytes_of(dtype), pool);
}

}  // namespace

void register_benchmarks() {
  std::vector<int> widths = {1};
  if (available_threads() > 1) widths.push_back(available_threads());
  for (const MatrixShape& shape : mamba_130m) {
    for (const DType dtype : weight_types) {
      for (const Isa isa : benchmarked_isas()) {
        for (const int threads : widths) {
          const std::string name = std::string("matvec/") + shape.name + '/' +
                                   std::string(to_string(dtype)) + '/' +
                                   std::string(to_string(isa)) + '/' + std::to_string(threads);
          benchmark::RegisterBenchmark(name.c_str(), run, shape, dtype, isa, threads)
              ->UseRealTime()
              ->MinTime(0.1);
        }
      }
    }
  }
}

}  // namespace krait::bench
