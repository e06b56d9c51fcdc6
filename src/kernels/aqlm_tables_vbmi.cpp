#include "kernels/aqlm_tables_vbmi.hpp"

#if defined(__x86_64__)

#  include <immintrin.h>

#  include "kernels/target_attributes.hpp"
#  include "krait/core/cpu.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

bool has_aqlm_tables_vbmi() noexcept {
  static const bool has_vbmi = __builtin_cpu_supports("avx512vbmi") != 0;
  return has_vbmi && active_isa() >= Isa::avx512_vnni;
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait

KRAIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi")
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

#  define KRAIT_UNROLL _Pragma("GCC unroll 16")

constexpr std::size_t size(int n) { return static_cast<std::size_t>(n); }

constexpr Index line_bytes = 64;  // a code of 64 rows
constexpr Index block_codes = 16;
constexpr Index block_rows = 64;
constexpr Index block_bytes = block_codes * line_bytes;
constexpr Index table_bytes = 256;
constexpr Index lanes = 16;
constexpr int quarters = 4;  // of 64 rows, as registers of floats have them

// The lanes of 16 outputs from `row` on that are asked for.
inline __mmask16 lanes_from(const MatmulAqlmTablesArgs& args, Index row) {
  const Index rest = args.outputs.end - row;
  return static_cast<__mmask16>(rest >= lanes ? 0xFFFF : rest <= 0 ? 0 : (1 << rest) - 1);
}

// Sums of 16-bit numbers: of even bytes and of odd ones.
inline void add_sums(__m512i even, __m512i odd, __m512 step, __m512* acc) {
  const __m512i middle = _mm512_set1_epi16(128 * block_codes);
  even = _mm512_sub_epi16(even, middle);
  odd = _mm512_sub_epi16(odd, middle);
  const __m256i parts[] = {_mm512_castsi512_si256(even), _mm512_extracti64x4_epi64(even, 1),
                           _mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64(odd, 1)};
  KRAIT_UNROLL
  for (int i = 0; i < quarters; ++i) {
    const __m512 sum = _mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(parts[i]));
    acc[i] = _mm512_fmadd_ps(sum, step, acc[i]);
  }
}

// S blocks of rows, `apart` blocks from each other, times one token: a table is loaded once for
// all.
template <int S>
void tile(const MatmulAqlmTablesArgs& args, Index row_block, Index apart, Index token) {
  const Index blocks = args.x.blocks.size();
  const Index codes_apart = apart * args.W.blocks() * block_bytes;
  const std::uint8_t* codes =
      args.W.codes + (row_block * args.W.blocks() + args.x.blocks.begin) * block_bytes;
  const std::uint8_t* table = args.x.values + token * blocks * args.x.block_values;
  const float* steps = args.x.steps + token * blocks;
  float* y = args.y.row_data(token);
  __m512 acc[size(S * quarters)];
  KRAIT_UNROLL
  for (int i = 0; i < S * quarters; ++i) {
    const Index row = (row_block + i / quarters * apart) * block_rows + i % quarters * lanes;
    const __mmask16 mask = lanes_from(args, row);
    acc[i] = args.x.blocks.begin == 0 ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, y + row);
  }
  for (Index b = 0; b < blocks; ++b) {
    __m512i all[size(S)];  // even bytes and 256 times the odd ones
    __m512i odd[size(S)];
    KRAIT_UNROLL
    for (int s = 0; s < S; ++s) all[s] = odd[s] = _mm512_setzero_si512();
#  pragma GCC unroll 1
    for (Index n = 0; n < block_codes; ++n, codes += line_bytes, table += table_bytes) {
      const __m512i first = _mm512_loadu_si512(table);
      const __m512i second = _mm512_loadu_si512(table + 64);
      const __m512i third = _mm512_loadu_si512(table + 128);
      const __m512i fourth = _mm512_loadu_si512(table + 192);
      KRAIT_UNROLL
      for (int s = 0; s < S; ++s) {
        const __m512i code = _mm512_loadu_si512(codes + s * codes_apart);
        const __m512i low = _mm512_permutex2var_epi8(first, code, second);
        const __m512i high = _mm512_permutex2var_epi8(third, code, fourth);
        const __m512i value = _mm512_mask_blend_epi8(_mm512_movepi8_mask(code), low, high);
        all[s] = _mm512_add_epi16(all[s], value);
        odd[s] = _mm512_add_epi16(odd[s], _mm512_srli_epi16(value, 8));
      }
    }
    const __m512 step = _mm512_set1_ps(steps[b]);
    KRAIT_UNROLL
    for (int s = 0; s < S; ++s) {
      const __m512i even = _mm512_sub_epi16(all[s], _mm512_slli_epi16(odd[s], 8));
      add_sums(even, odd[s], step, acc + s * quarters);
    }
  }
  const bool is_last = args.x.blocks.end == args.W.blocks();
  KRAIT_UNROLL
  for (int i = 0; i < S * quarters; ++i) {
    const Index row = (row_block + i / quarters * apart) * block_rows + i % quarters * lanes;
    const __mmask16 mask = lanes_from(args, row);
    __m512 sum = acc[i];
    if (is_last) {
      sum = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, args.W.scales + row), sum);
      if (args.bias != nullptr) {
        sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, args.bias + row));
      }
    }
    _mm512_mask_storeu_ps(y + row, mask, sum);
  }
}

// Blocks of rows that are multiplied together; places from which codes come at a time, too, since a
// single stream leaves a core waiting.
constexpr int streams = 4;

}  // namespace

void matmul_aqlm_tables_vbmi(const MatmulAqlmTablesArgs& args) noexcept {
  const Index begin = args.outputs.begin / block_rows;
  const Index end = (args.outputs.end + block_rows - 1) / block_rows;
  const Index apart = (end - begin) / streams;
  for (Index i = 0; i < apart; ++i) {
    for (Index t = 0; t < args.y.rows; ++t) tile<streams>(args, begin + i, apart, t);
  }
  for (Index block = begin + streams * apart; block < end; ++block) {
    for (Index t = 0; t < args.y.rows; ++t) tile<1>(args, block, 0, t);
  }
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
KRAIT_TARGET_END

#else

namespace krait {
inline namespace v0_1 {
namespace kernels {

bool has_aqlm_tables_vbmi() noexcept { return false; }
void matmul_aqlm_tables_vbmi(const MatmulAqlmTablesArgs& /*args*/) noexcept {}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait

#endif
