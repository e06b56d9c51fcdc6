#include <algorithm>
#include <cstring>

#include "krait/kernels/aqlm.hpp"
#include "krait/kernels/ref/aqlm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/aqlm_make_tables.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

using Weights = AqlmTableWeights;

// Codewords of codes of 4 and 8 bits.
constexpr Index few = 16;
constexpr Index many = 256;

// Tokens beside each other.
constexpr Index wide = AqlmTables::wide;

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
#if HWY_TARGET == HWY_AVX3
    // hn::DemoteTo would shuffle three times, in order to saturate.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(values + i),
                     _mm512_cvtepi32_epi8(hn::Add(q, middle).raw));
#else
    const hn::Rebind<std::uint8_t, DF> d8;
    hn::StoreU(hn::DemoteTo(d8, hn::Add(q, middle)), d8, values + i);
#endif
  }
  std::memset(values + used, 128, static_cast<std::size_t>(block_values - used));
}

// 16 rows of 16 bytes, `apart` bytes from each other, to columns.
HWY_INLINE void transpose(const std::uint8_t* from, Index apart, std::uint8_t* to) {
  const hn::FixedTag<std::uint8_t, 16> d;
  Array<hn::Vec<decltype(d)>, 16> lines;
  KRAIT_UNROLL
  for (int i = 0; i < 16; ++i) lines[i] = hn::Load(d, from + i * apart);
  KRAIT_UNROLL
  for (int stage = 0; stage < 4; ++stage) {
    Array<hn::Vec<decltype(d)>, 16> next;
    KRAIT_UNROLL
    for (int i = 0; i < 8; ++i) {
      next[2 * i] = hn::InterleaveLower(d, lines[i], lines[i + 8]);
      next[2 * i + 1] = hn::InterleaveUpper(d, lines[i], lines[i + 8]);
    }
    KRAIT_UNROLL
    for (int i = 0; i < 16; ++i) lines[i] = next[i];
  }
  KRAIT_UNROLL
  for (int i = 0; i < 16; ++i) hn::StoreU(lines[i], d, to + i * 16);
}

// A block of the tables of 16 tokens beside each other, the first `tokens` of which exist.
HWY_NOINLINE void make_wide_block(const Weights& W, MatrixView<const float> x, Index token,
                                  Index tokens, Index block, std::uint8_t* values, float* steps) {
  constexpr Index block_values = Weights::block_codes * many;
  HWY_ALIGN std::uint8_t rows[static_cast<std::size_t>(wide * block_values)];
  for (Index t = 0; t < tokens; ++t) {
    make_block<many>(W, x.row_data(token + t), block, rows + t * block_values, steps[t]);
  }
  std::fill(steps + tokens, steps + wide, 0.0F);
  std::memset(rows + tokens * block_values, 128,
              static_cast<std::size_t>((wide - tokens) * block_values));
  for (Index i = 0; i < block_values; i += 16) {
    transpose(rows + i, block_values, values + i * wide);
  }
}

}  // namespace

void make_aqlm_tables(const AqlmTableWeights& W, MatrixView<const float> x, Range items,
                      const AqlmTables& out) noexcept {
  const Index blocks = out.blocks.size();
  for (Index at = items.begin; at < items.end; ++at) {
    const Index token = at / blocks * out.lanes;
    const Index block = out.blocks.begin + at % blocks;
    std::uint8_t* values = out.values + at * out.block_values * out.lanes;
    float* steps = out.steps + at * out.lanes;
    if (out.lanes == wide) {
      make_wide_block(W, x, token, HWY_MIN(wide, x.rows - token), block, values, steps);
    } else if (W.scheme.bits == 8) {
      make_block<many>(W, x.row_data(token), block, values, *steps);
    } else {
      make_block<few>(W, x.row_data(token), block, values, *steps);
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

void make_aqlm_tables(const AqlmTableWeights& W, MatrixView<const float> x, Range items,
                      const AqlmTables& out) noexcept {
  KRAIT_KERNEL(make_aqlm_tables, ref::make_aqlm_tables)(W, x, items, out);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
