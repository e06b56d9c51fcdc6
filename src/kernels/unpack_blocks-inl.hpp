// The block formats of GGUF in vectors, once per instruction set: blocks to codes of 8 bits in the
// order of the weights, with a scale (and a minimum) for every 16 or 32 of them; then to floats,
// with the operations of decode_blocks.inl, in its order. Include after simd-inl.hpp.

#if defined(KRAIT_UNPACK_BLOCKS_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#  ifdef KRAIT_UNPACK_BLOCKS_INL_HPP
#    undef KRAIT_UNPACK_BLOCKS_INL_HPP
#  else
#    define KRAIT_UNPACK_BLOCKS_INL_HPP
#  endif

#  include <cstdint>
#  include <cstring>

#  include "core/block_format.hpp"
#  include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// Weights that are unpacked at a time: whole blocks of every format, and few enough for L1.
constexpr Index unpacked = 256;

// What `offset` does to scale · code.
enum class Offset { none, added, subtracted };

// Up to `unpacked` weights of a row.
struct Codes {
  HWY_ALIGN std::int8_t code[unpacked];
  HWY_ALIGN float scale[unpacked / 16];
  HWY_ALIGN float offset[unpacked / 16];
};

using D8 = hn::FixedTag<std::uint8_t, 16>;
using V8 = hn::Vec<D8>;

HWY_INLINE V8 bytes_from(const std::uint8_t* p) { return hn::LoadU(D8(), p); }

template <class T>
HWY_INLINE T word_from(const std::uint8_t* p) {
  T word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

HWY_INLINE void store_codes(V8 v, std::int8_t* to) {
  hn::Store(hn::BitCast(hn::FixedTag<std::int8_t, 16>(), v), hn::FixedTag<std::int8_t, 16>(), to);
}

// The `mask` bits of every byte from bit `shift` on.
HWY_INLINE V8 field(V8 v, int shift, std::uint8_t mask) {
  const hn::Repartition<std::uint16_t, D8> d16;
  const auto shifted = hn::BitCast(D8(), hn::ShiftRightSame(hn::BitCast(d16, v), shift));
  return hn::And(shifted, hn::Set(D8(), mask));
}

HWY_INLINE V8 low_nibbles(V8 v) { return hn::And(v, hn::Set(D8(), 15)); }
HWY_INLINE V8 high_nibbles(V8 v) { return field(v, 4, 15); }

// v - less in every byte; the results have a sign.
HWY_INLINE V8 less(V8 v, std::uint8_t subtrahend) { return hn::Sub(v, hn::Set(D8(), subtrahend)); }

// 16 in every byte whose bit is set, of bits `first` to first + 15 of the four bytes at p.
HWY_INLINE V8 sixteens(const std::uint8_t* p, int first) {
  HWY_ALIGN static constexpr std::uint8_t of_byte[16] = {0, 0, 0, 0, 0, 0, 0, 0,
                                                         1, 1, 1, 1, 1, 1, 1, 1};
  HWY_ALIGN static constexpr std::uint8_t bit[16] = {1, 2, 4, 8, 16, 32, 64, 128,
                                                     1, 2, 4, 8, 16, 32, 64, 128};
  const D8 d;
  const hn::Repartition<std::uint16_t, D8> d16;
  const V8 bits = hn::BitCast(d, hn::Set(d16, word_from<std::uint16_t>(p + first / 8)));
  const V8 bit_of = hn::Load(d, bit);
  const V8 own = hn::And(hn::TableLookupBytes(bits, hn::Load(d, of_byte)), bit_of);
  return hn::IfThenElseZero(hn::Eq(own, bit_of), hn::Set(d, 16));
}

// The f16 at p, widened.
HWY_INLINE float half_from(const std::uint8_t* p) {
#  if HWY_TARGET == HWY_SSE4
  return half_at(p);
#  else
  const hn::FixedTag<float, 4> d;
  const hn::Rebind<std::uint16_t, decltype(d)> d16;
  return hn::GetLane(widen_as(d, f16(), hn::Set(d16, word_from<std::uint16_t>(p))));
#  endif
}

// The 16 floats of codes of 8 bits with a sign, times d.
HWY_INLINE void scale_codes(V8 codes, float by, float* to) {
  const DF d;
  HWY_ALIGN std::int8_t code[16];
  store_codes(codes, code);
  const hn::Rebind<std::int8_t, DI> d8;
  for (Index i = 0; i < virtual_lanes; i += vector_lanes) {
    const VF value = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(d8, code + i)));
    hn::Store(hn::Mul(hn::Set(d, by), value), d, to + i);
  }
}

// Two words as the lower and the upper half of 16 bytes.
HWY_INLINE V8 bytes_of(std::uint64_t lower, std::uint64_t upper) {
  const hn::FixedTag<std::uint64_t, 2> d64;
  return hn::BitCast(D8(), hn::InterleaveLower(d64, hn::Set(d64, lower), hn::Set(d64, upper)));
}

// Codes of 4 bits that stand for the numbers of a table.
HWY_INLINE void look_up(const std::int8_t* table, V8 q, std::int8_t* to) {
  const V8 values = hn::BitCast(D8(), hn::LoadU(hn::FixedTag<std::int8_t, 16>(), table));
  store_codes(hn::TableLookupBytes(values, low_nibbles(q)), to);
  store_codes(hn::TableLookupBytes(values, high_nibbles(q)), to + 16);
}

// Scales and minima, 6 bits each, of the 8 parts of a block of q4_k or q5_k.
HWY_INLINE void unpack_part_scales(const std::uint8_t* block, Codes& to) {
  constexpr std::uint32_t six = 0x3F3F3F3F;
  constexpr std::uint32_t four = 0x0F0F0F0F;
  constexpr std::uint32_t two = 0x03030303;
  const auto a = word_from<std::uint32_t>(block + 4);
  const auto b = word_from<std::uint32_t>(block + 8);
  const auto c = word_from<std::uint32_t>(block + 12);
  const std::uint64_t scales = (a & six) | std::uint64_t{(c & four) | (a >> 6U & two) << 4U} << 32U;
  const std::uint64_t minima = (b & six) | std::uint64_t{(c >> 4U & four) | (b >> 6U & two) << 4U}
                                               << 32U;
  HWY_ALIGN float of[16];
  scale_codes(bytes_of(scales, 0), half_from(block), of);
  std::memcpy(to.scale, of, 8 * sizeof(float));
  scale_codes(bytes_of(minima, 0), half_from(block + 2), of);
  std::memcpy(to.offset, of, 8 * sizeof(float));
}

// A format: `group` weights with a scale, what becomes of `offset`, and the unpacking of a block to
// `code`, `scale` and `offset`.
template <BlockFormat format>
struct Unpack;

template <>
struct Unpack<BlockFormat::q4_0> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    *scale = half_from(b);
    const V8 q = bytes_from(b + 2);
    store_codes(less(low_nibbles(q), 8), code);
    store_codes(less(high_nibbles(q), 8), code + 16);
  }
};

template <>
struct Unpack<BlockFormat::q4_1> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::added;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float* m) {
    *scale = half_from(b);
    *m = half_from(b + 2);
    const V8 q = bytes_from(b + 4);
    store_codes(low_nibbles(q), code);
    store_codes(high_nibbles(q), code + 16);
  }
};

template <>
struct Unpack<BlockFormat::q5_0> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    *scale = half_from(b);
    const V8 q = bytes_from(b + 6);
    store_codes(less(hn::Or(low_nibbles(q), sixteens(b + 2, 0)), 16), code);
    store_codes(less(hn::Or(high_nibbles(q), sixteens(b + 2, 16)), 16), code + 16);
  }
};

template <>
struct Unpack<BlockFormat::q5_1> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::added;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float* m) {
    *scale = half_from(b);
    *m = half_from(b + 2);
    const V8 q = bytes_from(b + 8);
    store_codes(hn::Or(low_nibbles(q), sixteens(b + 4, 0)), code);
    store_codes(hn::Or(high_nibbles(q), sixteens(b + 4, 16)), code + 16);
  }
};

template <>
struct Unpack<BlockFormat::q8_0> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    *scale = half_from(b);
    store_codes(bytes_from(b + 2), code);
    store_codes(bytes_from(b + 18), code + 16);
  }
};

template <>
struct Unpack<BlockFormat::q2_k> {
  static constexpr Index group = 16;
  static constexpr Offset offset = Offset::subtracted;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float* m) {
    scale_codes(low_nibbles(bytes_from(b)), half_from(b + 80), scale);
    scale_codes(high_nibbles(bytes_from(b)), half_from(b + 82), m);
    for (Index half = 0; half < 2; ++half) {
      for (Index side = 0; side < 2; ++side) {
        const V8 q = bytes_from(b + 16 + 32 * half + 16 * side);
        for (int s = 0; s < 4; ++s) {
          store_codes(field(q, 2 * s, 3), code + 128 * half + 32 * s + 16 * side);
        }
      }
    }
  }
};

template <>
struct Unpack<BlockFormat::q3_k> {
  static constexpr Index group = 16;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    constexpr std::uint64_t four = 0x0F0F0F0F0F0F0F0F;
    constexpr std::uint32_t two = 0x03030303;
    const auto low = word_from<std::uint64_t>(b + 96);
    const auto high = word_from<std::uint32_t>(b + 104);
    const auto highs = [&](unsigned shift) {
      return (high >> shift & two) | std::uint64_t{high >> (shift + 2) & two} << 32U;
    };
    const V8 six = bytes_of((low & four) | highs(0) << 4U, (low >> 4U & four) | highs(4) << 4U);
    scale_codes(less(six, 32), half_from(b + 108), scale);
    for (Index half = 0; half < 2; ++half) {
      for (Index side = 0; side < 2; ++side) {
        const V8 q = bytes_from(b + 32 + 32 * half + 16 * side);
        const V8 more = bytes_from(b + 16 * side);
        for (int s = 0; s < 4; ++s) {
          // Four more where the bit is set, then four less.
          const V8 bit = field(more, static_cast<int>(4 * half) + s, 1);
          const V8 fours = hn::Add(hn::Add(bit, bit), hn::Add(bit, bit));
          store_codes(less(hn::Add(field(q, 2 * s, 3), fours), 4),
                      code + 128 * half + 32 * s + 16 * side);
        }
      }
    }
  }
};

template <>
struct Unpack<BlockFormat::q4_k> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::subtracted;
  static HWY_INLINE void block(const std::uint8_t* b, Codes& to) {
    unpack_part_scales(b, to);
    for (Index i = 0; i < 8; ++i) {
      const V8 q = bytes_from(b + 16 + 16 * i);
      std::int8_t* code = to.code + i / 2 * 64 + i % 2 * 16;
      store_codes(low_nibbles(q), code);
      store_codes(high_nibbles(q), code + 32);
    }
  }
};

template <>
struct Unpack<BlockFormat::q5_k> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::subtracted;
  static HWY_INLINE void block(const std::uint8_t* b, Codes& to) {
    unpack_part_scales(b, to);
    for (int i = 0; i < 8; ++i) {
      const V8 q = bytes_from(b + 48 + 16 * i);
      const V8 high = bytes_from(b + 16 + i % 2 * 16);
      std::int8_t* code = to.code + i / 2 * 64 + i % 2 * 16;
      const auto with_fifth = [&](V8 low, int part) {
        const V8 bit = field(high, part, 1);
        return hn::Or(low, hn::IfThenElseZero(hn::Eq(bit, hn::Set(D8(), 1)), hn::Set(D8(), 16)));
      };
      store_codes(with_fifth(low_nibbles(q), i / 2 * 2), code);
      store_codes(with_fifth(high_nibbles(q), i / 2 * 2 + 1), code + 32);
    }
  }
};

template <>
struct Unpack<BlockFormat::q6_k> {
  static constexpr Index group = 16;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    scale_codes(bytes_from(b + 192), half_from(b + 208), scale);
    for (Index half = 0; half < 2; ++half) {
      for (Index side = 0; side < 2; ++side) {
        const V8 high = bytes_from(b + 128 + 32 * half + 16 * side);
        const V8 first = bytes_from(b + 64 * half + 16 * side);
        const V8 second = bytes_from(b + 64 * half + 32 + 16 * side);
        std::int8_t* to = code + 128 * half + 16 * side;
        // The two bits stand at 4 and 5 of their bytes after shifts by -4, -2, 0 and 2.
        const V8 two = hn::Set(D8(), 3);
        const auto six = [&](V8 low, V8 high_two) {
          const hn::Repartition<std::uint16_t, D8> d16;
          const V8 raised = hn::BitCast(D8(), hn::ShiftLeft<4>(hn::BitCast(d16, high_two)));
          return less(hn::Or(low, raised), 32);
        };
        store_codes(six(low_nibbles(first), hn::And(high, two)), to);
        store_codes(six(low_nibbles(second), field(high, 2, 3)), to + 32);
        store_codes(six(high_nibbles(first), field(high, 4, 3)), to + 64);
        store_codes(six(high_nibbles(second), field(high, 6, 3)), to + 96);
      }
    }
  }
};

template <>
struct Unpack<BlockFormat::iq4_nl> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    *scale = half_from(b);
    look_up(uneven_codes, bytes_from(b + 2), code);
  }
};

template <>
struct Unpack<BlockFormat::iq4_xs> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    const float d = half_from(b);
    const unsigned high = word_from<std::uint16_t>(b + 2);
    for (unsigned part = 0; part < 8; ++part) {
      const unsigned six = (b[4 + part / 2] >> part % 2 * 4 & 15U) | (high >> 2 * part & 3U) << 4U;
      scale[part] = d * static_cast<float>(static_cast<int>(six) - 32);
      look_up(uneven_codes, bytes_from(b + 8 + 16 * part), code + 32 * part);
    }
  }
};

template <>
struct Unpack<BlockFormat::mxfp4> {
  static constexpr Index group = 32;
  static constexpr Offset offset = Offset::none;
  static HWY_INLINE void block(const std::uint8_t* b, std::int8_t* code, float* scale, float*) {
    *scale = mxfp4_scale(b[0]);
    look_up(float4_codes, bytes_from(b + 1), code);
  }
};

// n weights, at most `unpacked`.
template <BlockFormat format>
HWY_INLINE void unpack(const std::uint8_t* b, Index n, Codes& to) {
  using Format = Unpack<format>;
  constexpr BlockFormatInfo info = info_of(format);
  if constexpr (requires { Format::block(b, to); }) {
    Format::block(b, to);
  } else {
    constexpr Index groups = info.elements / Format::group;
    for (Index i = 0; i < n / info.elements; ++i) {
      Format::block(b + i * info.bytes, to.code + i * info.elements, to.scale + i * groups,
                    to.offset + i * groups);
    }
  }
}

// Weights k … k + vector_lanes - 1, with the scale and the offset of their group.
template <Offset offset>
HWY_INLINE VF weights_at(const Codes& codes, Index k, VF scale, VF by) {
  const hn::Rebind<std::int8_t, DI> d8;
  const VF code = hn::ConvertTo(DF(), hn::PromoteTo(DI(), hn::LoadU(d8, codes.code + k)));
  const VF weight = hn::Mul(scale, code);
  if constexpr (offset == Offset::added) return hn::Add(weight, by);
  if constexpr (offset == Offset::subtracted) return hn::Sub(weight, by);
  return weight;
}

// The weights as floats.
template <BlockFormat format>
HWY_INLINE void widen(const Codes& codes, Index n, float* out) {
  using Format = Unpack<format>;
  const DF d;
  for (Index g = 0; g < n / Format::group; ++g) {
    const VF scale = hn::Set(d, codes.scale[g]);
    const VF by = Format::offset == Offset::none ? scale : hn::Set(d, codes.offset[g]);
    KRAIT_UNROLL
    for (Index k = g * Format::group; k < (g + 1) * Format::group; k += vector_lanes) {
      hn::StoreU(weights_at<Format::offset>(codes, k, scale, by), d, out + k);
    }
  }
}

// acc[r] continues the 16 lanes of output r over n weights of its row.
template <BlockFormat format, int rows>
HWY_INLINE void continue_with(const Codes* codes, const float* x, Index n, float* acc) {
  using Format = Unpack<format>;
  constexpr int parts = static_cast<int>(vector_parts);
  const DF d;
  Array<VF, rows * parts> sum;
  KRAIT_UNROLL
  for (int i = 0; i < rows * parts; ++i) sum[i] = hn::Load(d, acc + i * vector_lanes);
  for (Index g = 0; g < n / Format::group; ++g) {
    Array<VF, rows> scale;
    Array<VF, rows> by;
    KRAIT_UNROLL
    for (int r = 0; r < rows; ++r) {
      scale[r] = hn::Set(d, codes[r].scale[g]);
      by[r] = Format::offset == Offset::none ? scale[r] : hn::Set(d, codes[r].offset[g]);
    }
    KRAIT_UNROLL
    for (Index i = 0; i < Format::group / virtual_lanes; ++i) {
      KRAIT_UNROLL
      for (int p = 0; p < parts; ++p) {
        const Index k = g * Format::group + i * virtual_lanes + p * vector_lanes;
        const VF xs = load(x + k);
        KRAIT_UNROLL
        for (int r = 0; r < rows; ++r) {
          sum[r * parts + p] =
              fma(weights_at<Format::offset>(codes[r], k, scale[r], by[r]), xs, sum[r * parts + p]);
        }
      }
    }
  }
  KRAIT_UNROLL
  for (int i = 0; i < rows * parts; ++i) hn::Store(sum[i], d, acc + i * vector_lanes);
}

#  if HWY_TARGET == HWY_AVX3
// With 16 lanes a register holds what all codes of 4 bits stand for in a group, and one instruction
// looks 16 of them up: the operations of weights_at, once for a group.

// Whether a format is of this kind, and its codes as floats.
template <BlockFormat format>
constexpr bool has_nibbles =
    format == BlockFormat::q4_0 || format == BlockFormat::q4_1 || format == BlockFormat::q4_k ||
    format == BlockFormat::iq4_nl || format == BlockFormat::mxfp4;

template <BlockFormat format>
HWY_INLINE VF nibble_values() {
  const DF d;
  if constexpr (format == BlockFormat::iq4_nl || format == BlockFormat::mxfp4) {
    const std::int8_t* codes = format == BlockFormat::iq4_nl ? uneven_codes : float4_codes;
    return hn::ConvertTo(d, hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<std::int8_t, DI>(), codes)));
  } else {
    return hn::Iota(d, format == BlockFormat::q4_0 ? -8.0F : 0.0F);
  }
}

HWY_INLINE VF half_vector(const std::uint8_t* p) {
  const hn::Rebind<std::uint16_t, DF> d16;
  return widen_as(DF(), f16(), hn::Set(d16, word_from<std::uint16_t>(p)));
}

// The low or the high halves of 16 bytes in the table.
HWY_INLINE VF look_up_low(VF table, hn::Vec<DI> bytes) {
  return hn::TableLookupLanes(table, hn::IndicesFromVec(DF(), hn::And(bytes, hn::Set(DI(), 15))));
}
HWY_INLINE VF look_up_high(VF table, hn::Vec<DI> bytes) {
  return hn::TableLookupLanes(table, hn::IndicesFromVec(DF(), hn::ShiftRight<4>(bytes)));
}

HWY_INLINE hn::Vec<DI> wide_bytes(const std::uint8_t* p) {
  return hn::PromoteTo(DI(), hn::LoadU(hn::Rebind<std::uint8_t, DI>(), p));
}

// As continue_with, from blocks `stride` bytes apart from row to row.
template <BlockFormat format, int rows>
HWY_INLINE void continue_nibbles(const std::uint8_t* block, Index stride, const float* x, Index n,
                                 float* acc) {
  constexpr BlockFormatInfo info = info_of(format);
  const DF d;
  const VF values = nibble_values<format>();
  Array<VF, rows> sum;
  KRAIT_UNROLL
  for (int r = 0; r < rows; ++r) sum[r] = hn::Load(d, acc + r * virtual_lanes);
  if constexpr (format == BlockFormat::q4_k) {
    Array<Codes, rows> codes;
    for (int r = 0; r < rows; ++r) unpack_part_scales(block + r * stride, codes[r]);
    for (Index pair = 0; pair < 4; ++pair) {
      KRAIT_UNROLL
      for (int r = 0; r < rows; ++r) {
        const float* scale = codes[r].scale + 2 * pair;
        const float* least = codes[r].offset + 2 * pair;
        const VF first = hn::Sub(hn::Mul(hn::Set(d, scale[0]), values), hn::Set(d, least[0]));
        const VF second = hn::Sub(hn::Mul(hn::Set(d, scale[1]), values), hn::Set(d, least[1]));
        const std::uint8_t* q = block + r * stride + 16 + 32 * pair;
        const auto lower = wide_bytes(q);
        const auto upper = wide_bytes(q + 16);
        const float* xs = x + 64 * pair;
        sum[r] = fma(look_up_low(first, lower), load(xs), sum[r]);
        sum[r] = fma(look_up_low(first, upper), load(xs + 16), sum[r]);
        sum[r] = fma(look_up_high(second, lower), load(xs + 32), sum[r]);
        sum[r] = fma(look_up_high(second, upper), load(xs + 48), sum[r]);
      }
    }
  } else {
    for (Index k = 0; k < n; k += 32, block += info.bytes) {
      KRAIT_UNROLL
      for (int r = 0; r < rows; ++r) {
        const std::uint8_t* b = block + r * stride;
        const VF scale =
            format == BlockFormat::mxfp4 ? hn::Set(d, mxfp4_scale(b[0])) : half_vector(b);
        VF table = hn::Mul(scale, values);
        if constexpr (format == BlockFormat::q4_1) table = hn::Add(table, half_vector(b + 2));
        const auto bytes = wide_bytes(b + info.bytes - 16);
        sum[r] = fma(look_up_low(table, bytes), load(x + k), sum[r]);
        sum[r] = fma(look_up_high(table, bytes), load(x + k + 16), sum[r]);
      }
    }
  }
  KRAIT_UNROLL
  for (int r = 0; r < rows; ++r) hn::Store(sum[r], d, acc + r * virtual_lanes);
}
#  endif

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#endif
