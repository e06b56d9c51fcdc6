#include "krait/kernels/elementwise.hpp"

#include "krait/kernels/ref/elementwise.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {

// y = f(x), register by register.
template <class F>
HWY_INLINE void map(std::span<const float> x, std::span<float> y, F f) {
  const float* from = x.data();
  float* to = y.data();
  for_each_register(static_cast<Index>(x.size()), [=](Index i, Index count) HWY_ATTR {
    store_count(f(load_count(from + i, count)), to + i, count);
  });
}

template <class F>
HWY_INLINE void map(std::span<const float> a, std::span<const float> b, std::span<float> y, F f) {
  const float* left = a.data();
  const float* right = b.data();
  float* to = y.data();
  for_each_register(static_cast<Index>(a.size()), [=](Index i, Index count) HWY_ATTR {
    store_count(f(load_count(left + i, count), load_count(right + i, count)), to + i, count);
  });
}

void exp(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](VF v) HWY_ATTR { return exp_of(VectorOps(), v); });
}

void log(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](VF v) HWY_ATTR { return log_of(VectorOps(), v); });
}

void softplus(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](VF v) HWY_ATTR { return softplus_of(VectorOps(), v); });
}

void sigmoid(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](VF v) HWY_ATTR { return sigmoid_of(VectorOps(), v); });
}

void silu(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](VF v) HWY_ATTR { return silu_of(VectorOps(), v); });
}

void add(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  map(a, b, y, [](VF v, VF w) HWY_ATTR { return hn::Add(v, w); });
}

void mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  map(a, b, y, [](VF v, VF w) HWY_ATTR { return hn::Mul(v, w); });
}

void silu_mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  map(a, b, y, [](VF v, VF w) HWY_ATTR { return hn::Mul(v, silu_of(VectorOps(), w)); });
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void exp(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(exp, ref::exp)(x, y);
}
void log(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(log, ref::log)(x, y);
}
void softplus(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(softplus, ref::softplus)(x, y);
}
void sigmoid(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(sigmoid, ref::sigmoid)(x, y);
}
void silu(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(silu, ref::silu)(x, y);
}
void add(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  KRAIT_KERNEL(add, ref::add)(a, b, y);
}
void mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  KRAIT_KERNEL(mul, ref::mul)(a, b, y);
}
void silu_mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  KRAIT_KERNEL(silu_mul, ref::silu_mul)(a, b, y);
}

}  // namespace krait::inline v0_1::kernels
#endif
