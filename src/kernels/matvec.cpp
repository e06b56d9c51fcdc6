#include "krait/kernels/matvec.hpp"

#include "krait/kernels/ref/matvec.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matvec.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {
namespace {

// Rows that are summed side by side: enough chains to hide the latency of fma.
constexpr int rows_per_tile = vector_parts == 1 ? 8 : 4;

template <int R, class W>
HWY_INLINE void matvec_rows(const MatvecArgs& args, Index row) {
  const Index n = args.W.cols;
  const W* w = static_cast<const W*>(args.W.data) + row * n;
  constexpr int parts = static_cast<int>(vector_parts);
  Array<VF, R * parts> acc;
  KRAIT_UNROLL
  for (int i = 0; i < R * parts; ++i) acc[i] = hn::Zero(DF());
  accumulate_tile<R, 1, parts, W>({w, n, args.x, 0}, 0, 0, n, acc);
  Array<Lanes, R> lanes;
  KRAIT_UNROLL
  for (int i = 0; i < R * parts; ++i) lanes[i / parts].part[i % parts] = acc[i];
  const float* bias = args.bias != nullptr ? args.bias + row : nullptr;
  if constexpr (R == 1) {
    const float sum = reduce(lanes[0]);
    args.y[row] = bias != nullptr ? sum + *bias : sum;
  } else {
    KRAIT_UNROLL
    for (int i = 0; i < R; i += 4) {
      store_outputs<4>(reduce_4(lanes[i], lanes[i + 1], lanes[i + 2], lanes[i + 3]),
                       bias != nullptr ? bias + i : nullptr, args.y + row + i);
    }
  }
}

template <class W>
void matvec_of(const MatvecArgs& args) noexcept {
  Index row = args.outputs.begin;
  for (; row + rows_per_tile <= args.outputs.end; row += rows_per_tile) {
    matvec_rows<rows_per_tile, W>(args, row);
  }
  for (; row < args.outputs.end; ++row) matvec_rows<1, W>(args, row);
}

}  // namespace

void matvec(const MatvecArgs& args) noexcept {
  switch (args.W.dtype) {
    case DType::f16:
      return matvec_of<f16>(args);
    case DType::bf16:
      return matvec_of<bf16>(args);
    default:
      return matvec_of<float>(args);
  }
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void matvec(const MatvecArgs& args) noexcept { KRAIT_KERNEL(matvec, ref::matvec)(args); }

}  // namespace krait::inline v0_1::kernels
#endif
