// Products with activations in bfloat16. The limit shown is the multiply-add rate of f32, which
// AVX-512 BF16 exceeds.

#include "krait/kernels/matmul_bf16.hpp"

#include "bench/support.hpp"
#include "krait/kernels/ref/matmul_bf16.hpp"

namespace krait::bench {
namespace {

void run(benchmark::State& state, MatrixShape shape, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  const auto x = random_values(tokens * shape.cols, 1);
  AlignedBuffer<float> memory(tokens * kernels::Bf16Activations::floats_per_token(shape.cols));
  const kernels::Bf16Activations activations(memory.data(), shape.cols);
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  RotatingWeights weights(DType::bf16, shape.rows, shape.cols);
  kernels::round_activations({x.data(), tokens, shape.cols}, {0, tokens}, activations);
  kernels::MatmulBf16Args args{.W = weights.next(),
                               .x = activations,
                               .y = {y.data(), tokens, shape.rows},
                               .outputs = {0, shape.rows}};
  if (!equals_model(args, kernels::matmul_bf16, ref::matmul_bf16))
    return state.SkipWithError("differs from the model");
  for (auto _ : state) {
    args.W = weights.next();
    kernels::round_activations({x.data(), tokens, shape.cols}, {0, tokens}, activations);
    kernels::matmul_bf16(args);
    benchmark::ClobberMemory();
  }
  if (tokens == 1) {
    count_bytes(state, shape.rows * shape.cols * bytes_of(DType::bf16), serial);
  } else {
    count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
  }
}

}  // namespace

void register_benchmarks() {
  for (const MatrixShape& shape : mamba_130m) {
    for (const Isa isa : benchmarked_isas()) {
      for (const Index tokens : {1, 2, 4, 8, 64, 256}) {
        const std::string name = std::string("matmul_bf16/") + shape.name + '/' +
                                 std::string(to_string(isa)) + '/' + std::to_string(tokens);
        benchmark::RegisterBenchmark(name.c_str(), run, shape, isa, tokens)
            ->UseRealTime()
            ->MinTime(0.1);
      }
    }
  }
}

}  // namespace krait::bench
