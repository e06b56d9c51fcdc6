#include "bench/kernels/inexact_matmul.hpp"

#include <algorithm>

#if defined(__x86_64__)
#  include <immintrin.h>
#endif

namespace krait::bench {
namespace {

Index panel_rows(Isa isa) { return isa >= Isa::avx512 ? 32 : 16; }

#if defined(__x86_64__)

// A panel of 2 registers of rows × T tokens; w [cols][rows of the panel].
template <int T>
__attribute__((target("avx2,fma"))) void tile_avx2(const float* w, Index cols, const float* x,
                                                   Index x_stride, float* y, Index y_stride) {
  __m256 acc[static_cast<std::size_t>(T)][2];
#  pragma GCC unroll 12
  for (int t = 0; t < T; ++t) acc[t][0] = acc[t][1] = _mm256_setzero_ps();
  for (Index k = 0; k < cols; ++k, w += 16) {
    const __m256 w0 = _mm256_loadu_ps(w);
    const __m256 w1 = _mm256_loadu_ps(w + 8);
#  pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      const __m256 b = _mm256_broadcast_ss(x + t * x_stride + k);
      acc[t][0] = _mm256_fmadd_ps(w0, b, acc[t][0]);
      acc[t][1] = _mm256_fmadd_ps(w1, b, acc[t][1]);
    }
  }
#  pragma GCC unroll 12
  for (int t = 0; t < T; ++t) {
    _mm256_storeu_ps(y + t * y_stride, acc[t][0]);
    _mm256_storeu_ps(y + t * y_stride + 8, acc[t][1]);
  }
}

template <int T>
__attribute__((target("avx512f"))) void tile_avx512(const float* w, Index cols, const float* x,
                                                    Index x_stride, float* y, Index y_stride) {
  __m512 acc[static_cast<std::size_t>(T)][2];
#  pragma GCC unroll 12
  for (int t = 0; t < T; ++t) acc[t][0] = acc[t][1] = _mm512_setzero_ps();
  for (Index k = 0; k < cols; ++k, w += 32) {
    const __m512 w0 = _mm512_loadu_ps(w);
    const __m512 w1 = _mm512_loadu_ps(w + 16);
#  pragma GCC unroll 12
    for (int t = 0; t < T; ++t) {
      const __m512 b = _mm512_set1_ps(x[t * x_stride + k]);
      acc[t][0] = _mm512_fmadd_ps(w0, b, acc[t][0]);
      acc[t][1] = _mm512_fmadd_ps(w1, b, acc[t][1]);
    }
  }
#  pragma GCC unroll 12
  for (int t = 0; t < T; ++t) {
    _mm512_storeu_ps(y + t * y_stride, acc[t][0]);
    _mm512_storeu_ps(y + t * y_stride + 16, acc[t][1]);
  }
}

#endif

// Calls tile(std::integral_constant<int, T>, first token) for tiles of at most `width` tokens.
template <int width, class Tile>
void for_tiles(Index tokens, Tile tile) {
  Index t = 0;
  for (; t + width <= tokens; t += width) tile(std::integral_constant<int, width>(), t);
  for (; t < tokens; ++t) tile(std::integral_constant<int, 1>(), t);
}

}  // namespace

PackedWeights::PackedWeights(const float* W, Index rows, Index cols, Isa isa)
    : rows_(rows), cols_(cols), isa_(isa), panels_(static_cast<std::size_t>(rows * cols)) {
  const Index width = panel_rows(isa);
  for (Index r = 0; r < rows; ++r) {
    for (Index k = 0; k < cols; ++k) {
      panels_[static_cast<std::size_t>((r / width * cols + k) * width + r % width)] =
          W[r * cols + k];
    }
  }
}

void PackedWeights::matmul(MatrixView<const float> x, MatrixView<float> y) const {
#if defined(__x86_64__)
  const Index width = panel_rows(isa_);
  // Panels that stay in the L2 cache while all tokens meet them.
  const Index block = std::max(width, (Index{192} << 10) / (cols_ * 4) / width * width);
  for (Index first = 0; first < rows_; first += block) {
    const Index end = std::min(rows_, first + block);
    const auto panels = [&](auto tile) {
      for (Index r = first; r < end; r += width) tile(panels_.data() + r * cols_, r);
    };
    if (width == 32) {
      for_tiles<12>(x.rows, [&](auto tokens, Index t) {
        panels([&](const float* w, Index r) {
          tile_avx512<tokens()>(w, cols_, x.row_data(t), x.stride, y.row_data(t) + r, y.stride);
        });
      });
    } else {
      for_tiles<6>(x.rows, [&](auto tokens, Index t) {
        panels([&](const float* w, Index r) {
          tile_avx2<tokens()>(w, cols_, x.row_data(t), x.stride, y.row_data(t) + r, y.stride);
        });
      });
    }
  }
#else
  static_cast<void>(x);
  static_cast<void>(y);
#endif
}

}  // namespace krait::bench
