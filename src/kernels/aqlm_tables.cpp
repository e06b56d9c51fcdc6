#include <cstring>

#include "kernels/aqlm_tables_vbmi.hpp"
#include "krait/kernels/aqlm.hpp"
#include "krait/kernels/ref/aqlm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/aqlm_tables.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

using Weights = AqlmTableWeights;

constexpr int block_codes = static_cast<int>(Weights::block_codes);

// Codewords of codes of 4 and 8 bits.
constexpr Index few = 16;
constexpr Index many = 256;

// Tokens beside each other.
constexpr Index wide = AqlmTables::wide;

// Bytes of a line of codes that one register holds. The lines of 64 rows are taken in so many
// parts.
using D8 = hn::CappedTag<std::uint8_t, 64>;
using D16 = hn::Repartition<std::uint16_t, D8>;
using V8 = hn::Vec<D8>;
using V16 = hn::Vec<D16>;

constexpr Index line_bytes = 64;
constexpr Index part_bytes = static_cast<Index>(hn::MaxLanes(D8()));
constexpr int line_parts = static_cast<int>(line_bytes / part_bytes);

// Sums of table values as 16-bit numbers that begin with those of even bytes. `all` has both bytes
// of each number added as they lie, modulo 2^16, `odd` the upper ones by themselves.
struct Sums {
  V16 all;
  V16 odd;
};

constexpr int quarters = 4;  // of the rows of a part: lower and upper half, even and odd bytes

// Which row of its block a quarter begins with.
HWY_INLINE Index quarter_row(Index part, int quarter) {
  return part * part_bytes / 2 + quarter / 2 * (Weights::block_rows / 2) +
         quarter % 2 * vector_lanes;
}

// The sums so far of part `part` of a block of rows.
HWY_INLINE void load_chains(const MatmulAqlmTablesArgs& args, Index row_block, Index part,
                            Index token, VF* acc) {
  KRAIT_UNROLL
  for (int i = 0; i < quarters; ++i) {
    const Index row = row_block * Weights::block_rows + quarter_row(part, i);
    const Index count = HWY_MIN(vector_lanes, args.outputs.end - row);
    acc[i] = args.x.blocks.begin == 0 || count <= 0
                 ? hn::Zero(DF())
                 : load_count(args.y.row_data(token) + row, count);
  }
}

HWY_INLINE void store_chains(const MatmulAqlmTablesArgs& args, Index row_block, Index part,
                             Index token, const VF* acc) {
  const bool is_last = args.x.blocks.end == args.W.blocks();
  KRAIT_UNROLL
  for (int i = 0; i < quarters; ++i) {
    const Index row = row_block * Weights::block_rows + quarter_row(part, i);
    const Index count = HWY_MIN(vector_lanes, args.outputs.end - row);
    if (count <= 0) continue;
    VF y = acc[i];
    if (is_last) {
      y = hn::Mul(load_count(args.W.scales + row, count), y);
      if (args.bias != nullptr) y = hn::Add(y, load_count(args.bias + row, count));
    }
    store_count(y, args.y.row_data(token) + row, count);
  }
}

// Adds the sums of a block times its step.
HWY_INLINE void add_sums(const Sums& sums, VF step, VF* acc) {
  const DF d;
  const D16 d16;
  const hn::RebindToSigned<D16> ds16;
  const hn::Half<decltype(ds16)> half;
  const V16 middle = hn::Set(d16, 128 * block_codes);
  const V16 even = hn::Sub(sums.all, hn::ShiftLeft<8>(sums.odd));
  const auto below = hn::BitCast(ds16, hn::Sub(even, middle));
  const auto above = hn::BitCast(ds16, hn::Sub(sums.odd, middle));
  const auto add = [&](int quarter, hn::Vec<decltype(half)> values) HWY_ATTR {
    acc[quarter] = fma(hn::ConvertTo(d, hn::PromoteTo(DI(), values)), step, acc[quarter]);
  };
  add(0, hn::LowerHalf(half, below));
  add(1, hn::UpperHalf(half, below));
  add(2, hn::LowerHalf(half, above));
  add(3, hn::UpperHalf(half, above));
}

// S blocks of rows, `apart` blocks from each other, times T tokens, part `part` and the P - 1 after
// it of each line. One function, since all sums stay in registers to the end of a line.
template <int S, int T, int P>
HWY_INLINE void tile(const MatmulAqlmTablesArgs& args, Index row_block, Index apart, Index part,
                     Index token) {
  constexpr int chains = S * T * P;
  constexpr Index block_bytes = Weights::block_rows * Weights::block_codes / 2;
  constexpr Index block_values = Weights::block_codes * few;
  const DF d;
  const D8 d8;
  const D16 d16;
  const Index blocks = args.x.blocks.size();
  const Index row_bytes = args.W.blocks() * block_bytes;
  const std::uint8_t* codes =
      args.W.codes + row_block * row_bytes + args.x.blocks.begin * block_bytes + part * part_bytes;
  const Index codes_apart = apart * row_bytes;
  const std::uint8_t* tables = args.x.values + token * blocks * block_values;
  const float* steps = args.x.steps + token * blocks;
  const V8 nibble = hn::Set(d8, 15);
  Array<VF, chains * quarters> acc;
  KRAIT_UNROLL
  for (int i = 0; i < chains; ++i) {
    load_chains(args, row_block + i / (T * P) * apart, part + i % P, token + i / P % T,
                acc + i * quarters);
  }
  for (Index b = 0; b < blocks; ++b) {
    Array<Sums, chains> sums;
    KRAIT_UNROLL
    for (int i = 0; i < chains; ++i) sums[i] = {hn::Zero(d16), hn::Zero(d16)};
    // Unrolled, the compiler moves loads so far ahead that it runs out of registers.
    HWY_UNROLL(1)
    for (int line = 0; line < block_codes / 2; ++line) {
      KRAIT_UNROLL
      for (int s = 0; s < S; ++s) {
        KRAIT_UNROLL
        for (int p = 0; p < P; ++p) {
          const V8 both =
              hn::LoadU(d8, codes + s * codes_apart + line * line_bytes + p * part_bytes);
          const V8 low = hn::And(both, nibble);
          const V8 high =
              hn::And(hn::BitCast(d8, hn::ShiftRight<4>(hn::BitCast(d16, both))), nibble);
          KRAIT_UNROLL
          for (int t = 0; t < T; ++t) {
            const std::uint8_t* table = tables + t * blocks * block_values + line * 2 * few;
            const V16 first =
                hn::BitCast(d16, hn::TableLookupBytes(hn::LoadDup128(d8, table), low));
            const V16 second =
                hn::BitCast(d16, hn::TableLookupBytes(hn::LoadDup128(d8, table + few), high));
            Sums& sum = sums[(s * T + t) * P + p];
            sum.all = hn::Add(hn::Add(sum.all, first), second);
            sum.odd =
                hn::Add(hn::Add(sum.odd, hn::ShiftRight<8>(first)), hn::ShiftRight<8>(second));
          }
        }
      }
    }
    KRAIT_UNROLL
    for (int i = 0; i < chains; ++i) {
      add_sums(sums[i], hn::Set(d, steps[i / P % T * blocks + b]), acc + i * quarters);
    }
    codes += block_bytes;
    tables += block_values;
  }
  KRAIT_UNROLL
  for (int i = 0; i < chains; ++i) {
    store_chains(args, row_block + i / (T * P) * apart, part + i % P, token + i / P % T,
                 acc + i * quarters);
  }
}

// Entries of a table of 16 · 2^level that bits 0 to 3 + level of the codes choose: those of both
// halves, of which one more bit chooses one. `bits[i]` has bit 4 + i in front, `low` bits 0 to 3.
template <int level>
HWY_INLINE V8 look_up(const std::uint8_t* table, V8 low, const V8* bits) {
  if constexpr (level == 0) {
    return hn::TableLookupBytes(hn::LoadDup128(D8(), table), low);
  } else {
    const D8 d8;
    const hn::RebindToSigned<D8> ds8;
    const V8 no = look_up<level - 1>(table, low, bits);
    const V8 yes = look_up<level - 1>(table + (8 << level), low, bits);
    return hn::BitCast(d8, hn::IfNegativeThenElse(hn::BitCast(ds8, bits[level - 1]),
                                                  hn::BitCast(ds8, yes), hn::BitCast(ds8, no)));
  }
}

// Part `part` of a block of rows times one token, codes of 8 bits.
HWY_INLINE void tile_many(const MatmulAqlmTablesArgs& args, Index row_block, Index part,
                          Index token) {
  constexpr Index block_bytes = Weights::block_rows * Weights::block_codes;
  const DF d;
  const D8 d8;
  const D16 d16;
  const Index blocks = args.x.blocks.size();
  const std::uint8_t* codes = args.W.codes +
                              (row_block * args.W.blocks() + args.x.blocks.begin) * block_bytes +
                              part * part_bytes;
  const std::uint8_t* table = args.x.values + token * blocks * args.x.block_values;
  const float* steps = args.x.steps + token * blocks;
  const V8 nibble = hn::Set(d8, 15);
  // The codes of the next rows, which are too far away for the hardware to see that they come.
  const Index next = args.W.blocks() * block_bytes;
  Array<VF, quarters> acc;
  load_chains(args, row_block, part, token, acc);
  for (Index b = 0; b < blocks; ++b) {
    Sums sums = {hn::Zero(d16), hn::Zero(d16)};
    HWY_UNROLL(1)
    for (int n = 0; n < block_codes; ++n, codes += line_bytes, table += many) {
      if (part == 0) __builtin_prefetch(codes + next, 0, 2);
      const V8 code = hn::LoadU(d8, codes);
      const V16 pairs = hn::BitCast(d16, code);
      const V8 bits[4] = {hn::BitCast(d8, hn::ShiftLeft<3>(pairs)),
                          hn::BitCast(d8, hn::ShiftLeft<2>(pairs)),
                          hn::BitCast(d8, hn::ShiftLeft<1>(pairs)), code};
      const V16 values = hn::BitCast(d16, look_up<4>(table, hn::And(code, nibble), bits));
      sums.all = hn::Add(sums.all, values);
      sums.odd = hn::Add(sums.odd, hn::ShiftRight<8>(values));
    }
    add_sums(sums, hn::Set(d, steps[b]), acc);
  }
  store_chains(args, row_block, part, token, acc);
}

// Places at which one token reads codes at a time: a single stream leaves a core waiting.
constexpr int streams = HWY_TARGET == HWY_AVX3 ? 4 : 1;
constexpr int stream_parts = HWY_TARGET == HWY_AVX2 ? 2 : 1;
static_assert(line_parts % stream_parts == 0);

// Tokens of a register tile.
constexpr int tile_tokens = HWY_TARGET == HWY_AVX3 ? 4 : 2;

template <int T>
void for_tokens(const MatmulAqlmTablesArgs& args, Index row_block, Index token, Index tokens) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<T - 1>(args, row_block, token, tokens);
    constexpr int P = T == 1 ? stream_parts : 1;
    for (Index part = 0; part < line_parts; part += P) {
      tile<1, T, P>(args, row_block, 0, part, token);
    }
  }
}

// A block of rows times 16 tokens, whose values are loaded together.
HWY_NOINLINE void tile_wide(const MatmulAqlmTablesArgs& args, Index row_block, Index token) {
  using DW = hn::CappedTag<std::uint16_t, static_cast<std::size_t>(wide)>;
  constexpr Index parts = wide / static_cast<Index>(hn::MaxLanes(DW()));
  constexpr Index part_lanes = wide / parts;
  constexpr Index block_bytes = Weights::block_rows * Weights::block_codes;
  constexpr int rows = static_cast<int>(Weights::block_rows);
  const DF d;
  const DW dw;
  const hn::Rebind<std::uint8_t, DW> d8;
  const hn::RebindToSigned<DW> ds;
  const hn::Rebind<std::int16_t, DF> ds_part;
  const Index first = row_block * rows;
  const Index count = HWY_MIN(Index{rows}, args.outputs.end - first);
  const Index tokens = HWY_MIN(wide, args.y.rows - token);
  const Index blocks = args.x.blocks.size();
  HWY_ALIGN float acc[static_cast<std::size_t>(rows * wide)] = {};
  if (args.x.blocks.begin > 0) {
    for (Index t = 0; t < tokens; ++t) {
      const float* y = args.y.row_data(token + t) + first;
      for (Index r = 0; r < count; ++r) acc[r * wide + t] = y[r];
    }
  }
  const std::uint8_t* codes =
      args.W.codes + (row_block * args.W.blocks() + args.x.blocks.begin) * block_bytes;
  const std::uint8_t* tables = args.x.values + token * blocks * args.x.block_values;
  const float* steps = args.x.steps + token * blocks;
  for (Index b = 0; b < blocks; ++b) {
    for (Index r = 0; r < rows; ++r) {
      const std::uint8_t* code = codes + r % (rows / 2) * 2 + r / (rows / 2);
      Array<hn::Vec<DW>, parts> sums;
      KRAIT_UNROLL
      for (Index p = 0; p < parts; ++p) sums[p] = hn::Set(dw, 0x10000 - 128 * block_codes);
      KRAIT_UNROLL
      for (int n = 0; n < block_codes; ++n) {
        const std::uint8_t* values = tables + (n * many + code[n * line_bytes]) * wide;
        KRAIT_UNROLL
        for (Index p = 0; p < parts; ++p) {
          sums[p] = hn::Add(sums[p], hn::PromoteTo(dw, hn::Load(d8, values + p * part_lanes)));
        }
      }
      HWY_ALIGN std::int16_t whole[static_cast<std::size_t>(wide)];
      KRAIT_UNROLL
      for (Index p = 0; p < parts; ++p) {
        hn::Store(hn::BitCast(ds, sums[p]), ds, whole + p * part_lanes);
      }
      KRAIT_UNROLL
      for (Index i = 0; i < wide; i += vector_lanes) {
        const VF sum = hn::ConvertTo(d, hn::PromoteTo(DI(), hn::Load(ds_part, whole + i)));
        float* chain = acc + r * wide + i;
        hn::Store(fma(sum, hn::LoadU(d, steps + i), hn::Load(d, chain)), d, chain);
      }
    }
    codes += block_bytes;
    tables += args.x.block_values * wide;
    steps += wide;
  }
  const bool is_last = args.x.blocks.end == args.W.blocks();
  for (Index t = 0; t < tokens; ++t) {
    float* y = args.y.row_data(token + t) + first;
    for (Index r = 0; r < count; ++r) {
      const float sum = acc[r * wide + t];
      if (!is_last) {
        y[r] = sum;
      } else {
        const float scaled = args.W.scales[first + r] * sum;
        y[r] = args.bias != nullptr ? scaled + args.bias[first + r] : scaled;
      }
    }
  }
}

// Codes of 8 bits: those of a block of rows stay in the cache while all tokens meet them.
void multiply_many(const MatmulAqlmTablesArgs& args) {
  for (Index row = args.outputs.begin; row < args.outputs.end; row += Weights::block_rows) {
    const Index row_block = row / Weights::block_rows;
    for (Index token = 0; token < args.y.rows; token += args.x.lanes) {
      if (args.x.lanes == wide) {
        tile_wide(args, row_block, token);
      } else {
        for (Index part = 0; part < line_parts; ++part) tile_many(args, row_block, part, token);
      }
    }
  }
}

}  // namespace

void matmul_aqlm_tables(const MatmulAqlmTablesArgs& args) noexcept {
  if (args.W.scheme.bits == 8) return multiply_many(args);
  const Index tokens = args.y.rows;
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  Index row = args.outputs.begin;
  if (tokens == 1 && streams > 1) {
    const Index apart = args.outputs.size() / (Weights::block_rows * streams);
    for (Index i = 0; i < apart; ++i) {
      for (Index part = 0; part < line_parts; ++part) {
        tile<streams, 1, 1>(args, row / Weights::block_rows + i, apart, part, 0);
      }
    }
    row += streams * apart * Weights::block_rows;
  }
  for (; row < args.outputs.end; row += Weights::block_rows) {
    // Tiles of nearly equal width.
    for (Index i = 0; i < tiles; ++i) {
      const Index begin = tokens * i / tiles;
      for_tokens<tile_tokens>(args, row / Weights::block_rows, begin,
                              tokens * (i + 1) / tiles - begin);
    }
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
namespace {

constexpr Index line_bytes = 64;

}  // namespace

void pack_aqlm_codes(const AqlmTableWeights& W, const std::int8_t* stored, Range blocks,
                     std::uint8_t* codes) noexcept {
  const Index row_codes = W.row_codes();
  const Index bytes = W.blocks() * W.block_bytes();
  for (Index block = blocks.begin; block < blocks.end; ++block) {
    std::uint8_t* out = codes + block * bytes;
    std::memset(out, 0, static_cast<std::size_t>(bytes));
    const Index first = block * AqlmTableWeights::block_rows;
    const Index rows = std::min(AqlmTableWeights::block_rows, W.rows - first);
    for (Index r = 0; r < rows; ++r) {
      const std::int8_t* row = stored + (first + r) * row_codes;
      std::uint8_t* place = out + r % 32 * 2 + r / 32;
      if (W.scheme.bits == 8) {
        for (Index i = 0; i < row_codes; ++i) {
          place[i * line_bytes] = static_cast<std::uint8_t>(row[i]);
        }
        continue;
      }
      for (Index i = 0; i < row_codes; ++i) {
        std::uint8_t& both = place[i / 2 * line_bytes];
        both = static_cast<std::uint8_t>(both | (row[i] & 15) << (i % 2 * 4));
      }
    }
  }
}

void decode_aqlm_row(const AqlmTableWeights& W, Index row, std::span<float> out) noexcept {
  const Index g = W.scheme.in_group;
  for (Index k = 0; k < W.cols; ++k) {
    float sum = 0.0F;
    for (Index m = 0; m < W.scheme.codebooks; ++m) {
      const Index code = ref::aqlm_table_code(W, row, k / g * W.scheme.codebooks + m);
      sum += W.codebooks[(m * g + k % g) * W.codewords() + code];
    }
    out[static_cast<std::size_t>(k)] = W.scales[row] * sum;
  }
}

void matmul_aqlm_tables(const MatmulAqlmTablesArgs& args) noexcept {
  if (args.W.scheme.bits == 8 && args.x.lanes == 1 && has_aqlm_tables_vbmi())
    return matmul_aqlm_tables_vbmi(args);
  KRAIT_KERNEL(matmul_aqlm_tables, ref::matmul_aqlm_tables)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
