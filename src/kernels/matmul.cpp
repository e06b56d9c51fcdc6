#include "krait/kernels/matmul.hpp"

#include "krait/kernels/ref/matmul.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {
namespace {

constexpr int tile_rows = 4;
constexpr int tile_tokens = hn::MaxLanes(DF()) == 16 ? 6 : 3;

template <int R, int T, class W>
HWY_INLINE void matmul_tile(const MatmulArgs& args, Index row, Index token) {
  const Index n = args.W.cols;
  const TileSource<W> from{static_cast<const W*>(args.W.data) + row * n, n, args.x.row_data(token),
                           args.x.stride};
  Array<Lanes, R * T> lanes;
  KRAIT_UNROLL
  for (int p = 0; p < vector_parts; ++p) {
    Array<VF, R * T> acc;
    KRAIT_UNROLL
    for (int i = 0; i < R * T; ++i) acc[i] = hn::Zero(DF());
    accumulate_tile<R, T, 1, W>(from, p * vector_lanes, 0, n, acc);
    KRAIT_UNROLL
    for (int i = 0; i < R * T; ++i) lanes[i].part[p] = acc[i];
  }
  const float* bias = args.bias != nullptr ? args.bias + row : nullptr;
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    float* y = args.y.row_data(token + t) + row;
    if constexpr (R == 4) {
      store_outputs<4>(reduce_4(lanes[t], lanes[T + t], lanes[2 * T + t], lanes[3 * T + t]), bias,
                       y);
    } else {
      const float sum = reduce(lanes[t]);
      *y = bias != nullptr ? sum + *bias : sum;
    }
  }
}

template <int T, class W>
void matmul_tokens(const MatmulArgs& args, Index token) noexcept {
  Index row = args.outputs.begin;
  for (; row + tile_rows <= args.outputs.end; row += tile_rows) {
    matmul_tile<tile_rows, T, W>(args, row, token);
  }
  for (; row < args.outputs.end; ++row) matmul_tile<1, T, W>(args, row, token);
}

template <int T, class W>
void matmul_rest(const MatmulArgs& args, Index token, Index count) noexcept {
  if constexpr (T > 0) {
    if (count == T) return matmul_tokens<T, W>(args, token);
    matmul_rest<T - 1, W>(args, token, count);
  }
}

template <class W>
void matmul_of(const MatmulArgs& args) noexcept {
  Index token = 0;
  for (; token + tile_tokens <= args.x.rows; token += tile_tokens) {
    matmul_tokens<tile_tokens, W>(args, token);
  }
  matmul_rest<tile_tokens - 1, W>(args, token, args.x.rows - token);
}

}  // namespace

void matmul(const MatmulArgs& args) noexcept {
  switch (args.W.dtype) {
    case DType::f16:
      return matmul_of<f16>(args);
    case DType::bf16:
      return matmul_of<bf16>(args);
    default:
      return matmul_of<float>(args);
  }
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void matmul(const MatmulArgs& args) noexcept { KRAIT_KERNEL(matmul, ref::matmul)(args); }

}  // namespace krait::inline v0_1::kernels
#endif
