#pragma once

/// \file
/// Products with matrices in the block formats of GGUF, decoded while they are read.

#include <cstddef>
#include <span>

#include "core/block_format.hpp"
#include "krait/kernels/product.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// A matrix [rows, cols]; cols is a multiple of the format's elements.
struct BlockWeights {
  BlockFormat format = BlockFormat::q4_0;
  const std::byte* data = nullptr;  ///< [rows, cols / elements, bytes of a block]
  Index rows = 0;
  Index cols = 0;

  Index row_bytes() const noexcept {
    const BlockFormatInfo& info = info_of(format);
    return cols / info.elements * info.bytes;
  }
};

/// The weights of whole blocks as floats: out.size() is a multiple of the format's elements.
///
/// Bits     those of ggml's reference: the scale of a part of a block is one f32 product of the
///          block's scale (f16, widened) and the part's, a weight is scale · q in f32, or, where
///          the format has minima, scale · q + minimum (less for the K formats), each rounded.
KRAIT_API void decode_blocks(BlockFormat format, const std::byte* blocks,
                             std::span<float> out) noexcept;

/// Arguments of `matmul_blocks`.
struct MatmulBlocksArgs {
  BlockWeights W;               ///< [out, in]
  MatrixView<const float> x;    ///< [tokens, in]
  const float* bias = nullptr;  ///< [out] or null
  MatrixView<float> y;          ///< [tokens, out] out; only the columns in `outputs` are written
  Range outputs;                ///< which outputs (rows of W) to compute
};

/// y[t,r] = Σ_k W[r,k] x[t,k] (+ bias[r]) for r in `outputs` and every token t.
///
/// Bits     those of `matvec` with the decoded weights.
/// Cost     decodes W once for every 8 tokens.
KRAIT_API void matmul_blocks(const MatmulBlocksArgs& args) noexcept;

/// The same for all outputs, shared between threads. For many tokens, W is decoded once, a part at
/// a time, into the workspace.
KRAIT_API void product(const ProductContext& ctx, const BlockWeights& W,
                       const ProductArgs& args) noexcept;

/// Floats of workspace per token to book for it.
KRAIT_API Index product_blocks_workspace(Index in) noexcept;

/// Whether the format is one of krait's own in another order: q8_0 is q8, q4_0 is q4.
constexpr bool is_grouped(BlockFormat format) noexcept {
  return format == BlockFormat::q8_0 || format == BlockFormat::q4_0;
}

/// The same weights in that form: the given blocks of 16 rows of `codes` and `scales`, which are
/// those of the whole GroupedWeights. Every weight keeps its value.
KRAIT_API void regroup_blocks(const BlockWeights& W, Range row_blocks, std::uint8_t* codes,
                              f16* scales) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
