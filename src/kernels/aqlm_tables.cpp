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

// Bytes of a line of codes that one register holds. The lines of 64 rows are taken in so many
// parts.
using D8 = hn::CappedTag<std::uint8_t, 64>;
using D16 = hn::Repartition<std::uint16_t, D8>;
using V8 = hn::Vec<D8>;
using V16 = hn::Vec<D16>;

constexpr Index line_bytes = 64;
constexpr Index part_bytes = static_cast<Index>(hn::MaxLanes(D8()));
constexpr int line_parts = static_cast<int>(line_bytes / part_bytes);

// The largest magnitude so far, as bits: infinities and NaN are above all other numbers.
using Peak = hn::Vec<DI>;

// Groups × codebooks whose products are formed together.
constexpr Index tile_groups = 2;
constexpr Index tile_books = vector_parts == 1 ? 4 : 2;

// The same for a whole block of whole groups, of a number of codebooks that tiles divide: inputs
// and numbers of codebooks are loaded once for several products.
HWY_INLINE Peak multiply_tiles(const Weights& W, const float* x, float* products) {
  const DF d;
  const Index g = W.scheme.in_group;
  const Index books = W.scheme.codebooks;
  Peak largest = hn::Zero(DI());
  for (Index group = 0; group < Weights::block_codes / books; group += tile_groups) {
    for (Index m = 0; m < books; m += tile_books) {
      Array<VF, tile_groups * tile_books * vector_parts> sums;
      KRAIT_UNROLL
      for (VF& sum : sums) sum = hn::Zero(d);
      const float* codebook = W.codebooks + m * g * few;
      for (Index k = 0; k < g; ++k) {
        Array<VF, tile_groups> inputs;
        KRAIT_UNROLL
        for (Index i = 0; i < tile_groups; ++i) inputs[i] = hn::Set(d, x[(group + i) * g + k]);
        KRAIT_UNROLL
        for (Index b = 0; b < tile_books * vector_parts; ++b) {
          const VF numbers =
              load(codebook + (b / vector_parts * g + k) * few + b % vector_parts * vector_lanes);
          KRAIT_UNROLL
          for (Index i = 0; i < tile_groups; ++i) {
            VF& sum = sums[i * tile_books * vector_parts + b];
            sum = fma(numbers, inputs[i], sum);
          }
        }
      }
      KRAIT_UNROLL
      for (Index i = 0; i < tile_groups; ++i) {
        KRAIT_UNROLL
        for (Index b = 0; b < tile_books * vector_parts; ++b) {
          const VF sum = sums[i * tile_books * vector_parts + b];
          largest = hn::Max(largest, hn::BitCast(DI(), hn::Abs(sum)));
          hn::Store(sum, d, products + ((group + i) * books + m) * few + b * vector_lanes);
        }
      }
    }
  }
  return largest;
}

// Products of `count` codes with the activations they meet, 16 codewords each.
HWY_INLINE Peak multiply_codewords(const Weights& W, const float* x, Index first, Index count,
                                   float* products) {
  const DF d;
  const DI di;
  const Index g = W.scheme.in_group;
  const Index books = W.scheme.codebooks;
  Peak largest = hn::Zero(di);
  // Several chains at a time; codes that are missing repeat the last.
  constexpr Index at_once = vector_parts == 1 ? 8 : 2;
  Index group = first / books;
  Index m = first % books;
  for (Index n = 0; n < count; n += at_once) {
    const float* inputs[at_once];
    const float* codebooks[at_once];
    for (Index i = 0; i < at_once; ++i) {
      inputs[i] = x + group * g;
      codebooks[i] = W.codebooks + m * g * few;
      if (n + i + 1 < count && ++m == books) {
        m = 0;
        ++group;
      }
    }
    Array<VF, at_once * vector_parts> sums;
    KRAIT_UNROLL
    for (Index i = 0; i < at_once * vector_parts; ++i) sums[i] = hn::Zero(d);
    for (Index k = 0; k < g; ++k) {
      KRAIT_UNROLL
      for (Index i = 0; i < at_once; ++i) {
        const VF input = hn::Set(d, inputs[i][k]);
        KRAIT_UNROLL
        for (Index p = 0; p < vector_parts; ++p) {
          VF& sum = sums[i * vector_parts + p];
          const float* numbers = codebooks[i] + k * few + p * vector_lanes;
          sum = fma(load(numbers), input, sum);
        }
      }
    }
    KRAIT_UNROLL
    for (Index i = 0; i < at_once * vector_parts; ++i) {
      largest = hn::Max(largest, hn::BitCast(di, hn::Abs(sums[i])));
      hn::Store(sums[i], d, products + n * few + i * vector_lanes);
    }
  }
  return largest;
}

// The same for 256 codewords: codes of the same codebook in pairs, which share its numbers.
HWY_INLINE Peak multiply_many(const Weights& W, const float* x, Index first, Index count,
                              float* products) {
  constexpr Index parts = HWY_TARGET == HWY_AVX3 ? 8 : 4;
  const DF d;
  const Index g = W.scheme.in_group;
  const Index books = W.scheme.codebooks;
  Peak largest = hn::Zero(DI());
  for (Index start = 0; start < HWY_MIN(books, count); ++start) {
    const float* codebook = W.codebooks + (first + start) % books * g * many;
    for (Index n = start; n < count; n += 2 * books) {
      const Index next = n + books < count ? n + books : n;
      const float* inputs[2] = {x + (first + n) / books * g, x + (first + next) / books * g};
      for (Index word = 0; word < many; word += parts * vector_lanes) {
        Array<VF, 2 * parts> sums;
        KRAIT_UNROLL
        for (VF& sum : sums) sum = hn::Zero(d);
        for (Index k = 0; k < g; ++k) {
          const VF one = hn::Set(d, inputs[0][k]);
          const VF other = hn::Set(d, inputs[1][k]);
          KRAIT_UNROLL
          for (Index p = 0; p < parts; ++p) {
            const VF numbers = load(codebook + k * many + word + p * vector_lanes);
            sums[2 * p] = fma(numbers, one, sums[2 * p]);
            sums[2 * p + 1] = fma(numbers, other, sums[2 * p + 1]);
          }
        }
        KRAIT_UNROLL
        for (Index i = 0; i < 2 * parts; ++i) {
          largest = hn::Max(largest, hn::BitCast(DI(), hn::Abs(sums[i])));
          const Index code = i % 2 == 0 ? n : next;
          hn::Store(sums[i], d, products + code * many + word + i / 2 * vector_lanes);
        }
      }
    }
  }
  return largest;
}

template <Index words>
HWY_INLINE void make_block(const Weights& W, const float* x, Index block, std::uint8_t* values,
                           float& step) {
  const DF d;
  const hn::Rebind<std::uint8_t, DF> d8;
  constexpr Index block_values = Weights::block_codes * words;
  HWY_ALIGN float products[static_cast<std::size_t>(block_values)];
  const Index first = block * Weights::block_codes;
  const Index count = HWY_MIN(Weights::block_codes, W.row_codes() - first);
  const Index books = W.scheme.codebooks;
  const bool has_tiles = count == Weights::block_codes && books % tile_books == 0 &&
                         Weights::block_codes % (tile_groups * books) == 0;
  const Peak largest = words == many ? multiply_many(W, x, first, count, products)
                       : has_tiles
                           ? multiply_tiles(W, x + first / books * W.scheme.in_group, products)
                           : multiply_codewords(W, x, first, count, products);
  const std::int32_t bits = hn::GetLane(hn::MaxOfLanes(DI(), largest));
  float peak;
  std::memcpy(&peak, &bits, sizeof peak);
  const bool is_finite = bits < 0x7F800000;
  const bool counts = is_finite && peak >= 0x1p-100F;
  step = counts ? peak / 127.0F : is_finite ? 0.0F : VectorOps::quiet_nan();
  const Index used = counts ? count * words : 0;
  const VF inverse = hn::Set(d, 127.0F / peak);
  const auto middle = hn::Set(DI(), 128);
  for (Index i = 0; i < used; i += vector_lanes) {
    const auto q = hn::NearestInt(hn::Mul(hn::Load(d, products + i), inverse));
    hn::StoreU(hn::DemoteTo(d8, hn::Add(q, middle)), d8, values + i);
  }
  std::memset(values + used, 128, static_cast<std::size_t>(block_values - used));
}

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
  Array<VF, quarters> acc;
  load_chains(args, row_block, part, token, acc);
  for (Index b = 0; b < blocks; ++b) {
    Sums sums = {hn::Zero(d16), hn::Zero(d16)};
    HWY_UNROLL(1)
    for (int n = 0; n < block_codes; ++n, codes += line_bytes, table += many) {
      const V8 code = hn::LoadU(d8, codes);
      const V16 wide = hn::BitCast(d16, code);
      const V8 bits[4] = {hn::BitCast(d8, hn::ShiftLeft<3>(wide)),
                          hn::BitCast(d8, hn::ShiftLeft<2>(wide)),
                          hn::BitCast(d8, hn::ShiftLeft<1>(wide)), code};
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

// Codes of 8 bits: those of a block of rows stay in the cache while all tokens meet them.
void multiply_many(const MatmulAqlmTablesArgs& args) {
  for (Index row = args.outputs.begin; row < args.outputs.end; row += Weights::block_rows) {
    for (Index token = 0; token < args.y.rows; ++token) {
      for (Index part = 0; part < line_parts; ++part) {
        tile_many(args, row / Weights::block_rows, part, token);
      }
    }
  }
}

}  // namespace

void make_aqlm_tables(const AqlmTableWeights& W, MatrixView<const float> x, Range items,
                      const AqlmTables& out) noexcept {
  const Index blocks = out.blocks.size();
  for (Index at = items.begin; at < items.end; ++at) {
    const float* token = x.row_data(at / blocks);
    const Index block = out.blocks.begin + at % blocks;
    std::uint8_t* values = out.values + at * out.block_values;
    if (W.scheme.bits == 8) {
      make_block<many>(W, token, block, values, out.steps[at]);
    } else {
      make_block<few>(W, token, block, values, out.steps[at]);
    }
  }
}

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

void make_aqlm_tables(const AqlmTableWeights& W, MatrixView<const float> x, Range items,
                      const AqlmTables& out) noexcept {
  KRAIT_KERNEL(make_aqlm_tables, ref::make_aqlm_tables)(W, x, items, out);
}

void matmul_aqlm_tables(const MatmulAqlmTablesArgs& args) noexcept {
  if (args.W.scheme.bits == 8 && has_aqlm_tables_vbmi()) return matmul_aqlm_tables_vbmi(args);
  KRAIT_KERNEL(matmul_aqlm_tables, ref::matmul_aqlm_tables)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
