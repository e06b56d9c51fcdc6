#include "krait/kernels/matmul.hpp"

#include "krait/kernels/ref/matmul.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
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
// have half a megabyte of it. Few tokens are done with a block before memory has the next one
// ready, which is then requested meanwhile; two blocks should be in the cache for that.
constexpr Index block_bytes = Index{HWY_TARGET == HWY_AVX3 ? 384 : 192} << 10;
constexpr Index few_tokens = 64;
constexpr Index few_block_bytes = Index{48} << 10;

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
template <int T, bool fetch_ahead, class W>
HWY_INLINE void single_tile(const Product<W>& in, Index row, Fetch& fetch) {
  Array<VF, 4 * T> acc;
  KRAIT_UNROLL
  for (int i = 0; i < 4 * T; ++i) acc[i] = hn::Zero(DF());
  accumulate_tile<4, T, 1, fetch_ahead>(in.w + row * in.n, in.x, in, 0, 0, in.n, acc, fetch);
  Array<Lanes, 4 * T> lanes;
  KRAIT_UNROLL
  for (int i = 0; i < 4 * T; ++i) lanes[i].part[0] = acc[i];
  finish_tile<4, T>(lanes, bias_of(in, row), in.y + row, in.y_stride);
}

// One stretch of one tile of a group; the lanes wait in memory in between.
template <int T, bool fetch_ahead, class W>
HWY_INLINE void continue_tile(const Product<W>& in, Index row, Index begin, Index end,
                              Array<Lanes, 4 * T>& lanes, Fetch& fetch) {
  KRAIT_UNROLL
  for (int p = 0; p < register_parts; ++p) {
    Array<VF, 4 * T> acc;
    KRAIT_UNROLL
    for (int i = 0; i < 4 * T; ++i) acc[i] = begin == 0 ? hn::Zero(DF()) : lanes[i].part[p];
    const W* w = in.w + row * in.n;
    accumulate_tile<4, T, 1, fetch_ahead>(w, in.x, in, p * vector_lanes, begin, end, acc, fetch);
    KRAIT_UNROLL
    for (int i = 0; i < 4 * T; ++i) lanes[i].part[p] = acc[i];
  }
}

// `rows` (a multiple of 4) × `tiles` tiles of T tokens.
template <int T, bool fetch_ahead, class W>
HWY_INLINE void tile_group(const Product<W>& in, Index row, Index rows, int tiles, Fetch& fetch) {
  Array<Lanes, 4 * T> lanes[group_rows / 4][group_tiles];
  for (Index k = 0; k == 0 || k < in.n; k += stretch) {
    const Index end = HWY_MIN(in.n, k + stretch);
    for (Index r = 0; r < rows; r += 4) {
      for (int i = 0; i < tiles; ++i) {
        continue_tile<T, fetch_ahead>(skip_tokens(in, i * T), row + r, k, end, lanes[r / 4][i],
                                      fetch);
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

// `tiles` tiles of T tokens.
template <int T, bool fetch_ahead, class W>
void tile_outputs(const Product<W>& in, Range outputs, int tiles, Fetch& fetch) {
  if constexpr (T == 1) return stream_outputs<1>(in, outputs);
  const Index whole = outputs.begin + outputs.size() / 4 * 4;
  for (Index row = outputs.begin; row < whole; row += group_rows) {
    if constexpr (register_parts == 1) {
      single_tile<T, fetch_ahead>(in, row, fetch);
    } else {
      tile_group<T, fetch_ahead>(in, row, HWY_MIN(Index{group_rows}, whole - row), tiles, fetch);
    }
  }
  for (int i = 0; i < tiles; ++i) {
    for (Index row = whole; row < outputs.end; ++row) {
      stream_rows<1, T>(skip_tokens(in, i * T), row);
    }
  }
}

// Calls tile_outputs<tokens>; tokens ≤ T.
template <int T, bool fetch_ahead, class W>
void for_tokens(const Product<W>& in, Range outputs, Index tokens, int tiles, Fetch& fetch) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<T - 1, fetch_ahead>(in, outputs, tokens, tiles, fetch);
    tile_outputs<T, fetch_ahead>(in, outputs, tiles, fetch);
  }
}

// All tokens for a block of outputs.
template <bool fetch_ahead, class W>
void matmul_block(const Product<W>& in, Range outputs, Index tokens, Fetch& fetch) {
  Index first = 0;
  if constexpr (group_tiles > 1) {
    for (; first + group_tokens <= tokens; first += group_tokens) {
      tile_outputs<tile_tokens, fetch_ahead>(skip_tokens(in, first), outputs, group_tiles, fetch);
    }
    tokens -= first;
    if (tokens == 4) {
      return for_tokens<2, fetch_ahead>(skip_tokens(in, first), outputs, 2, 2, fetch);
    }
  }
  // Tiles of nearly equal width: a narrow last one would be slow.
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  for (Index tile = 0; tile < tiles; ++tile) {
    const Index begin = tokens * tile / tiles;
    const Index end = tokens * (tile + 1) / tiles;
    for_tokens<tile_tokens, fetch_ahead>(skip_tokens(in, first + begin), outputs, end - begin, 1,
                                         fetch);
  }
}

template <bool is_few, class W>
void matmul_blocks(const Product<W>& in, Range outputs, Index tokens) {
  const Index row_bytes = HWY_MAX(Index{1}, in.n * static_cast<Index>(sizeof(W)));
  const Index bytes = is_few ? few_block_bytes : block_bytes;
  const Index block = HWY_MAX(Index{16}, bytes / row_bytes / 16 * 16);
  // Each register tile of a block, whatever its tokens, requests its part of the next block.
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens * register_parts;
  const Index step = 4 * virtual_lanes * static_cast<Index>(sizeof(W)) / tiles;
  for (Index row = outputs.begin; row < outputs.end; row += block) {
    const Index end = HWY_MIN(outputs.end, row + block);
    Fetch fetch{.next = reinterpret_cast<std::uintptr_t>(in.w + end * in.n),
                .step = end < outputs.end ? static_cast<std::uintptr_t>(step) : 0};
    matmul_block<is_few>(in, {row, end}, tokens, fetch);
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
  if (args.x.rows <= few_tokens) {
    matmul_blocks<true>(product, args.outputs, args.x.rows);
  } else {
    matmul_blocks<false>(product, args.outputs, args.x.rows);
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

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void matmul(const MatmulArgs& args) noexcept { KRAIT_KERNEL(matmul, ref::matmul)(args); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
