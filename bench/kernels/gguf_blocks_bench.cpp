// Weights in the blocks of GGUF: one token (bound by reading or by decoding them) and a few.

#include "kernels/gguf_blocks.hpp"

#include <cstring>

#include "bench/support.hpp"
#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/ref/matvec.hpp"

namespace krait::bench {
namespace {

// Rows of random codes with scales of moderate size, copied until they are larger than the
// last-level cache, so that each matrix comes from memory, as in decoding.
class RotatingBlocks {
 public:
  RotatingBlocks(BlockFormat format, Index rows, Index cols)
      : W_{format, nullptr, rows, cols}, bytes_(rows * W_.row_bytes()) {
    copies_ = 1 + 2 * last_level_cache_bytes() / bytes_;
    buffer_ = AlignedBuffer<std::byte>(copies_ * bytes_);
    const BlockFormatInfo& info = info_of(format);
    const auto numbers = random_values(bytes_, 5);
    for (Index i = 0; i < bytes_; ++i) {
      buffer_[i] = static_cast<std::byte>(static_cast<int>(128.0F * numbers[std::size_t(i)]) & 255);
    }
    // The high byte of each f16 that a format may have, wherever that is: scales below 1.
    for (Index block = 0; block < bytes_; block += info.bytes) {
      for (const Index place : {1, 3, 81, 83, 109, 209}) {
        if (place < info.bytes) buffer_[block + place] = std::byte{0x2A};
      }
      if (format == BlockFormat::mxfp4) buffer_[block] = std::byte{120};
    }
    for (Index copy = 1; copy < copies_; ++copy) {
      std::memcpy(buffer_.data() + copy * bytes_, buffer_.data(), static_cast<std::size_t>(bytes_));
    }
  }

  kernels::BlockWeights next() {
    at_ = (at_ + 1) % copies_;
    W_.data = buffer_.data() + at_ * bytes_;
    return W_;
  }

  Index bytes() const { return bytes_; }

 private:
  kernels::BlockWeights W_;
  Index bytes_;
  Index copies_ = 0;
  Index at_ = 0;
  AlignedBuffer<std::byte> buffer_;
};

// The product of the decoded matrix.
void model(const kernels::MatmulBlocksArgs& args) noexcept {
  std::vector<float> row(static_cast<std::size_t>(args.W.cols));
  for (Index r = args.outputs.begin; r < args.outputs.end; ++r) {
    kernels::decode_blocks(args.W.format, args.W.data + r * args.W.row_bytes(), row);
    for (Index t = 0; t < args.x.rows; ++t) {
      ref::matvec({.W = {row.data(), DType::f32, 1, args.W.cols},
                   .x = args.x.row_data(t),
                   .y = args.y.row_data(t) + r,
                   .outputs = {0, 1}});
    }
  }
}

void run(benchmark::State& state, BlockFormat format, Isa isa, Index tokens) {
  const ForcedIsa forced(isa);
  SerialExecutor serial;
  constexpr Index rows = 3072;
  constexpr Index cols = 768;
  const auto x = random_values(tokens * cols, 1);
  std::vector<float> y(static_cast<std::size_t>(tokens * rows));
  RotatingBlocks weights(format, rows, cols);
  kernels::MatmulBlocksArgs args{.W = weights.next(),
                                 .x = {x.data(), tokens, cols},
                                 .y = {y.data(), tokens, rows},
                                 .outputs = {0, rows}};
  if (!equals_model(args, kernels::matmul_blocks, model))
    return state.SkipWithError("differs from the model");
  for (auto _ : state) {
    args.W = weights.next();
    kernels::matmul_blocks(args);
    benchmark::ClobberMemory();
  }
  if (tokens == 1) {
    count_bytes(state, weights.bytes(), serial);
  } else {
    count_fma(state, static_cast<double>(tokens * rows * cols), isa, serial);
  }
}

}  // namespace

void register_benchmarks() {
  for (const BlockFormatInfo& info : block_formats) {
    for (const Isa isa : benchmarked_isas()) {
      for (const Index tokens : {1, 2, 8}) {
        const std::string name = "gguf_blocks/" + std::string(info.name) + '/' +
                                 std::string(to_string(isa)) + '/' + std::to_string(tokens);
        benchmark::RegisterBenchmark(name.c_str(), run, info.format, isa, tokens)
            ->UseRealTime()
            ->MinTime(0.1);
      }
    }
  }
}

}  // namespace krait::bench
