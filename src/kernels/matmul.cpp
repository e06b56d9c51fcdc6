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

// A register tile holds 4 rows × this many tokens, one register each. Where an output has more
// than one register, a tile makes one pass per register: more outputs at a time need fewer loads.
// Without an instruction for fma there is nothing to gain.
constexpr int tile_tokens = HWY_TARGET == HWY_SSE4 ? 1 : HWY_TARGET == HWY_AVX2 ? 3 : 6;

// Where there are several passes, tiles form a group that meets a stretch of this many elements
// before the next stretch, so that weights and tokens come from the L1 cache most of the time.
// The tokens of a group stay there while its rows pass by.
constexpr Index stretch = 384;
constexpr int group_rows = HWY_TARGET == HWY_AVX2 ? 64 : 4;
constexpr int group_tiles = HWY_TARGET == HWY_AVX2 ? 2 : 1;
constexpr int group_tokens = tile_tokens * group_tiles;

// Weights that stay in the L2 cache while all tokens meet them. Processors without AVX-512 often
// have half a megabyte of it.
constexpr Index block_bytes = Index{HWY_TARGET == HWY_AVX3 ? 384 : 192} << 10;

// The bias of a row, if there is one.
template <class W>
HWY_INLINE const float* bias_of(const Product<W>& in, Index row) {
  return in.bias != nullptr ? in.bias + row : nullptr;
}

// The same product, `tokens` further on.
template <class W>
HWY_INLINE Product<W> skip_tokens(Product<W> in, Index tokens) {
  in.x += tokens * in.x_stride;
  in.y += tokens * in.y_stride;
  return in;
}

// Four rows for T tokens, all in registers.
template <int T, bool is_first, class W>
HWY_INLINE void single_tile(const Product<W>& in, Index row) {
  Array<VF, 4 * T> acc;
  KRAIT_UNROLL
  for (int i = 0; i < 4 * T; ++i) acc[i] = hn::Zero(DF());
  accumulate_tile<4, T, 1, is_first>(in.w + row * in.n, in.x, in, 0, 0, in.n, acc);
  Array<Lanes, 4 * T> lanes;
  KRAIT_UNROLL
  for (int i = 0; i < 4 * T; ++i) lanes[i].part[0] = acc[i];
  finish_tile<4, T>(lanes, bias_of(in, row), in.y + row, in.y_stride);
}

// One stretch of one tile of a group; the lanes wait in memory in between.
template <int T, bool fetch_ahead, class W>
HWY_INLINE void continue_tile(const Product<W>& in, Index row, Index begin, Index end,
                              Array<Lanes, 4 * T>& lanes) {
  KRAIT_UNROLL
  for (int p = 0; p < register_parts; ++p) {
    Array<VF, 4 * T> acc;
    KRAIT_UNROLL
    for (int i = 0; i < 4 * T; ++i) acc[i] = begin == 0 ? hn::Zero(DF()) : lanes[i].part[p];
    const W* w = in.w + row * in.n;
    const Index lane = p * vector_lanes;
    if (p == 0) {
      accumulate_tile<4, T, 1, fetch_ahead>(w, in.x, in, lane, begin, end, acc);
    } else {
      accumulate_tile<4, T, 1, false>(w, in.x, in, lane, begin, end, acc);
    }
    KRAIT_UNROLL
    for (int i = 0; i < 4 * T; ++i) lanes[i].part[p] = acc[i];
  }
}

// `rows` (a multiple of 4) × `tiles` tiles of T tokens.
template <int T, bool is_first, class W>
HWY_INLINE void tile_group(const Product<W>& in, Index row, Index rows, int tiles) {
  Array<Lanes, 4 * T> lanes[group_rows / 4][group_tiles];
  for (Index k = 0; k == 0 || k < in.n; k += stretch) {
    const Index end = HWY_MIN(in.n, k + stretch);
    for (Index r = 0; r < rows; r += 4) {
      continue_tile<T, is_first>(in, row + r, k, end, lanes[r / 4][0]);
      for (int i = 1; i < tiles; ++i) {
        continue_tile<T, false>(skip_tokens(in, i * T), row + r, k, end, lanes[r / 4][i]);
      }
    }
  }
  for (Index r = 0; r < rows; r += 4) {
    for (int i = 0; i < tiles; ++i) {
      const Product<W> tile = skip_tokens(in, i * T);
      finish_tile<4, T>(lanes[r / 4][i], bias_of(in, row + r), tile.y + row + r, in.y_stride);
    }
  }
}

// `tiles` tiles of T tokens. The first tokens that meet a block of weights fetch it ahead.
template <int T, bool is_first, class W>
void tile_outputs(const Product<W>& in, Range outputs, int tiles) {
  if constexpr (T == 1) return stream_outputs<1>(in, outputs);
  const Index whole = outputs.begin + outputs.size() / 4 * 4;
  for (Index row = outputs.begin; row < whole; row += group_rows) {
    if constexpr (register_parts == 1) {
      single_tile<T, is_first>(in, row);
    } else {
      tile_group<T, is_first>(in, row, HWY_MIN(Index{group_rows}, whole - row), tiles);
    }
  }
  for (int i = 0; i < tiles; ++i) {
    for (Index row = whole; row < outputs.end; ++row) {
      stream_rows<1, T>(skip_tokens(in, i * T), row);
    }
  }
}

// Calls tile_outputs<tokens>; tokens ≤ T.
template <int T, bool is_first, class W>
void for_tokens(const Product<W>& in, Range outputs, Index tokens, int tiles) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<T - 1, is_first>(in, outputs, tokens, tiles);
    tile_outputs<T, is_first>(in, outputs, tiles);
  }
}

// All tokens for a block of outputs.
template <class W>
void matmul_block(const Product<W>& in, Range outputs, Index tokens) {
  // `count` tokens from `first` on, in tiles of at most tile_tokens.
  const auto advance = [&](Index first, Index count, int tiles) HWY_ATTR {
    if (first == 0) {
      for_tokens<tile_tokens, true>(in, outputs, count, tiles);
    } else {
      for_tokens<tile_tokens, false>(skip_tokens(in, first), outputs, count, tiles);
    }
  };
  Index first = 0;
  if constexpr (group_tiles > 1) {
    for (; first + group_tokens <= tokens; first += group_tokens) {
      advance(first, tile_tokens, group_tiles);
    }
    tokens -= first;
    if (tokens == 4) return advance(first, 2, 2);
  }
  // Tiles of nearly equal width: a narrow last one would be slow.
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  for (Index tile = 0; tile < tiles; ++tile) {
    const Index begin = tokens * tile / tiles;
    const Index end = tokens * (tile + 1) / tiles;
    advance(first + begin, end - begin, 1);
  }
}

template <class W>
void matmul_of(const MatmulArgs& args) noexcept {
  const Product<W> product{.w = static_cast<const W*>(args.W.data),
                           .x = args.x.data,
                           .n = args.W.cols,
                           .x_stride = args.x.stride,
                           .bias = args.bias,
                           .y = args.y.data,
                           .y_stride = args.y.stride};
  if (args.x.rows == 1) return stream_outputs<1>(product, args.outputs);
  const Index row_bytes = HWY_MAX(Index{1}, args.W.cols * static_cast<Index>(sizeof(W)));
  const Index block = HWY_MAX(Index{16}, block_bytes / row_bytes / 16 * 16);
  for (Index row = args.outputs.begin; row < args.outputs.end; row += block) {
    matmul_block(product, {row, HWY_MIN(args.outputs.end, row + block)}, args.x.rows);
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
