#include "kernels/matmul_grouped_vnni.hpp"

#if defined(__x86_64__)

#  include <immintrin.h>

#  include "kernels/grouped_avx512.hpp"
#  include "kernels/target_attributes.hpp"

KRAIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
namespace krait {
inline namespace v0_1 {
namespace kernels {
namespace {

#  define KRAIT_UNROLL _Pragma("GCC unroll 16")

constexpr std::size_t size(int n) { return static_cast<std::size_t>(n); }

constexpr Index line_bytes = 64;  // four inputs of the 16 rows of a block
constexpr int tile_tokens = 8;    // sums and accumulators: half of 32 registers

// Four inputs of one token, for every row.
inline __m512i load_inputs(const std::int8_t* x) {
  std::int32_t four;
  __builtin_memcpy(&four, x, sizeof four);
  return _mm512_set1_epi32(four);
}

// The codes are unsigned for the instruction: those of q8 become q + 128, those of q4 are q + 8.
// Σ q x = Σ (q + offset) x - offset Σ x, all of it exact.
template <GroupedForm form>
constexpr std::int32_t code_offset = form == GroupedForm::q8 ? 128 : 8;

// The integer sums of one group for T tokens.
template <GroupedForm form, int T>
inline void group_sums(const std::uint8_t* codes, const std::int8_t* x, Index x_stride,
                       const std::int32_t* x_sums, Index sum_stride, __m512i (&sums)[size(T)]) {
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    sums[t] = _mm512_set1_epi32(-code_offset<form> * x_sums[t * sum_stride]);
  }
  const __m512i nibble = _mm512_set1_epi8(15);
  const __m512i sign = _mm512_set1_epi8(-128);
  constexpr Index lines = block_bytes(form) / line_bytes;
  KRAIT_UNROLL
  for (Index line = 0; line < lines; ++line) {
    const __m512i stored = _mm512_loadu_si512(codes + line * line_bytes);
    if constexpr (form == GroupedForm::q8) {
      const __m512i w = _mm512_xor_si512(stored, sign);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        sums[t] = _mm512_dpbusd_epi32(sums[t], w, load_inputs(x + t * x_stride + line * 4));
      }
    } else {
      const __m512i low = _mm512_and_si512(stored, nibble);
      const __m512i high = _mm512_and_si512(_mm512_srli_epi16(stored, 4), nibble);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const std::int8_t* inputs = x + t * x_stride + line * 4;
        sums[t] = _mm512_dpbusd_epi32(sums[t], low, load_inputs(inputs));
        sums[t] = _mm512_dpbusd_epi32(sums[t], high, load_inputs(inputs + group_size / 2));
      }
    }
  }
}

// Places at which one token reads weights at a time; see matmul_grouped.cpp.
constexpr int streams = 4;

// One token times a block of rows of each stream; the streams lie `apart` blocks from each other.
template <GroupedForm form>
void stream_blocks(const MatmulGroupedArgs& args, Index block, Index apart) {
  const Index groups = args.x.groups;
  __m512 acc[size(streams)];
  KRAIT_UNROLL
  for (int s = 0; s < streams; ++s) acc[s] = _mm512_setzero_ps();
  for (Index g = 0; g < groups; ++g) {
    const __m512 x_scale = _mm512_set1_ps(args.x.scales[g]);
    KRAIT_UNROLL
    for (int s = 0; s < streams; ++s) {
      const Index at = (block + s * apart) * groups + g;
      __m512i sums[1];
      group_sums<form, 1>(args.W.codes + at * block_bytes(form), args.x.values + g * group_size, 0,
                          args.x.sums + g, 0, sums);
      const __m512 both = _mm512_mul_ps(load_scales(args.W.scales + at * row_block), x_scale);
      acc[s] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[0]), both, acc[s]);
    }
  }
  KRAIT_UNROLL
  for (int s = 0; s < streams; ++s) {
    const Index row = (block + s * apart) * row_block;
    const __m512 y =
        args.bias != nullptr ? _mm512_add_ps(acc[s], _mm512_loadu_ps(args.bias + row)) : acc[s];
    _mm512_storeu_ps(args.y.data + row, y);
  }
}

template <GroupedForm form, int T>
void tile(const MatmulGroupedArgs& args, Index block, Index token) {
  const Index groups = args.x.groups;
  const std::uint8_t* codes = args.W.codes + block * groups * block_bytes(form);
  const f16* scales = args.W.scales + block * groups * row_block;
  const std::int8_t* x = args.x.values + token * groups * group_size;
  const float* x_scales = args.x.scales + token * groups;
  const std::int32_t* x_sums = args.x.sums + token * groups;
  __m512 acc[size(T)];
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) acc[t] = _mm512_setzero_ps();
  for (Index g = 0; g < groups; ++g) {
    __m512i sums[size(T)];
    group_sums<form, T>(codes, x, groups * group_size, x_sums + g, groups, sums);
    const __m512 scale = load_scales(scales);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      const __m512 both = _mm512_mul_ps(scale, _mm512_set1_ps(x_scales[t * groups + g]));
      acc[t] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sums[t]), both, acc[t]);
    }
    codes += block_bytes(form);
    scales += row_block;
    x += group_size;
  }
  store_sums(args, block * row_block, token, T, acc, args.bias != nullptr);
}

template <GroupedForm form, int T>
void for_tokens(const MatmulGroupedArgs& args, Index block, Index token, Index tokens) {
  if constexpr (T > 0) {
    if (tokens < T) return for_tokens<form, T - 1>(args, block, token, tokens);
    tile<form, T>(args, block, token);
  }
}

template <GroupedForm form>
void matmul_of(const MatmulGroupedArgs& args) noexcept {
  const Index tokens = args.y.rows;
  const Index tiles = (tokens + tile_tokens - 1) / tile_tokens;
  Index row = args.outputs.begin;
  if (tokens == 1) {
    const Index apart = args.outputs.size() / (row_block * streams);
    for (; row < args.outputs.begin + apart * row_block; row += row_block) {
      stream_blocks<form>(args, row / row_block, apart);
    }
    row += (streams - 1) * apart * row_block;
  }
  for (; row < args.outputs.end; row += row_block) {
    for (Index i = 0; i < tiles; ++i) {
      const Index begin = tokens * i / tiles;
      const Index end = tokens * (i + 1) / tiles;
      for_tokens<form, tile_tokens>(args, row / row_block, begin, end - begin);
    }
  }
}

}  // namespace

void matmul_grouped_vnni(const MatmulGroupedArgs& args) noexcept {
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
