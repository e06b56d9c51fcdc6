// Weights of 8 and 4 bits: one token (bound by reading them) to many (bound by integer products).

#include "krait/kernels/matmul_grouped.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/ref/matmul_grouped.hpp"

namespace krait::bench {
namespace {

using kernels::GroupedForm;

// Copies of a quantised matrix, together larger than the last-level cache, so that each comes from
// memory, as in decoding.
class RotatingGroups {
 public:
  RotatingGroups(GroupedForm form, Index rows, Index cols)
      : W_{.form = form, .codes = nullptr, .scales = nullptr, .rows = rows, .cols = cols} {
    const Index blocks = W_.row_blocks() * W_.groups();
    codes_bytes_ = blocks * block_bytes(form);
    scales_ = blocks * kernels::row_block;
    copies_ = 1 + 2 * last_level_cache_bytes() / codes_bytes_;
    codes_buffer_ = AlignedBuffer<std::uint8_t>(copies_ * codes_bytes_);
    scales_buffer_ = AlignedBuffer<f16>(copies_ * scales_);
    const auto values = random_values(rows * cols, 3);
    static_cast<void>(kernels::quantize(form, {values.data(), DType::f32, {rows, cols}},
                                        {0, W_.row_blocks()}, codes_buffer_.data(),
                                        scales_buffer_.data()));
    for (Index copy = 1; copy < copies_; ++copy) {
      std::memcpy(codes_buffer_.data() + copy * codes_bytes_, codes_buffer_.data(),
                  static_cast<std::size_t>(codes_bytes_));
      std::memcpy(scales_buffer_.data() + copy * scales_, scales_buffer_.data(),
                  static_cast<std::size_t>(scales_) * sizeof(f16));
    }
  }

  kernels::GroupedWeights next() {
    at_ = (at_ + 1) % copies_;
    W_.codes = codes_buffer_.data() + at_ * codes_bytes_;
    W_.scales = scales_buffer_.data() + at_ * scales_;
    return W_;
  }

  Index bytes() const { return codes_bytes_ + scales_ * 2; }

 private:
  kernels::GroupedWeights W_;
  Index codes_bytes_ = 0;
  Index scales_ = 0;
  Index copies_ = 0;
  Index at_ = 0;
  AlignedBuffer<std::uint8_t> codes_buffer_;
  AlignedBuffer<f16> scales_buffer_;
};

void run(benchmark::State& state, MatrixShape shape, GroupedForm form, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  const auto x = random_values(tokens * shape.cols, 1);
  AlignedBuffer<float> memory(tokens * kernels::Int8Activations::floats_per_token(shape.cols));
  const kernels::Int8Activations activations(memory.data(), tokens, shape.cols);
  std::vector<float> y(static_cast<std::size_t>(tokens * shape.rows));
  RotatingGroups weights(form, shape.rows, shape.cols);
  kernels::quantize_activations({x.data(), tokens, shape.cols}, {0, tokens}, activations);
  kernels::MatmulGroupedArgs args{.W = weights.next(),
                                  .x = activations,
                                  .y = {y.data(), tokens, shape.rows},
                                  .outputs = {0, shape.rows}};
  if (!equals_model(args, kernels::matmul_grouped, ref::matmul_grouped))
    return state.SkipWithError("differs from the model");
  for (auto _ : state) {
    args.W = weights.next();
    kernels::quantize_activations({x.data(), tokens, shape.cols}, {0, tokens}, activations);
    kernels::matmul_grouped(args);
    benchmark::ClobberMemory();
  }
  if (tokens == 1) {
    count_bytes(state, weights.bytes(), serial);
  } else {
    // In multiply-adds: compared with the peak of the f32 units, which integers may exceed.
    count_fma(state, static_cast<double>(tokens * shape.rows * shape.cols), isa, serial);
  }
}

}  // namespace

void register_benchmarks() {
  for (const MatrixShape& shape : mamba_130m) {
    for (const GroupedForm form : {GroupedForm::q8, GroupedForm::q4}) {
      for (const Isa isa : benchmarked_isas()) {
        for (const Index tokens : {1, 2, 3, 4, 5, 8, 16, 64, 256}) {
          const std::string name = std::string("matmul_grouped/") + shape.name + '/' +
                                   std::string(to_string(form)) + '/' +
                                   std::string(to_string(isa)) + '/' + std::to_string(tokens);
          benchmark::RegisterBenchmark(name.c_str(), run, shape, form, isa, tokens)
              ->UseRealTime()
              ->MinTime(0.1);
        }
      }
    }
  }
}

}  // namespace krait::bench
