#include "krait/kernels/matmul.hpp"

#include "krait/kernels/ref/matmul.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {
namespace {

// Tokens that one pass in the order of memory serves: as many as have registers.
constexpr int stream_tokens = 6;

// A register tile holds 4 rows × this many tokens, one register each. Where an output has more
// than one register, a tile makes one pass per register: more outputs at a time need fewer loads.
constexpr int tile_tokens = HWY_TARGET == HWY_AVX2 ? 3 : 6;

// Elements of a row that a pass takes before the next pass: a tile of them stays in the L1 cache.
constexpr Index pass_length = register_parts == 1 ? Index{1} << 40 : 512;

// Weights that stay in the L2 cache while all tokens meet them.
constexpr Index block_bytes = Index{384} << 10;

template <int T, class W>
HWY_INLINE void tile_rows(const Product<W>& in, Index row) {
  Array<Lanes, 4 * T> lanes;
  for (int i = 0; i < 4 * T; ++i) lanes[i] = zero_lanes();
  for (Index k = 0; k < in.n; k += pass_length) {
    const Index end = HWY_MIN(in.n, k + pass_length);
    KRAIT_UNROLL
    for (int p = 0; p < register_parts; ++p) {
      Array<VF, 4 * T> acc;
      KRAIT_UNROLL
      for (int i = 0; i < 4 * T; ++i) acc[i] = lanes[i].part[p];
      accumulate_tile<4, T, 1>(in.w + row * in.n, in.x, in, p * vector_lanes, k, end, acc);
      KRAIT_UNROLL
      for (int i = 0; i < 4 * T; ++i) lanes[i].part[p] = acc[i];
    }
  }
  finish_tile<4, T>(lanes, in.bias != nullptr ? in.bias + row : nullptr, in.y + row, in.y_stride);
}

template <int T, class W>
void tile_outputs(const Product<W>& in, Range outputs) {
  Index row = outputs.begin;
  for (; row + 4 <= outputs.end; row += 4) tile_rows<T>(in, row);
  for (; row < outputs.end; ++row) stream_rows<1, T>(in, row);
}

// Calls the function for `tokens` ≤ T tokens.
template <int T, bool stream, class W>
void for_tokens(const Product<W>& in, Range outputs, Index tokens) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<T - 1, stream>(in, outputs, tokens);
    if constexpr (stream) {
      stream_outputs<T>(in, outputs);
    } else {
      tile_outputs<T>(in, outputs);
    }
  }
}

template <class W>
void matmul_of(const MatmulArgs& args) noexcept {
  const Index tokens = args.x.rows;
  const auto product_from = [&args](Index token) HWY_ATTR {
    return Product<W>{.w = static_cast<const W*>(args.W.data),
                      .x = args.x.row_data(token),
                      .n = args.W.cols,
                      .x_stride = args.x.stride,
                      .bias = args.bias,
                      .y = args.y.row_data(token),
                      .y_stride = args.y.stride};
  };
  if (tokens <= stream_tokens) {
    return for_tokens<stream_tokens, true>(product_from(0), args.outputs, tokens);
  }
  const Index row_bytes = args.W.cols * static_cast<Index>(sizeof(W));
  const Index block = HWY_MAX(Index{16}, block_bytes / HWY_MAX(row_bytes, Index{1}) / 16 * 16);
  // Tiles of nearly equal width: a narrow last one would be slow.
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  for (Index row = args.outputs.begin; row < args.outputs.end; row += block) {
    const Range outputs{row, HWY_MIN(args.outputs.end, row + block)};
    for (Index tile = 0; tile < tiles; ++tile) {
      const Index first = tokens * tile / tiles;
      const Index count = tokens * (tile + 1) / tiles - first;
      if (tile == 0) {
        // The block comes from memory here, from the cache afterwards.
        for_tokens<tile_tokens, true>(product_from(first), outputs, count);
      } else {
        for_tokens<tile_tokens, false>(product_from(first), outputs, count);
      }
    }
  }
}

}  // namespace

void matmul(const MatmulArgs& args) noexcept {
  switch (args.W.dtype) {
    case DType::f16:
      return matmul_of<f16>(args);
    case DType::bf16:
      return matmul_of<bf16>(args);
    default:
      return matmul_of<float>(args);
  }
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void matmul(const MatmulArgs& args) noexcept { KRAIT_KERNEL(matmul, ref::matmul)(args); }

}  // namespace krait::inline v0_1::kernels
#endif
