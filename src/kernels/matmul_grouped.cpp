#include "krait/kernels/matmul_grouped.hpp"

#include "kernels/matmul_grouped_amx.hpp"
#include "kernels/matmul_grouped_vnni.hpp"
#include "krait/kernels/ref/matmul_grouped.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_grouped.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

// Lanes are rows: a register of 32-bit sums belongs to vector_lanes rows of a block, and the same
// number of bytes holds four neighbouring inputs of each of them.
using D8 = hn::Repartition<std::int8_t, DF>;
using D16 = hn::Repartition<std::int16_t, DF>;
using V8 = hn::Vec<D8>;
using V16 = hn::Vec<D16>;
using V32 = hn::Vec<DI>;

constexpr Index line_bytes = 64;  // four inputs of the 16 rows of a block
constexpr Index part_bytes = line_bytes / vector_parts;

// Four inputs of one token, for every row.
HWY_INLINE V8 load_inputs(const std::int8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  return hn::BitCast(D8(), hn::Set(DI(), four));
}

HWY_INLINE V8 load_codes(const std::uint8_t* codes) {
  return hn::LoadU(D8(), reinterpret_cast<const std::int8_t*>(codes));
}

#if HWY_ARCH_X86

// Sums of neighbouring products of unsigned a and signed b: exact where |a0 b0 + a1 b1| < 2^15.
HWY_INLINE V16 pair_products(V8 a, V8 b) {
#  if HWY_TARGET == HWY_AVX3
  return V16{_mm512_maddubs_epi16(a.raw, b.raw)};
#  elif HWY_TARGET == HWY_AVX2
  return V16{_mm256_maddubs_epi16(a.raw, b.raw)};
#  else
  return V16{_mm_maddubs_epi16(a.raw, b.raw)};
#  endif
}

// x where w > 0, -x where w < 0, 0 or x where w = 0; x is not -128.
HWY_INLINE V8 with_sign_of(V8 x, V8 w) {
#  if HWY_TARGET == HWY_AVX3
  const __mmask64 is_negative = _mm512_movepi8_mask(w.raw);
  return V8{_mm512_mask_sub_epi8(x.raw, is_negative, _mm512_setzero_si512(), x.raw)};
#  elif HWY_TARGET == HWY_AVX2
  return V8{_mm256_sign_epi8(x.raw, w.raw)};
#  else
  return V8{_mm_sign_epi8(x.raw, w.raw)};
#  endif
}

HWY_INLINE V32 add_pairs(V16 pairs) {
  const V16 ones = hn::Set(D16(), 1);
#  if HWY_TARGET == HWY_AVX3
  return V32{_mm512_madd_epi16(pairs.raw, ones.raw)};
#  elif HWY_TARGET == HWY_AVX2
  return V32{_mm256_madd_epi16(pairs.raw, ones.raw)};
#  else
  return V32{_mm_madd_epi16(pairs.raw, ones.raw)};
#  endif
}

// Keeps the compiler from adding integers in another order, for which it would need more registers
// than there are.
template <class V>
HWY_INLINE V in_order(V v) {
  asm("" : "+x"(v.raw));
  return v;
}

// Weights of q8 with what every token needs of them. |w| · |x| ≤ 127 · 127, so pairs are exact.
struct SignedCodes {
  V8 w;
  V8 magnitude;
  HWY_INLINE explicit SignedCodes(V8 codes) : w(codes), magnitude(hn::Abs(codes)) {}
  HWY_INLINE V32 add_dot(V32 sum, V8 x) const {
    return in_order(hn::Add(sum, add_pairs(pair_products(magnitude, with_sign_of(x, w)))));
  }
};

// Sums of q4: eight lines of |15 · 127 · 2| fit 16 bits.
using Sum4 = V16;
HWY_INLINE Sum4 zero_sum4() { return hn::Zero(D16()); }
HWY_INLINE Sum4 add_dot4(Sum4 sum, V8 codes, V8 x) {
  return in_order(hn::Add(sum, pair_products(codes, x)));
}
HWY_INLINE V32 whole_sum4(Sum4 sum) { return add_pairs(sum); }

#else

// Products in 16 bits, which Highway has for every target.
HWY_INLINE V32 dot_widened(V8 w, V8 x) {
  const hn::Half<D8> d8h;
  const D16 d16;
  const DI di;
  const auto low =
      hn::Mul(hn::PromoteTo(d16, hn::LowerHalf(d8h, w)), hn::PromoteTo(d16, hn::LowerHalf(d8h, x)));
  const auto high =
      hn::Mul(hn::PromoteTo(d16, hn::UpperHalf(d8h, w)), hn::PromoteTo(d16, hn::UpperHalf(d8h, x)));
  // Pairs: the odd elements are the upper halves of 32-bit lanes.
  const auto pairs = [&](V16 products) HWY_ATTR {
    const auto wide = hn::BitCast(di, products);
    return hn::Add(hn::ShiftRight<16>(wide), hn::ShiftRight<16>(hn::ShiftLeft<16>(wide)));
  };
  const auto a = hn::BitCast(DF(), pairs(low));
  const auto b = hn::BitCast(DF(), pairs(high));
  return hn::Add(hn::BitCast(di, hn::ConcatEven(DF(), b, a)),
                 hn::BitCast(di, hn::ConcatOdd(DF(), b, a)));
}

struct SignedCodes {
  V8 w;
  HWY_INLINE explicit SignedCodes(V8 codes) : w(codes) {}
  HWY_INLINE V32 add_dot(V32 sum, V8 x) const { return hn::Add(sum, dot_widened(w, x)); }
};

using Sum4 = V32;
HWY_INLINE Sum4 zero_sum4() { return hn::Zero(DI()); }
HWY_INLINE Sum4 add_dot4(Sum4 sum, V8 codes, V8 x) { return hn::Add(sum, dot_widened(codes, x)); }
HWY_INLINE V32 whole_sum4(Sum4 sum) { return sum; }

#endif

// The integer sums of one group for T tokens and P neighbouring parts of a block.
template <int T, int P>
HWY_INLINE void group_sums_q8(const std::uint8_t* codes, const std::int8_t* x, Index x_stride,
                              Array<V32, T * P>& sums) {
  KRAIT_UNROLL
  for (int i = 0; i < T * P; ++i) sums[i] = hn::Zero(DI());
  for (Index line = 0; line < group_size / 4; ++line) {
    Array<V8, T> xs;
    if constexpr (P > 1) {
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) xs[t] = load_inputs(x + t * x_stride + line * 4);
    }
    KRAIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const SignedCodes w(load_codes(codes + line * line_bytes + p * part_bytes));
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const V8 inputs = P > 1 ? xs[t] : load_inputs(x + t * x_stride + line * 4);
        sums[t * P + p] = w.add_dot(sums[t * P + p], inputs);
      }
    }
  }
}

template <int T, int P>
HWY_INLINE void group_sums_q4(const std::uint8_t* codes, const std::int8_t* x, Index x_stride,
                              Array<V32, T * P>& sums) {
  const V8 nibble = hn::Set(D8(), 15);
  Array<Sum4, T * P> pairs;
  KRAIT_UNROLL
  for (int i = 0; i < T * P; ++i) pairs[i] = zero_sum4();
  KRAIT_UNROLL
  for (Index line = 0; line < group_size / 8; ++line) {
    KRAIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const V8 both = load_codes(codes + line * line_bytes + p * part_bytes);
      const V8 low = hn::And(both, nibble);
      const V8 high =
          hn::And(hn::BitCast(D8(), hn::ShiftRight<4>(hn::BitCast(D16(), both))), nibble);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const std::int8_t* inputs = x + t * x_stride + line * 4;
        Sum4& sum = pairs[t * P + p];
        sum = add_dot4(sum, low, load_inputs(inputs));
        sum = add_dot4(sum, high, load_inputs(inputs + group_size / 2));
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < T * P; ++i) sums[i] = whole_sum4(pairs[i]);
}

// T tokens from `token` on, times parts [part, part + P) of a block of rows.
template <GroupedForm form, int T, int P>
HWY_INLINE void tile(const MatmulGroupedArgs& args, Index block, Index part, Index token,
                     Fetch& fetch) {
  const DF d;
  const Index groups = args.x.groups;
  const std::uint8_t* codes = args.W.codes + block * groups * block_bytes(form) + part * part_bytes;
  const f16* scales = args.W.scales + block * groups * row_block + part * vector_lanes;
  const std::int8_t* x = args.x.values + token * groups * group_size;
  const float* x_scales = args.x.scales + token * groups;
  const std::int32_t* x_sums = args.x.sums + token * groups;
  Array<VF, T * P> acc;
  KRAIT_UNROLL
  for (int i = 0; i < T * P; ++i) acc[i] = hn::Zero(d);
  for (Index g = 0; g < groups; ++g) {
    fetch.advance();
    Array<V32, T * P> sums;
    if constexpr (form == GroupedForm::q8) {
      group_sums_q8<T, P>(codes, x, groups * group_size, sums);
    } else {
      group_sums_q4<T, P>(codes, x, groups * group_size, sums);
      // The codes are q + 8.
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const V32 excess = hn::Set(DI(), x_sums[t * groups + g] * 8);
        KRAIT_UNROLL
        for (int p = 0; p < P; ++p) sums[t * P + p] = hn::Sub(sums[t * P + p], excess);
      }
    }
    KRAIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const VF scale = load(scales + p * vector_lanes);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        VF& a = acc[t * P + p];
        const VF both = hn::Mul(scale, hn::Set(d, x_scales[t * groups + g]));
        a = fma(hn::ConvertTo(d, sums[t * P + p]), both, a);
      }
    }
    codes += block_bytes(form);
    scales += row_block;
    x += group_size;
  }
  KRAIT_UNROLL
  for (int p = 0; p < P; ++p) {
    const Index row = block * row_block + (part + p) * vector_lanes;
    const Index count = HWY_MIN(vector_lanes, args.outputs.end - row);
    if (count <= 0) return;
    const VF bias = args.bias != nullptr ? load_count(args.bias + row, count) : hn::Zero(d);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      VF y = acc[t * P + p];
      if (args.bias != nullptr) y = hn::Add(y, bias);
      store_count(y, args.y.row_data(token + t) + row, count);
    }
  }
}

// Places at which one token reads weights at a time. A single stream leaves a core waiting: each
// stream has a prefetcher's attention and requests of its own under way.
constexpr int streams = 4;

// One token times a block of rows of each stream; the streams lie `apart` blocks from each other.
template <GroupedForm form>
HWY_INLINE void stream_blocks(const MatmulGroupedArgs& args, Index block, Index apart) {
  constexpr int P = static_cast<int>(vector_parts);
  const DF d;
  const Index groups = args.x.groups;
  Array<VF, streams * P> acc;
  KRAIT_UNROLL
  for (int i = 0; i < streams * P; ++i) acc[i] = hn::Zero(d);
  for (Index g = 0; g < groups; ++g) {
    const std::int8_t* x = args.x.values + g * group_size;
    const VF x_scale = hn::Set(d, args.x.scales[g]);
    KRAIT_UNROLL
    for (int s = 0; s < streams; ++s) {
      const Index at = (block + s * apart) * groups + g;
      Array<V32, P> sums;
      if constexpr (form == GroupedForm::q8) {
        group_sums_q8<1, P>(args.W.codes + at * block_bytes(form), x, 0, sums);
      } else {
        group_sums_q4<1, P>(args.W.codes + at * block_bytes(form), x, 0, sums);
      }
      KRAIT_UNROLL
      for (int p = 0; p < P; ++p) {
        if constexpr (form == GroupedForm::q4) {
          sums[p] = hn::Sub(sums[p], hn::Set(DI(), args.x.sums[g] * 8));
        }
        const VF scale = load(args.W.scales + at * row_block + p * vector_lanes);
        VF& a = acc[s * P + p];
        a = fma(hn::ConvertTo(d, sums[p]), hn::Mul(scale, x_scale), a);
      }
    }
  }
  KRAIT_UNROLL
  for (int s = 0; s < streams; ++s) {
    KRAIT_UNROLL
    for (int p = 0; p < P; ++p) {
      const Index row = (block + s * apart) * row_block + p * vector_lanes;
      VF y = acc[s * P + p];
      if (args.bias != nullptr) y = hn::Add(y, load(args.bias + row));
      store(y, args.y.data + row);
    }
  }
}

// Tokens of a register tile: 13 of 16 registers, or half of 32.
constexpr int tile_tokens = HWY_TARGET == HWY_AVX3 ? 8 : HWY_TARGET == HWY_AVX2 ? 4 : 2;

// Few tokens: the lines of a block are read whole, in order.
template <int T>
constexpr int tile_parts = static_cast<int>(T* vector_parts <= tile_tokens ? vector_parts : 1);

template <GroupedForm form, int T>
void for_tokens(const MatmulGroupedArgs& args, Index block, Index token, Index tokens,
                Fetch& fetch) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<form, T - 1>(args, block, token, tokens, fetch);
    for (Index part = 0; part < vector_parts; part += tile_parts<T>) {
      tile<form, T, tile_parts<T>>(args, block, part, token, fetch);
    }
  }
}

template <GroupedForm form>
void matmul_of(const MatmulGroupedArgs& args) noexcept {
  const Index tokens = args.y.rows;
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  // Each tile of a block requests its part of the next block's codes.
  const Index step = block_bytes(form) / (tiles * vector_parts);
  Index row = args.outputs.begin;
  if (tokens == 1) {
    const Index apart = args.outputs.size() / (row_block * streams);
    for (; row < args.outputs.begin + apart * row_block; row += row_block) {
      stream_blocks<form>(args, row / row_block, apart);
    }
    row += (streams - 1) * apart * row_block;
  }
  for (; row < args.outputs.end; row += row_block) {
    const Index block = row / row_block;
    Fetch fetch{.next = reinterpret_cast<std::uintptr_t>(
                    args.W.codes + (block + 1) * args.W.groups() * block_bytes(form)),
                .step = static_cast<std::uintptr_t>(row + row_block < args.outputs.end ? step : 0)};
    // Tiles of nearly equal width: a narrow last one would be slow.
    for (Index i = 0; i < tiles; ++i) {
      const Index begin = tokens * i / tiles;
      const Index end = tokens * (i + 1) / tiles;
      for_tokens<form, tile_tokens>(args, block, begin, end - begin, fetch);
    }
  }
}

}  // namespace

void matmul_grouped(const MatmulGroupedArgs& args) noexcept {
  if (args.W.form == GroupedForm::q8) {
    matmul_of<GroupedForm::q8>(args);
  } else {
    matmul_of<GroupedForm::q4>(args);
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

void matmul_grouped(const MatmulGroupedArgs& args) noexcept {
  KRAIT_KERNEL_INT8(matmul_grouped, ref::matmul_grouped, matmul_grouped_vnni, matmul_grouped_amx)
  (args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
