// Tiles of dot products, once per instruction set: what matvec and matmul share. Include after
// simd-inl.hpp.

#if defined(KRAIT_DOT_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#  ifdef KRAIT_DOT_INL_HPP
#    undef KRAIT_DOT_INL_HPP
#  else
#    define KRAIT_DOT_INL_HPP
#  endif

#  include <cstddef>

#  include <hwy/highway.h>

#  include "kernels/simd-inl.hpp"

// The loops below must vanish, so that their arrays become registers.
#  define KRAIT_UNROLL HWY_UNROLL(32)

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {

using D4 = hn::FixedTag<float, 4>;
using V4 = hn::Vec<D4>;

// An array of registers; all of its subscripts must be constants once loops are unrolled.
template <class V, int n>
using Array = V[static_cast<std::size_t>(n)];

// R rows of weights and T tokens, both row-major.
template <class W>
struct TileSource {
  const W* w;
  Index w_stride;
  const float* x;
  Index x_stride;
};

// acc[r·T + t] continues the chains of `parts` registers, starting at lane `first`, over elements
// [begin, end); begin is a multiple of 16. The loop interleaves R·T·parts independent chains.
template <int R, int T, int parts, class W>
HWY_INLINE void accumulate_tile(const TileSource<W>& from, Index first, Index begin, Index end,
                                Array<VF, R * T * parts>& acc) {
  const DF d;
  Index k = begin;
  for (; k + virtual_lanes <= end; k += virtual_lanes) {
    KRAIT_UNROLL
    for (int p = 0; p < parts; ++p) {
      const Index at = k + first + p * vector_lanes;
      Array<VF, T> x;
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) x[t] = load(from.x + t * from.x_stride + at);
      KRAIT_UNROLL
      for (int r = 0; r < R; ++r) {
        const VF w = load(from.w + r * from.w_stride + at);
        KRAIT_UNROLL
        for (int t = 0; t < T; ++t) {
          VF& a = acc[(r * T + t) * parts + p];
          a = fma(w, x[t], a);
        }
      }
    }
  }
  if (k == end) return;
  KRAIT_UNROLL
  for (int p = 0; p < parts; ++p) {
    const Index at = k + first + p * vector_lanes;
    if (at >= end) return;
    const Index count = HWY_MIN(vector_lanes, end - at);
    const auto mask = hn::FirstN(d, static_cast<std::size_t>(count));
    Array<VF, T> x;
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) x[t] = load_count(from.x + t * from.x_stride + at, count);
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) {
      const VF w = load_count(from.w + r * from.w_stride + at, count);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        VF& a = acc[(r * T + t) * parts + p];
        a = hn::IfThenElse(mask, fma(w, x[t], a), a);
      }
    }
  }
}

// The last three steps of the tree for four outputs whose s[0 … 7] or s[0 … 3] are in a, b, c, d.
HWY_INLINE V4 sum_of_4(V4 a, V4 b, V4 c, V4 d) {
  const D4 d4;
  const V4 ab = hn::Add(hn::ConcatLowerLower(d4, b, a), hn::ConcatUpperUpper(d4, b, a));
  const V4 cd = hn::Add(hn::ConcatLowerLower(d4, d, c), hn::ConcatUpperUpper(d4, d, c));
  return hn::Add(hn::ConcatEven(d4, cd, ab), hn::ConcatOdd(d4, cd, ab));
}

// s[0 … 3] of the tree.
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

// The tree of four outputs.
HWY_INLINE V4 reduce_4(const Lanes& a, const Lanes& b, const Lanes& c, const Lanes& d) {
  return sum_of_4(fold_to_4(a), fold_to_4(b), fold_to_4(c), fold_to_4(d));
}

// Writes R sums (4 or 1 of them, in the low lanes) and the bias of their rows.
template <int R>
HWY_INLINE void store_outputs(V4 sums, const float* bias, float* y) {
  const D4 d4;
  if constexpr (R == 4) {
    if (bias != nullptr) sums = hn::Add(sums, hn::LoadU(d4, bias));
    hn::StoreU(sums, d4, y);
  } else {
    static_assert(R == 1);
    const float sum = hn::GetLane(sums);
    *y = bias != nullptr ? sum + *bias : sum;
  }
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
