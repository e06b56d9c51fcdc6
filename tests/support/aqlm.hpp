#pragma once

/// \file
/// Additively quantised matrices for the tests.

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "krait/kernels/aqlm.hpp"
#include "tests/support/kernel_support.hpp"

namespace krait::test {

inline constexpr kernels::AqlmScheme aqlm_schemes[] = {
    {.codebooks = 1, .bits = 8, .in_group = 8},
    {.codebooks = 2, .bits = 8, .in_group = 8},
    {.codebooks = 8, .bits = 8, .in_group = 32},
    {.codebooks = 1, .bits = 16, .in_group = 8},
    {.codebooks = 1, .bits = 12, .in_group = 8},
    {.codebooks = 4, .bits = 4, .in_group = 8},
    {.codebooks = 8, .bits = 4, .in_group = 16},
    {.codebooks = 2, .bits = 8, .in_group = 8, .out_group = 2},
    {.codebooks = 3, .bits = 4, .in_group = 4, .out_group = 3},
    {.codebooks = 1, .bits = 8, .in_group = 4},
    {.codebooks = 2, .bits = 12, .in_group = 8},
    {.codebooks = 2, .bits = 5, .in_group = 3},
    {.codebooks = 3, .bits = 4, .in_group = 5},
    {.codebooks = 1, .bits = 1, .in_group = 1},
    {.codebooks = 4, .bits = 8, .in_group = 16},
};

/// "2x8 g8 h1".
inline std::string to_string(const kernels::AqlmScheme& s) {
  return std::to_string(s.codebooks) + "x" + std::to_string(s.bits) + " g" +
         std::to_string(s.in_group) + " h" + std::to_string(s.out_group);
}

/// A matrix of random codes, the least and the greatest among them, its codes `offset` of them
/// after a 64-byte boundary, each part ending with its block of memory.
class AqlmMatrix {
 public:
  AqlmMatrix(const kernels::AqlmScheme& scheme, Index rows, Index cols, DType numbers = DType::f32,
             Index offset = 0)
      : view_{.scheme = scheme,
              .code_type = scheme.bits <= 8 ? DType::i8 : DType::i16,
              .codebook_type = numbers,
              .rows = rows,
              .cols = cols},
        codes_(0),
        numbers_(0),
        halves_(0),
        scales_(0) {
    const Index count = rows / scheme.out_group * view_.groups() * scheme.codebooks;
    const Index bytes = bytes_of(view_.code_type);
    codes_ = AlignedBuffer<std::byte>((count + offset) * bytes);
    std::byte* codes = codes_.data() + offset * bytes;
    const std::vector<float> random = random_floats(count, 41);
    for (Index i = 0; i < count; ++i) {
      Index code = static_cast<Index>((random[static_cast<std::size_t>(i)] + 1.0F) / 2.0F *
                                      static_cast<float>(scheme.codewords()));
      if (i % 17 == 3) code = scheme.codewords() - 1;
      if (i % 17 == 5) code = 0;
      code = std::clamp(code, Index{0}, scheme.codewords() - 1);
      if (code >= scheme.codewords() / 2) code -= scheme.codewords();
      const auto wide = static_cast<std::int16_t>(code);
      std::memcpy(codes + i * bytes, &wide, static_cast<std::size_t>(bytes));  // little endian
    }
    view_.codes = codes;

    const Index size = scheme.codebooks * scheme.codewords() * scheme.codeword();
    const std::vector<float> values = random_floats(size, 42);
    if (numbers == DType::f16) {
      halves_ = AlignedBuffer<f16>(size);
      for (Index i = 0; i < size; ++i) {
        halves_.data()[i] = to_f16(values[static_cast<std::size_t>(i)]);
      }
      view_.codebooks = halves_.data();
    } else {
      numbers_ = AlignedBuffer<float>(size);
      std::copy(values.begin(), values.end(), numbers_.data());
      view_.codebooks = numbers_.data();
    }

    const Index blocks = rows / scheme.out_group;
    const std::vector<float> scales = random_floats(blocks, 43);
    scales_ = AlignedBuffer<float>(blocks);
    std::copy(scales.begin(), scales.end(), scales_.data());
    view_.scales = scales_.data();
  }

  const kernels::AqlmWeights& view() const { return view_; }

 private:
  kernels::AqlmWeights view_;
  AlignedBuffer<std::byte> codes_;
  AlignedBuffer<float> numbers_;
  AlignedBuffer<f16> halves_;
  AlignedBuffer<float> scales_;
};

/// The same for products by tables: W's codebooks are of f32.
class AqlmTableMatrix {
 public:
  explicit AqlmTableMatrix(const kernels::AqlmWeights& W)
      : view_{.scheme = W.scheme, .scales = W.scales, .rows = W.rows, .cols = W.cols},
        codes_(view_.row_blocks() * view_.blocks() * view_.block_bytes()),
        codebooks_(W.scheme.codebooks * W.scheme.in_group * W.scheme.codewords()) {
    kernels::pack_aqlm_codes(view_, static_cast<const std::int8_t*>(W.codes),
                             {0, view_.row_blocks()}, codes_.data());
    const auto* numbers = static_cast<const float*>(W.codebooks);
    for (Index m = 0; m < W.scheme.codebooks; ++m) {
      const Index words = W.scheme.codewords();
      for (Index e = 0; e < words; ++e) {
        for (Index d = 0; d < W.scheme.in_group; ++d) {
          codebooks_.data()[(m * W.scheme.in_group + d) * words + e] =
              numbers[(m * words + e) * W.scheme.in_group + d];
        }
      }
    }
    view_.codes = codes_.data();
    view_.codebooks = codebooks_.data();
  }

  const kernels::AqlmTableWeights& view() const { return view_; }

 private:
  kernels::AqlmTableWeights view_;
  AlignedBuffer<std::uint8_t> codes_;
  AlignedBuffer<float> codebooks_;
};

/// The tables of activations [tokens, cols], made by the active kernel.
class MadeTables {
 public:
  MadeTables(const kernels::AqlmTableWeights& W, MatrixView<const float> x)
      : MadeTables(W, x, {0, W.blocks()}) {}
  MadeTables(const kernels::AqlmTableWeights& W, MatrixView<const float> x, Range blocks)
      : memory_(x.rows * blocks.size() * kernels::AqlmTables::floats_per_block(W)),
        view_(memory_.data(), x.rows, W, blocks) {
    kernels::make_aqlm_tables(W, x, {0, x.rows * blocks.size()}, view_);
  }
  const kernels::AqlmTables& view() const { return view_; }
  std::span<const float> memory() { return memory_.span(); }

 private:
  AlignedBuffer<float> memory_;
  kernels::AqlmTables view_;
};

}  // namespace krait::test
