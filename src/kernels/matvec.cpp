#include "krait/kernels/matvec.hpp"

#include "krait/kernels/ref/matvec.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matvec.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

template <class W>
void matvec_of(const MatvecArgs& args) noexcept {
  const Product<W> product{.w = static_cast<const W*>(args.W.data),
                           .x = args.x,
                           .n = args.W.cols,
                           .x_stride = 0,
                           .bias = args.bias,
                           .y = args.y,
                           .y_stride = 0};
  stream_outputs<1>(product, args.outputs);
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

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void matvec(const MatvecArgs& args) noexcept { KRAIT_KERNEL(matvec, ref::matvec)(args); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
