#include "kernels/matmul_grouped_amx.hpp"

#if defined(__x86_64__)

#  include <immintrin.h>

#  include "kernels/amx_tiles.hpp"
#  include "kernels/grouped_avx512.hpp"
#  include "kernels/matmul_grouped_vnni.hpp"
#  include "kernels/target_attributes.hpp"

KRAIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-int8")
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

#  define KRAIT_UNROLL _Pragma("GCC unroll 16")

constexpr Index line_bytes = 64;  // four inputs of the 16 rows of a block, as AMX has them
constexpr Index group_lines = group_size / 4;
constexpr Index line_rows = row_block;
constexpr int tile_tokens = 16;

// Up to 8 tokens, which vectors take at a time, a tile is half empty and no faster.
constexpr Index least_tokens = 9;

// Tile registers: sums [tokens, rows], inputs [tokens, 32], weights [8 lines]; those of the last
// tokens, which may be fewer than 16, have a shape of their own.
#  define KRAIT_SUMS 0
#  define KRAIT_INPUTS 1
#  define KRAIT_LAST_SUMS 2
#  define KRAIT_LAST_INPUTS 3
#  define KRAIT_WEIGHTS 4

// The integer sums of one group.
struct alignas(64) GroupSums {
  std::int32_t of[tile_tokens][line_rows];
};

template <bool is_last>
inline void group_sums(const std::uint8_t* weights, const std::int8_t* x, Index x_stride,
                       GroupSums& sums) {
  _tile_loadd(KRAIT_WEIGHTS, weights, line_bytes);
  if constexpr (is_last) {
    _tile_loadd(KRAIT_LAST_INPUTS, x, x_stride);
    _tile_zero(KRAIT_LAST_SUMS);
    _tile_dpbssd(KRAIT_LAST_SUMS, KRAIT_LAST_INPUTS, KRAIT_WEIGHTS);
    _tile_stored(KRAIT_LAST_SUMS, sums.of, line_bytes);
  } else {
    _tile_loadd(KRAIT_INPUTS, x, x_stride);
    _tile_zero(KRAIT_SUMS);
    _tile_dpbssd(KRAIT_SUMS, KRAIT_INPUTS, KRAIT_WEIGHTS);
    _tile_stored(KRAIT_SUMS, sums.of, line_bytes);
  }
}

// Signed bytes of `groups` groups of a block: in place for q8, unpacked into `room` for q4.
template <GroupedForm form>
inline const std::uint8_t* signed_codes(const std::uint8_t* codes, Index groups,
                                        std::uint8_t* room) {
  if constexpr (form == GroupedForm::q8) return codes;
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i eight = _mm512_set1_epi8(8);
  for (Index g = 0; g < groups; ++g) {
    KRAIT_UNROLL
    for (Index line = 0; line < group_lines / 2; ++line) {
      const std::uint8_t* stored = codes + g * block_bytes(form) + line * line_bytes;
      const __m512i both = _mm512_loadu_si512(stored);
      const __m512i low = _mm512_and_si512(both, nibble);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), nibble);
      std::uint8_t* to = room + (g * group_lines + line) * line_bytes;
      _mm512_store_si512(to, _mm512_sub_epi8(low, eight));
      _mm512_store_si512(to + group_lines / 2 * line_bytes, _mm512_sub_epi8(high, eight));
    }
  }
  finish_writing(room);
  return room;
}

// Groups whose unpacked codes are kept at a time: 16 KiB.
constexpr Index part_groups = 32;

// Groups that the tiles compute before the vectors add them up: in turns after each group, one
// would wait for the other.
constexpr Index turn_groups = 8;

// Groups [first, end) of a block of rows, and their signed codes.
struct Part {
  const std::uint8_t* weights;
  Index block;
  Index first;
  Index end;
};

// Adds a part's products with tokens from `token` on; with `is_last` there are `count` of them.
// What has been added so far is in y.
template <bool is_last>
inline void tile(const MatmulGroupedArgs& args, const Part& part, Index token, int count) {
  const Index groups = args.x.groups;
  const int tokens = is_last ? count : tile_tokens;
  const Index row = part.block * row_block;
  const __mmask16 mask = rows_asked_for(args, row);
  const std::int8_t* x = args.x.values + token * groups * group_size;
  const float* x_scales = args.x.scales + token * groups;
  const f16* scales = args.W.scales + part.block * groups * row_block;
  __m512 acc[tile_tokens];
  KRAIT_UNROLL
  for (int t = 0; t < tokens; ++t) {
    acc[t] = part.first == 0 ? _mm512_setzero_ps()
                             : _mm512_maskz_loadu_ps(mask, args.y.row_data(token + t) + row);
  }
  GroupSums sums[turn_groups];
  for (Index begin = part.first; begin < part.end; begin += turn_groups) {
    const Index end = part.end - begin < turn_groups ? part.end : begin + turn_groups;
    for (Index g = begin; g < end; ++g) {
      group_sums<is_last>(part.weights + (g - part.first) * group_lines * line_bytes,
                          x + g * group_size, groups * group_size, sums[g - begin]);
    }
    for (Index g = begin; g < end; ++g) {
      const __m512 scale = load_scales(scales + g * row_block);
      KRAIT_UNROLL
      for (int t = 0; t < tokens; ++t) {
        const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[t * groups + g]));
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_load_si512(sums[g - begin].of[t]));
        acc[t] = _mm512_fmadd_ps(sum, both, acc[t]);
      }
    }
  }
  store_sums(args, row, token, tokens, acc, args.bias != nullptr && part.end == groups);
}

template <GroupedForm form>
void matmul_of(const MatmulGroupedArgs& args) noexcept {
  const Index tokens = args.y.rows;
  const Index groups = args.x.groups;
  const Index whole = tokens / tile_tokens * tile_tokens;
  TileShapes shapes;
  shapes.set(KRAIT_SUMS, tile_tokens, line_bytes);
  shapes.set(KRAIT_INPUTS, tile_tokens, group_size);
  shapes.set(KRAIT_WEIGHTS, group_lines, line_bytes);
  if (tokens != whole) {
    shapes.set(KRAIT_LAST_SUMS, tokens - whole, line_bytes);
    shapes.set(KRAIT_LAST_INPUTS, tokens - whole, group_size);
  }
  set_tile_shapes(shapes);
  alignas(64)
      std::uint8_t room[form == GroupedForm::q4 ? part_groups * group_lines * line_bytes : 1];
  const Index step = form == GroupedForm::q4 ? part_groups : groups;
  for (Index row = args.outputs.begin; row < args.outputs.end; row += row_block) {
    const Index block = row / row_block;
    const std::uint8_t* codes = args.W.codes + block * groups * block_bytes(form);
    Index first = 0;
    do {  // once without inputs, too, which make zeros
      const Index end = groups - first < step ? groups : first + step;
      const Part part{
          .weights = signed_codes<form>(codes + first * block_bytes(form), end - first, room),
          .block = block,
          .first = first,
          .end = end};
      for (Index token = 0; token < whole; token += tile_tokens) {
        tile<false>(args, part, token, tile_tokens);
      }
      if (tokens != whole) tile<true>(args, part, whole, static_cast<int>(tokens - whole));
      first += step;
    } while (first < groups);
  }
  _tile_release();
}

}  // namespace

void matmul_grouped_amx(const MatmulGroupedArgs& args) noexcept {
  if (args.y.rows < least_tokens) return matmul_grouped_vnni(args);
  if (args.W.form == GroupedForm::q8) {
    matmul_of<GroupedForm::q8>(args);
  } else {
    matmul_of<GroupedForm::q4>(args);
  }
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
KRAIT_TARGET_END

#endif
