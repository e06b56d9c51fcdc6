#pragma once

/// \file
/// Products with additively quantised weights (AQLM): a group of weights is the sum of one codeword
/// of each codebook, times a scale.

#include <cstdint>
#include <span>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/dtype.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/kernels/product.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// The sizes of an additive code. "2x8 g8" has 2 codebooks of 2^8 codewords for groups of 8 inputs.
struct AqlmScheme {
  Index codebooks = 1;  ///< codewords that are added
  int bits = 8;         ///< of a code: 1 to 16
  Index in_group = 8;   ///< inputs of a codeword
  Index out_group = 1;  ///< outputs of a codeword

  Index codewords() const noexcept { return Index{1} << bits; }
  /// Numbers of a codeword.
  Index codeword() const noexcept { return in_group * out_group; }
  friend bool operator==(const AqlmScheme&, const AqlmScheme&) = default;
};

/// A matrix [rows, cols] as checkpoints have it. A code c of B bits is stored as a signed number, c
/// - 2^B in place of c from 2^(B-1) on; bits above the lowest B are ignored.
///
/// Weight i·out_group + r, j·in_group + d is scales[i] · Σ_m codebooks[m, codes[i,j,m], r, d].
struct AqlmWeights {
  AqlmScheme scheme = {};
  const void* codes = nullptr;  ///< [rows / out_group, cols / in_group, codebooks]
  DType code_type = DType::i8;  ///< i8, or i16, which may lie at an odd address
  /// [codebooks, codewords, out_group, in_group]; the first has no -0.
  const void* codebooks = nullptr;
  DType codebook_type = DType::f32;  ///< f32 or f16
  const float* scales = nullptr;     ///< [rows / out_group]
  Index rows = 0;
  Index cols = 0;

  Index groups() const noexcept { return cols / scheme.in_group; }
  /// Of codes, codebooks and scales.
  Index bytes() const noexcept {
    const Index blocks = rows / scheme.out_group;
    return blocks * groups() * scheme.codebooks * bytes_of(code_type) +
           scheme.codebooks * scheme.codewords() * scheme.codeword() * bytes_of(codebook_type) +
           blocks * Index{sizeof(float)};
  }
};

/// Rows `rows` of the matrix as floats [rows, cols]: the `aqlm` package's dequantised weights.
///
/// Bits     numeric contract, section 11: +0 plus the codewords in order, times the scale.
/// Oracle   ref::aqlm_weight.
KRAIT_API void decode_aqlm(const AqlmWeights& W, Range rows, float* out) noexcept;

/// Arguments of `matmul_aqlm`.
struct MatmulAqlmArgs {
  AqlmWeights W;                ///< [out, in]
  MatrixView<const float> x;    ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
};

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]); weights are decoded in registers for a few tokens at a
/// time.
///
/// Bits     those of `matmul` with the decoded weights in f32.
/// Aliasing none.
/// Cost     decodes each weight once for every 4 tokens.
/// Oracle   ref::matmul_aqlm.
KRAIT_API void matmul_aqlm(const MatmulAqlmArgs& args) noexcept;

/// A matrix whose codes have 4 or 8 bits and one output, to be multiplied by looking up products:
/// the codes of a row are a list, in the order of the checkpoint, cut into blocks of 16; what is
/// missing in the last is not counted.
///
/// The codes of 64 rows and a block are lines of 64 bytes, row i in byte 2i and row 32 + i in byte
/// 2i + 1. Of 4 bits: 8 lines, line n with code 2n in the low halves and code 2n + 1 in the high
/// ones. Of 8 bits: 16 lines, one for each code.
struct AqlmTableWeights {
  static constexpr Index block_rows = 64;
  static constexpr Index block_codes = 16;

  AqlmScheme scheme = {};               ///< of 4 or 8 bits and out_group 1
  const std::uint8_t* codes = nullptr;  ///< [row_blocks, blocks, block_bytes]
  const float* codebooks = nullptr;     ///< [codebooks, in_group, codewords]: number by number
  const float* scales = nullptr;        ///< [rows]
  Index rows = 0;
  Index cols = 0;

  /// Whether the contract has a matrix of so many rows multiplied by tables: those of 8 bits cost
  /// as much as 256 rows for each codebook.
  static bool takes(const AqlmScheme& scheme, Index rows) noexcept {
    return scheme.out_group == 1 &&
           (scheme.bits == 4 ||
            (scheme.bits == 8 && rows >= rows_per_codeword * scheme.codebooks * 256));
  }
  static constexpr Index rows_per_codeword = 1;

  Index codewords() const noexcept { return scheme.codewords(); }
  Index block_bytes() const noexcept { return block_rows * block_codes * scheme.bits / 8; }
  Index row_blocks() const noexcept { return round_up(rows, block_rows) / block_rows; }
  /// Codes of a row.
  Index row_codes() const noexcept { return cols / scheme.in_group * scheme.codebooks; }
  Index blocks() const noexcept { return round_up(row_codes(), block_codes) / block_codes; }
  /// Of codes, codebooks and scales.
  Index bytes() const noexcept {
    return row_blocks() * blocks() * block_bytes() +
           (scheme.codebooks * scheme.in_group * codewords() + rows) * Index{sizeof(float)};
  }
};

/// Writes `codes` of a matrix of W's sizes for the blocks of 64 rows in `blocks`; `stored` has the
/// codes as AqlmWeights has them, in 8 bits.
KRAIT_API void pack_aqlm_codes(const AqlmTableWeights& W, const std::int8_t* stored, Range blocks,
                               std::uint8_t* codes) noexcept;

/// Row `row` of the matrix as floats [cols]: the weights that `decode_aqlm` gives.
KRAIT_API void decode_aqlm_row(const AqlmTableWeights& W, Index row, std::span<float> out) noexcept;

/// The products of each codeword with the activations it meets, of several tokens, in 8 bits.
struct AqlmTables {
  std::uint8_t* values = nullptr;  ///< [tokens, blocks, 16 codes, codewords]: q + 128
  float* steps = nullptr;          ///< [tokens, blocks]
  Range blocks;                    ///< which blocks of a row
  Index block_values = 0;

  /// Floats of memory for a block of one token.
  static Index floats_per_block(const AqlmTableWeights& W) noexcept {
    return AqlmTableWeights::block_codes * W.codewords() / Index{sizeof(float)} + 1;
  }

  /// Laid out in `memory`, which has floats_per_block(W) floats for each block and token.
  AqlmTables(float* memory, Index tokens, const AqlmTableWeights& W, Range blocks_) noexcept
      : values(reinterpret_cast<std::uint8_t*>(memory)),
        steps(memory + tokens * blocks_.size() * (floats_per_block(W) - 1)),
        blocks(blocks_),
        block_values(AqlmTableWeights::block_codes * W.codewords()) {}
};

/// Makes tables `items` of x [tokens, cols]: of block `out.blocks.begin` + i of token t if item
/// t · out.blocks.size() + i is among them.
///
/// Bits     numeric contract, section 11.
/// Oracle   ref::make_aqlm_tables.
KRAIT_API void make_aqlm_tables(const AqlmTableWeights& W, MatrixView<const float> x, Range items,
                                const AqlmTables& out) noexcept;

/// Arguments of `matmul_aqlm_tables`.
struct MatmulAqlmTablesArgs {
  AqlmTableWeights W;           ///< [out, in]
  AqlmTables x;                 ///< of all tokens
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< begins at a multiple of 64, ends at one or at W.rows
};

/// y[t,r] = scale[r] · Σ_b step[t,b] · Σ_{i in b} q[t, i, code[r,i]] (+ bias[r]).
///
/// Calls with tables of some of the blocks, one after the other in ascending order, do the same as
/// one with all: until the last y has the sums so far.
///
/// Bits     numeric contract, section 11: the inner sum is an integer.
/// Aliasing none.
/// Oracle   ref::matmul_aqlm_tables.
KRAIT_API void matmul_aqlm_tables(const MatmulAqlmTablesArgs& args) noexcept;

/// y = x Wᵀ + bias for every token.
///
/// Bits     those of `matmul_aqlm`, for any number of tokens, threads, and any workspace.
KRAIT_API void product(const ProductContext& ctx, const AqlmWeights& W,
                       const ProductArgs& args) noexcept;

/// The same by tables.
///
/// Bits     those of `matmul_aqlm_tables`.
KRAIT_API void product(const ProductContext& ctx, const AqlmTableWeights& W,
                       const ProductArgs& args) noexcept;

/// Floats of workspace per token to book. A `product` with AqlmWeights is right without, but
/// slower; one by tables needs all of it.
KRAIT_API Index product_aqlm_workspace(Index in) noexcept;
KRAIT_API Index product_aqlm_workspace(const AqlmTableWeights& W) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
