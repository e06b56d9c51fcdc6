#include "krait/kernels/norm.hpp"

#include <cmath>

#include "krait/kernels/ref/norm.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/norm.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

void rms_norm(const NormArgs& args) noexcept {
  const Index d = args.x.cols;
  for (Index t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.row_data(t);
    float* y = args.y.row_data(t);
    const float square = reduce(accumulate(d, [x](VF acc, Index k, Index count) HWY_ATTR {
      const VF v = load_count(x + k, count);
      return fma(v, v, acc);
    }));
    const float scale = 1.0F / std::sqrt(square / static_cast<float>(d) + args.eps);
    const VF scales = hn::Set(DF(), scale);
    for_each_register(d, [&](Index i, Index count) HWY_ATTR {
      VF v = hn::Mul(load_count(x + i, count), scales);
      if (args.weight != nullptr) v = hn::Mul(v, load_count(args.weight + i, count));
      store_count(v, y + i, count);
    });
  }
}

void layer_norm(const NormArgs& args) noexcept {
  const Index d = args.x.cols;
  for (Index t = 0; t < args.x.rows; ++t) {
    const float* x = args.x.row_data(t);
    float* y = args.y.row_data(t);
    const float sum = reduce(accumulate(d, [x](VF acc, Index k, Index count) HWY_ATTR {
      return hn::Add(acc, load_count(x + k, count));
    }));
    const VF mean = hn::Set(DF(), sum / static_cast<float>(d));
    const float square = reduce(accumulate(d, [x, mean](VF acc, Index k, Index count) HWY_ATTR {
      const VF centred = hn::Sub(load_count(x + k, count), mean);
      return fma(centred, centred, acc);
    }));
    const VF scale = hn::Set(DF(), 1.0F / std::sqrt(square / static_cast<float>(d) + args.eps));
    for_each_register(d, [&](Index i, Index count) HWY_ATTR {
      VF v = hn::Mul(hn::Sub(load_count(x + i, count), mean), scale);
      if (args.weight != nullptr) {
        const VF weight = load_count(args.weight + i, count);
        v = args.bias != nullptr ? fma(v, weight, load_count(args.bias + i, count))
                                 : hn::Mul(v, weight);
      }
      store_count(v, y + i, count);
    });
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

void rms_norm(const NormArgs& args) noexcept { KRAIT_KERNEL(rms_norm, ref::rms_norm)(args); }
void layer_norm(const NormArgs& args) noexcept { KRAIT_KERNEL(layer_norm, ref::layer_norm)(args); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
