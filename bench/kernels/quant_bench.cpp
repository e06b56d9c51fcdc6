// Rounding to 8 and 4 bits. Weights are rounded once, when a model is loaded: they come from
// memory, and the limit shown is the read bandwidth. Activations are rounded before every product:
// those of a prompt lie in the second-level cache (16 tokens, at most 96 KB), and the limit is the
// divisions.

#include "krait/kernels/quant.hpp"

#include <cmath>
#include <cstring>

#include "bench/support.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/kernels/ref/quant.hpp"

namespace krait::bench {
namespace {

using kernels::GroupedForm;
using kernels::Int8Activations;

TensorView tensor_of(const kernels::DenseWeights& W) { return {W.data, W.dtype, {W.rows, W.cols}}; }

void run_weights(benchmark::State& state, MatrixShape shape, GroupedForm form, DType dtype,
                 int threads) {
  ThreadPool pool(threads);
  kernels::GroupedWeights packed{.form = form, .rows = shape.rows, .cols = shape.cols};
  const Index blocks = packed.row_blocks() * packed.groups();
  AlignedBuffer<std::uint8_t> codes(blocks * block_bytes(form));
  AlignedBuffer<f16> scales(blocks * kernels::row_block);
  packed.codes = codes.data();
  packed.scales = scales.data();
  RotatingWeights weights(dtype, shape.rows, shape.cols);

  // The first and the last row against what they were made of.
  const kernels::DenseWeights W = weights.next();
  if (kernels::quantize(pool, form, tensor_of(W), codes.data(), scales.data())) {
    return state.SkipWithError("weights that are not finite");
  }
  std::vector<float> stored(static_cast<std::size_t>(shape.cols));
  std::vector<float> rounded(stored.size());
  for (const Index row : {Index{0}, shape.rows - 1}) {
    const auto* data = static_cast<const std::byte*>(W.data) + row * shape.cols * bytes_of(dtype);
    float largest = 0.0F;
    for (std::size_t k = 0; k < stored.size(); ++k) {
      const std::byte* at = data + static_cast<Index>(k) * bytes_of(dtype);
      stored[k] = dtype == DType::f32    ? *reinterpret_cast<const float*>(at)
                  : dtype == DType::bf16 ? to_float(*reinterpret_cast<const bf16*>(at))
                                         : to_float(*reinterpret_cast<const f16*>(at));
      largest = std::max(largest, std::fabs(stored[k]));
    }
    kernels::dequantize_row(packed, row, rounded);
    const float most = largest / (form == GroupedForm::q8 ? 127.0F : 7.0F);
    for (std::size_t k = 0; k < stored.size(); ++k) {
      if (!(std::fabs(stored[k] - rounded[k]) <= most)) {
        return state.SkipWithError("differs from the weights");
      }
    }
  }

  for (auto _ : state) {
    auto bad =
        kernels::quantize(pool, form, tensor_of(weights.next()), codes.data(), scales.data());
    benchmark::DoNotOptimize(bad);
    benchmark::ClobberMemory();
  }
  count_bytes(state, shape.rows * shape.cols * bytes_of(dtype), pool);
}

void run_activations(benchmark::State& state, Index cols, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  const auto values = random_values(tokens * cols, 1);
  const MatrixView<const float> x(values.data(), tokens, cols);
  const Index floats = tokens * Int8Activations::floats_per_token(cols);
  AlignedBuffer<float> memory(floats);
  AlignedBuffer<float> expected(floats);
  const Int8Activations rounded(memory.data(), tokens, cols);
  kernels::quantize_activations(x, {0, tokens}, rounded);
  ref::quantize_activations(x, {0, tokens}, Int8Activations(expected.data(), tokens, cols));
  if (std::memcmp(expected.data(), memory.data(), static_cast<std::size_t>(floats) * 4) != 0) {
    return state.SkipWithError("differs from the model");
  }
  for (auto _ : state) {
    kernels::quantize_activations(x, {0, tokens}, rounded);
    benchmark::ClobberMemory();
  }
  count_items(state, tokens * cols);
}

}  // namespace

void register_benchmarks() {
  std::vector<int> widths = {1};
  if (available_threads() > 1) widths.push_back(available_threads());
  for (const MatrixShape& shape : mamba_130m) {
    for (const GroupedForm form : {GroupedForm::q8, GroupedForm::q4}) {
      for (const DType dtype : weight_types) {
        for (const int threads : widths) {
          const std::string name = std::string("quantize/") + shape.name + '/' +
                                   std::string(to_string(form)) + '/' +
                                   std::string(to_string(dtype)) + '/' + std::to_string(threads);
          benchmark::RegisterBenchmark(name.c_str(), run_weights, shape, form, dtype, threads)
              ->UseRealTime()
              ->MinTime(0.1);
        }
      }
    }
  }
  for (const Index cols : {768, 1536}) {
    for (const Isa isa : benchmarked_isas()) {
      for (const Index tokens : {1, 16}) {
        const std::string name = "quantize_activations/" + std::to_string(cols) + '/' +
                                 std::string(to_string(isa)) + '/' + std::to_string(tokens);
        benchmark::RegisterBenchmark(name.c_str(), run_activations, cols, isa, tokens)
            ->MinTime(0.1);
      }
    }
  }
}

}  // namespace krait::bench
