// Tiles of dot products, once per instruction set: what matvec and matmul share. Include after
// targets.hpp.

#if defined(KRAIT_DOT_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#  ifdef KRAIT_DOT_INL_HPP
#    undef KRAIT_DOT_INL_HPP
#  else
#    define KRAIT_DOT_INL_HPP
#  endif

#  include <array>
#  include <cstddef>
#  include <type_traits>

#  include <hwy/highway.h>

#  include "kernels/simd-inl.hpp"
#  include "krait/core/executor.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

using D4 = hn::FixedTag<float, 4>;
using V4 = hn::Vec<D4>;

constexpr int register_parts = static_cast<int>(vector_parts);

// T tokens times stored weights. Row-major; w, bias and y belong to output 0.
template <class W>
struct Product {
  const W* w;
  const float* x;
  Index n;  // elements of a row of w
  Index x_stride;
  const float* bias;  // or null
  float* y;
  Index y_stride;
};

// A register of weights as floats.
template <class W>
HWY_INLINE VF load_group(const W* w) {
  return load(w);
}

#  if HWY_TARGET == HWY_AVX3
// Group `half` (0 or 1) of 32 neighbouring weights of bf16 as floats: one permutation puts each
// into the upper half of its lane, where widening and shifting would take two instructions.
template <int half>
HWY_INLINE VF widen_half(__m512i weights) {
  alignas(64) static constexpr auto index = [] {
    std::array<std::uint16_t, 32> at{};
    for (std::size_t i = 0; i < 16; ++i) {
      at[2 * i + 1] = static_cast<std::uint16_t>(16 * half + static_cast<int>(i));
    }
    return at;
  }();
  constexpr __mmask32 upper_halves = 0xAAAAAAAA;
  const __m512i places = _mm512_load_si512(index.data());
  return VF{_mm512_castsi512_ps(_mm512_maskz_permutexvar_epi16(upper_halves, places, weights))};
}

// The next 16 weights.
HWY_INLINE VF load_group(const bf16* w) {
  return widen_half<0>(
      _mm512_castsi256_si512(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(w))));
}

// Whether the chains of R × T outputs, both groups of T tokens, the weights and their places fit in
// 32 registers. With one spilled, the products of many tokens take half as long again.
template <int R, int T>
constexpr bool pairs_of_groups_fit = R* T + 2 * T + 4 <= 32;

// Two groups of 16 elements at a time, as far as there are such.
template <int R, int T, bool fetch_ahead>
HWY_INLINE Index accumulate_pairs_of_groups(const bf16* w, const float* x, const Product<bf16>& in,
                                            Index begin, Index end, Array<VF, R * T>& acc,
                                            Fetch& fetch) {
  Index k = begin;
  for (; k + 2 * virtual_lanes <= end; k += 2 * virtual_lanes) {
    if constexpr (fetch_ahead) {
      fetch.advance();
      fetch.advance();
    }
    Array<VF, 2 * T> xs;
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      xs[t] = load(x + t * in.x_stride + k);
      xs[T + t] = load(x + t * in.x_stride + k + virtual_lanes);
    }
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) {
      const __m512i both = _mm512_loadu_si512(w + r * in.n + k);
      const VF first = widen_half<0>(both);
      const VF second = widen_half<1>(both);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) acc[r * T + t] = fma(first, xs[t], acc[r * T + t]);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) acc[r * T + t] = fma(second, xs[T + t], acc[r * T + t]);
    }
  }
  return k;
}
#  endif

// acc[(r·T + t)·parts + p] continues the chains of `parts` registers, the first of which holds lane
// `lane`, over elements [begin, end); begin is a multiple of 16. R·T·parts chains are independent.
template <int R, int T, int parts, bool fetch_ahead, class W>
HWY_INLINE void accumulate_tile(const W* w, const float* x, const Product<W>& in, Index lane,
                                Index begin, Index end, Array<VF, R * T * parts>& acc,
                                Fetch& fetch) {
  const DF d;
  Index k = begin;
#  if HWY_TARGET == HWY_AVX3
  if constexpr (std::is_same_v<W, bf16> && parts == 1 && pairs_of_groups_fit<R, T>) {
    k = accumulate_pairs_of_groups<R, T, fetch_ahead>(w, x, in, begin, end, acc, fetch);
  }
#  endif
  for (; k + virtual_lanes <= end; k += virtual_lanes) {
    if constexpr (fetch_ahead) fetch.advance();
    KRAIT_UNROLL
    for (int p = 0; p < parts; ++p) {
      const Index at = k + lane + p * vector_lanes;
      Array<VF, T> xs;
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) xs[t] = load(x + t * in.x_stride + at);
      KRAIT_UNROLL
      for (int r = 0; r < R; ++r) {
        const VF ws = load_group(w + r * in.n + at);
        KRAIT_UNROLL
        for (int t = 0; t < T; ++t) {
          VF& a = acc[(r * T + t) * parts + p];
          a = fma(ws, xs[t], a);
        }
      }
    }
  }
  KRAIT_UNROLL
  for (int p = 0; p < parts; ++p) {
    const Index at = k + lane + p * vector_lanes;
    if (at >= end) return;
    const Index count = HWY_MIN(vector_lanes, end - at);
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(count));
    Array<VF, T> xs;
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) xs[t] = load_count(x + t * in.x_stride + at, count);
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) {
      const VF ws = load_count(w + r * in.n + at, count);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        VF& a = acc[(r * T + t) * parts + p];
        a = hn::IfThenElse(mask, fma(ws, xs[t], a), a);
      }
    }
  }
}

// s[0 … 3] of the contract's tree.
HWY_INLINE V4 fold_to_4(const Lanes& lanes) {
#  if HWY_TARGET == HWY_AVX3
  const hn::Half<DF> d8;
  const auto s8 = hn::Add(hn::LowerHalf(d8, lanes.part[0]), hn::UpperHalf(d8, lanes.part[0]));
  return hn::Add(hn::LowerHalf(D4(), s8), hn::UpperHalf(D4(), s8));
#  elif HWY_TARGET == HWY_AVX2
  const auto s8 = hn::Add(lanes.part[0], lanes.part[1]);
  return hn::Add(hn::LowerHalf(D4(), s8), hn::UpperHalf(D4(), s8));
#  else
  return hn::Add(hn::Add(lanes.part[0], lanes.part[2]), hn::Add(lanes.part[1], lanes.part[3]));
#  endif
}

// The tree of four outputs at once.
HWY_INLINE V4 reduce_4(const Lanes& la, const Lanes& lb, const Lanes& lc, const Lanes& ld) {
  const D4 d4;
  const V4 a = fold_to_4(la);
  const V4 b = fold_to_4(lb);
  const V4 c = fold_to_4(lc);
  const V4 d = fold_to_4(ld);
  const V4 ab = hn::Add(hn::ConcatLowerLower(d4, b, a), hn::ConcatUpperUpper(d4, b, a));
  const V4 cd = hn::Add(hn::ConcatLowerLower(d4, d, c), hn::ConcatUpperUpper(d4, d, c));
  return hn::Add(hn::ConcatEven(d4, cd, ab), hn::ConcatOdd(d4, cd, ab));
}

// Sums of four neighbouring outputs of one token, and their bias.
HWY_INLINE void store_4(V4 sums, const float* bias, float* y) {
  const D4 d4;
  if (bias != nullptr) sums = hn::Add(sums, hn::LoadU(d4, bias));
  hn::StoreU(sums, d4, y);
}

#  if HWY_TARGET == HWY_AVX3

// s[0 … 3] of four outputs, one in each 128-bit block.
HWY_INLINE VF fold_4(VF a, VF b, VF c, VF d) {
  const auto halves = [](VF low, VF high) HWY_ATTR {
    const VF outer = VF{_mm512_shuffle_f32x4(low.raw, high.raw, 0x44)};
    const VF inner = VF{_mm512_shuffle_f32x4(low.raw, high.raw, 0xEE)};
    return hn::Add(outer, inner);
  };
  const VF ab = halves(a, b);
  const VF cd = halves(c, d);
  return hn::Add(VF{_mm512_shuffle_f32x4(ab.raw, cd.raw, 0x88)},
                 VF{_mm512_shuffle_f32x4(ab.raw, cd.raw, 0xDD)});
}

// The tree of 4 rows × `count` tokens from token `first` of T on at once: block t of the result
// holds the four rows of token first + t. Blocks beyond `count`, at most 4, repeat others.
template <int T, int first, int count>
HWY_INLINE VF reduce_tokens(const Array<Lanes, 4 * T>& lanes) {
  VF row[4];
  KRAIT_UNROLL
  for (int r = 0; r < 4; ++r) {
    const Lanes* at = lanes + r * T + first;
    row[r] = fold_4(at[0].part[0], at[count > 1 ? 1 : 0].part[0], at[count > 2 ? 2 : 0].part[0],
                    at[count > 3 ? 3 : 0].part[0]);
  }
  const auto pairs = [](VF a, VF b) HWY_ATTR {
    const __m512d low = _mm512_castps_pd(a.raw);
    const __m512d high = _mm512_castps_pd(b.raw);
    return hn::Add(VF{_mm512_castpd_ps(_mm512_unpacklo_pd(low, high))},
                   VF{_mm512_castpd_ps(_mm512_unpackhi_pd(low, high))});
  };
  const VF r01 = pairs(row[0], row[1]);
  const VF r23 = pairs(row[2], row[3]);
  return hn::Add(VF{_mm512_shuffle_ps(r01.raw, r23.raw, 0x88)},
                 VF{_mm512_shuffle_ps(r01.raw, r23.raw, 0xDD)});
}

// Reduces and stores the outputs of tokens first … T - 1, four tokens at a time.
template <int T, int first>
HWY_INLINE void finish_tokens(const Array<Lanes, 4 * T>& lanes, const float* bias,
                              Index bias_stride, float* y, Index y_stride) {
  constexpr int count = HWY_MIN(4, T - first);
  const __m512 sums = reduce_tokens<T, first, count>(lanes).raw;
  const auto store_token = [&](int t, __m128 four) HWY_ATTR {
    store_4(V4{four}, bias != nullptr ? bias + (first + t) * bias_stride : nullptr,
            y + (first + t) * y_stride);
  };
  store_token(0, _mm512_castps512_ps128(sums));
  if constexpr (count > 1) store_token(1, _mm512_extractf32x4_ps(sums, 1));
  if constexpr (count > 2) store_token(2, _mm512_extractf32x4_ps(sums, 2));
  if constexpr (count > 3) store_token(3, _mm512_extractf32x4_ps(sums, 3));
  if constexpr (first + 4 < T) finish_tokens<T, first + 4>(lanes, bias, bias_stride, y, y_stride);
}

#  endif

// Reduces the lanes of R × T outputs and stores them. All tokens have one bias, or each has its
// own, `bias_stride` from the one before.
template <int R, int T>
HWY_INLINE void finish_tile(const Array<Lanes, R * T>& lanes, const float* bias, float* y,
                            Index y_stride, Index bias_stride = 0) {
  if constexpr (R == 1) {
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      const float sum = reduce(lanes[t]);
      y[t * y_stride] = bias != nullptr ? sum + *bias : sum;
    }
  } else {
    static_assert(R == 4);
#  if HWY_TARGET == HWY_AVX3
    if constexpr (T >= 2) return finish_tokens<T, 0>(lanes, bias, bias_stride, y, y_stride);
#  endif
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      store_4(reduce_4(lanes[t], lanes[T + t], lanes[2 * T + t], lanes[3 * T + t]),
              bias != nullptr ? bias + t * bias_stride : nullptr, y + t * y_stride);
    }
  }
}

// R rows for T tokens, one row after the other, so that the weights are read in the order in which
// they lie. Hardware prefetching reaches the full bandwidth of memory only so: rows of a few KiB
// that are read side by side look like no stream to it.
template <int R, int T, class W>
HWY_INLINE void stream_rows(const Product<W>& in, Index row) {
  Array<Lanes, R * T> lanes;
  for (int r = 0; r < R; ++r) {
    Array<VF, T * register_parts> acc;
    KRAIT_UNROLL
    for (int i = 0; i < T * register_parts; ++i) acc[i] = hn::Zero(DF());
    Fetch none;
    accumulate_tile<1, T, register_parts, false>(in.w + (row + r) * in.n, in.x, in, 0, 0, in.n, acc,
                                                 none);
    KRAIT_UNROLL
    for (int i = 0; i < T * register_parts; ++i) {
      lanes[r * T + i / register_parts].part[i % register_parts] = acc[i];
    }
  }
  finish_tile<R, T>(lanes, in.bias != nullptr ? in.bias + row : nullptr, in.y + row, in.y_stride);
}

// Places at which one token reads weights at a time. A single stream leaves a core waiting: each
// stream has a prefetcher's attention and requests of its own under way.
constexpr int streams = 4;

// One token, four rows of each stream; the streams lie `apart` rows from each other.
template <class W>
HWY_INLINE void stream_apart(const Product<W>& in, Index row, Index apart) {
  Array<Lanes, 4 * streams> lanes;
  Product<W> stream = in;
  stream.n *= apart;
  for (int r = 0; r < 4; ++r) {
    Array<VF, streams * register_parts> acc;
    KRAIT_UNROLL
    for (int i = 0; i < streams * register_parts; ++i) acc[i] = hn::Zero(DF());
    Fetch none;
    accumulate_tile<streams, 1, register_parts, false>(in.w + (row + r) * in.n, in.x, stream, 0, 0,
                                                       in.n, acc, none);
    KRAIT_UNROLL
    for (int i = 0; i < streams * register_parts; ++i) {
      lanes[r * streams + i / register_parts].part[i % register_parts] = acc[i];
    }
  }
  // A stream is to the reduction what a token is to a tile.
  finish_tile<4, streams>(lanes, in.bias != nullptr ? in.bias + row : nullptr, in.y + row, apart,
                          apart);
}

// T tokens, the weights in order.
template <int T, class W>
HWY_INLINE void stream_outputs(const Product<W>& in, Range outputs) {
  Index row = outputs.begin;
  if constexpr (T == 1) {
    const Index apart = outputs.size() / (4 * streams) * 4;
    for (; row < outputs.begin + apart; row += 4) stream_apart(in, row, apart);
    row += (streams - 1) * apart;
  }
  for (; row + 4 <= outputs.end; row += 4) stream_rows<4, T>(in, row);
  for (; row < outputs.end; ++row) stream_rows<1, T>(in, row);
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
