#include "kernels/matmul_bf16_avx512.hpp"

#if defined(__x86_64__)

// GCC 12 takes its own intrinsics' undefined registers for mistakes.
#  if defined(__GNUC__) && !defined(__clang__)
#    pragma GCC diagnostic ignored "-Wuninitialized"
#  endif
#  include <immintrin.h>

#  include <limits>

#  include "kernels/fetch.hpp"
#  include "kernels/target_attributes.hpp"
#  include "krait/core/float_environment.hpp"

KRAIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16")
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

#  define KRAIT_UNROLL _Pragma("GCC unroll 16")

constexpr std::size_t size(int n) { return static_cast<std::size_t>(n); }

constexpr Index group = 32;   // elements of one step: 16 lanes of pairs
constexpr int tile_rows = 4;  // 16 accumulators of 16 lanes
constexpr int tile_tokens = 4;

// Weights that stay in the L2 cache while all tokens meet them. Few tokens are done with a block
// before memory has the next one ready, which is then requested meanwhile; several blocks should
// be in the cache for that.
constexpr Index block_bytes = Index{384} << 10;
constexpr Index few_tokens = 64;
constexpr Index few_block_bytes = Index{48} << 10;

inline __m512bh as_pairs(__m512i v) { return reinterpret_cast<__m512bh>(v); }

// T tokens times weights of bf16; all pointers belong to output 0 and the tile's first token.
struct Product {
  const bf16* w;
  const bf16* x;
  Index n;
  Index x_stride;
  const float* bias;
  float* y;
  Index y_stride;
};

// The chains of R rows × T tokens; the rows begin at w, in.n elements from each other, and have
// `n` elements.
template <int R, int T, bool fetch_ahead>
inline void accumulate(const Product& in, const bf16* w, Index n, __m512 (&acc)[size(R * T)],
                       Fetch& fetch) {
  KRAIT_UNROLL
  for (int i = 0; i < R * T; ++i) acc[i] = _mm512_setzero_ps();
  Index k = 0;
  for (; k + group <= n; k += group) {
    if constexpr (fetch_ahead) fetch.advance();
    __m512bh xs[size(T)];
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      xs[t] = as_pairs(_mm512_loadu_si512(in.x + t * in.x_stride + k));
    }
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) {
      const __m512bh ws = as_pairs(_mm512_loadu_si512(w + r * in.n + k));
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) acc[r * T + t] = _mm512_dpbf16_ps(acc[r * T + t], ws, xs[t]);
    }
  }
  const Index rest = n - k;
  if (rest == 0) return;
  // Lanes without an element are left alone: a weight of -0 times the zero that stands there adds
  // -0, which changes no sum. An odd element's missing partner is +0, as the contract has it. No
  // mask on the products: GCC 12 to 14 give that form of vdpbf16ps 8 lanes instead of 16.
  const auto elements = static_cast<__mmask32>((std::uint32_t{1} << rest) - 1);
  const auto beyond = static_cast<__mmask32>(~std::uint64_t{0} << (rest + 1) / 2 * 2);
  const __m512i nothing = _mm512_maskz_set1_epi16(beyond, std::numeric_limits<std::int16_t>::min());
  __m512bh xs[size(T)];
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    xs[t] = as_pairs(_mm512_loadu_si512(in.x + t * in.x_stride + k));
  }
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) {
    const __m512bh ws = as_pairs(_mm512_mask_loadu_epi16(nothing, elements, w + r * in.n + k));
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) acc[r * T + t] = _mm512_dpbf16_ps(acc[r * T + t], ws, xs[t]);
  }
}

// The contract's tree of one output: + 8, + 4, + 2, + 1.
inline float reduce(__m512 acc) {
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(acc), _mm512_extractf32x8_ps(acc, 1));
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_movehdup_ps(s2)));
}

// s[0 … 3] of four outputs, one in each 128-bit block.
inline __m512 fold_4(__m512 a, __m512 b, __m512 c, __m512 d) {
  const __m512 ab =
      _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xEE));
  const __m512 cd =
      _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xEE));
  return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xDD));
}

inline __m512 add_halves(__m512 a, __m512 b) {
  const __m512d low = _mm512_castps_pd(a);
  const __m512d high = _mm512_castps_pd(b);
  return _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(low, high)),
                       _mm512_castpd_ps(_mm512_unpackhi_pd(low, high)));
}

// The tree of 4 rows × T tokens at once: block t of the result holds the four rows of token t.
// Blocks beyond T repeat the last. Subscripts are constants: a loop would leave sums in memory.
template <int T>
inline __m512 reduce_tile(const __m512 (&acc)[size(4 * T)]) {
  constexpr int second = T > 1 ? 1 : 0;
  constexpr int third = T > 2 ? 2 : second;
  constexpr int fourth = T > 3 ? 3 : third;
  const __m512 r0 = fold_4(acc[0], acc[second], acc[third], acc[fourth]);
  const __m512 r1 = fold_4(acc[T], acc[T + second], acc[T + third], acc[T + fourth]);
  const __m512 r2 =
      fold_4(acc[2 * T], acc[2 * T + second], acc[2 * T + third], acc[2 * T + fourth]);
  const __m512 r3 =
      fold_4(acc[3 * T], acc[3 * T + second], acc[3 * T + third], acc[3 * T + fourth]);
  const __m512 r01 = add_halves(r0, r1);
  const __m512 r23 = add_halves(r2, r3);
  return _mm512_add_ps(_mm512_shuffle_ps(r01, r23, 0x88), _mm512_shuffle_ps(r01, r23, 0xDD));
}

// R rows × T tokens.
template <int R, int T, bool fetch_ahead>
inline void tile(const Product& in, Index row, Fetch& fetch) {
  __m512 acc[size(R * T)];
  accumulate<R, T, fetch_ahead>(in, in.w + row * in.n, in.n, acc, fetch);
  float* y = in.y + row;
  if constexpr (R == 4) {
    __m512 sums = reduce_tile<T>(acc);
    if (in.bias != nullptr) {
      sums = _mm512_add_ps(sums, _mm512_broadcast_f32x4(_mm_loadu_ps(in.bias + row)));
    }
    _mm_storeu_ps(y, _mm512_castps512_ps128(sums));
    if constexpr (T > 1) _mm_storeu_ps(y + in.y_stride, _mm512_extractf32x4_ps(sums, 1));
    if constexpr (T > 2) _mm_storeu_ps(y + 2 * in.y_stride, _mm512_extractf32x4_ps(sums, 2));
    if constexpr (T > 3) _mm_storeu_ps(y + 3 * in.y_stride, _mm512_extractf32x4_ps(sums, 3));
  } else {
    static_assert(R == 1);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      const __m128 sum = _mm_set_ss(reduce(acc[t]));
      y[t * in.y_stride] =
          _mm_cvtss_f32(in.bias != nullptr ? _mm_add_ss(sum, _mm_load_ss(in.bias + row)) : sum);
    }
  }
}

// One token reads weights at four places at a time: a single stream leaves a core waiting. Each
// place goes on in the order in which its rows lie.
void stream_rows(const Product& in, Index row, Index apart) {
  Product stream = in;  // the rows of a tile are `apart` rows from each other
  stream.n *= apart;
  __m512 acc[tile_rows];
  Fetch none;
  accumulate<tile_rows, 1, false>(stream, in.w + row * in.n, in.n, acc, none);
  KRAIT_UNROLL
  for (int s = 0; s < tile_rows; ++s) {
    const Index at = row + s * apart;
    const __m128 sum = _mm_set_ss(reduce(acc[s]));
    in.y[at] = _mm_cvtss_f32(in.bias != nullptr ? _mm_add_ss(sum, _mm_load_ss(in.bias + at)) : sum);
  }
}

template <int T, bool fetch_ahead>
void rows_of(const Product& in, Range outputs, Fetch& fetch) {
  Index row = outputs.begin;
  if constexpr (T > 1) {
    for (; row + tile_rows <= outputs.end; row += tile_rows)
      tile<tile_rows, T, fetch_ahead>(in, row, fetch);
  } else {
    const Index apart = outputs.size() / tile_rows;
    for (; row < outputs.begin + apart; ++row) stream_rows(in, row, apart);
    row += (tile_rows - 1) * apart;
  }
  for (; row < outputs.end; ++row) tile<1, T, fetch_ahead>(in, row, fetch);
}

template <int T, bool fetch_ahead>
void for_tokens(const Product& in, Range outputs, Index tokens, Fetch& fetch) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<T - 1, fetch_ahead>(in, outputs, tokens, fetch);
    rows_of<T, fetch_ahead>(in, outputs, fetch);
  }
}

}  // namespace

void matmul_bf16_avx512(const MatmulBf16Args& args) noexcept {
  const FlushToZero flush;  // for the sums; the products flush by themselves
  const Product in{.w = static_cast<const bf16*>(args.W.data),
                   .x = args.x.values,
                   .n = args.W.cols,
                   .x_stride = args.x.stride,
                   .bias = args.bias,
                   .y = args.y.data,
                   .y_stride = args.y.stride};
  const Index tokens = args.y.rows;
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  const bool is_few = tokens > 1 && tokens <= few_tokens;
  const Index row_bytes = args.W.cols * 2 + 1;
  const Index fitting = (is_few ? few_block_bytes : block_bytes) / row_bytes / 16 * 16;
  const Index block = fitting < 16 ? 16 : fitting;
  // Each tile of a block, whatever its tokens, requests its part of the next block.
  const Index step = is_few && tiles > 0 ? tile_rows * group * 2 / tiles : 0;
  for (Index row = args.outputs.begin; row < args.outputs.end; row += block) {
    const Range rows{row, row + block < args.outputs.end ? row + block : args.outputs.end};
    Fetch fetch{.next = reinterpret_cast<std::uintptr_t>(in.w + rows.end * in.n),
                .step = rows.end < args.outputs.end ? static_cast<std::uintptr_t>(step) : 0};
    for (Index i = 0; i < tiles; ++i) {
      const Index begin = tokens * i / tiles;
      const Index end = tokens * (i + 1) / tiles;
      Product part = in;
      part.x += begin * in.x_stride;
      part.y += begin * in.y_stride;
      if (is_few) {
        for_tokens<tile_tokens, true>(part, rows, end - begin, fetch);
      } else {
        for_tokens<tile_tokens, false>(part, rows, end - begin, fetch);
      }
    }
  }
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
KRAIT_TARGET_END

#endif
