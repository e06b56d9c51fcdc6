#pragma once

// What products with weights of 8 and 4 bits share on AVX-512: the 16 rows of a block are the lanes
// of a register.

#if defined(__x86_64__)

#  include <immintrin.h>

#  include "kernels/target_attributes.hpp"
#  include "krait/kernels/matmul_grouped.hpp"

KRAIT_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl")
namespace krait {
inline namespace v0_1 {
namespace kernels {

inline __m512 load_scales(const f16* scales) {
  return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)));
}

// The rows from `row` on that are asked for.
inline __mmask16 rows_asked_for(const MatmulGroupedArgs& args, Index row) {
  const Index rest = args.outputs.end - row;
  return static_cast<__mmask16>(rest >= row_block ? 0xFFFF : (1 << rest) - 1);
}

// Sums of a block's rows become the outputs of `count` tokens.
__attribute__((always_inline)) inline void store_sums(const MatmulGroupedArgs& args, Index row,
                                                      Index token, int count, const __m512* sums,
                                                      bool has_bias) {
  const __mmask16 mask = rows_asked_for(args, row);
  const __m512 bias = has_bias ? _mm512_maskz_loadu_ps(mask, args.bias + row) : _mm512_setzero_ps();
  _Pragma("GCC unroll 16") for (int t = 0; t < count; ++t) {
    const __m512 y = has_bias ? _mm512_add_ps(sums[t], bias) : sums[t];
    _mm512_mask_storeu_ps(args.y.row_data(token + t) + row, mask, y);
  }
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
KRAIT_TARGET_END

#endif
