#include "krait/kernels/elementwise.hpp"

#include "krait/kernels/ref/elementwise.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/elementwise.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// y = f(x), two registers at a time, then one by one. `f` takes the operations and the operand.
template <class F>
HWY_INLINE void map(std::span<const float> x, std::span<float> y, F f) {
  const float* from = x.data();
  float* to = y.data();
  const auto n = static_cast<Index>(x.size());
  Index i = 0;
  for (; i + 2 * vector_lanes <= n; i += 2 * vector_lanes) {
    const RegisterSet<2> pair =
        f(RegisterSetOps<2>(), RegisterSet<2>{{load(from + i), load(from + i + vector_lanes)}});
    store(pair.part[0], to + i);
    store(pair.part[1], to + i + vector_lanes);
  }
  for (; i < n; i += vector_lanes) {
    const Index count = HWY_MIN(vector_lanes, n - i);
    store_count(f(VectorOps(), load_count(from + i, count)), to + i, count);
  }
}

// y = f(a, b), register by register.
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
  map(x, y, [](auto ops, auto v) HWY_ATTR { return exp_of(ops, v); });
}

void log(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](auto ops, auto v) HWY_ATTR { return log_of(ops, v); });
}

void softplus(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](auto ops, auto v) HWY_ATTR { return softplus_of(ops, v); });
}

void sigmoid(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](auto ops, auto v) HWY_ATTR { return sigmoid_of(ops, v); });
}

void silu(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](auto ops, auto v) HWY_ATTR { return silu_of(ops, v); });
}

void gelu(std::span<const float> x, std::span<float> y) noexcept {
  map(x, y, [](auto ops, auto v) HWY_ATTR { return gelu_of(ops, v); });
}

void relu(std::span<const float> x, std::span<float> y) noexcept {
  const float* from = x.data();
  float* to = y.data();
  for_each_register(static_cast<Index>(x.size()), [=](Index i, Index count) HWY_ATTR {
    const VF v = load_count(from + i, count);
    const VF zero = hn::Zero(DF());
    store_count(hn::IfThenElse(hn::Lt(v, zero), zero, v), to + i, count);
  });
}

void add(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  map(a, b, y, [](VF v, VF w) HWY_ATTR { return hn::Add(v, w); });
}

void mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  map(a, b, y, [](VF v, VF w) HWY_ATTR { return hn::Mul(v, w); });
}

void scale(float a, std::span<const float> x, std::span<float> y) noexcept {
  const VF factor = hn::Set(DF(), a);
  map(x, x, y, [factor](VF v, VF) HWY_ATTR { return hn::Mul(factor, v); });
}

void silu_mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  map(a, b, y, [](VF v, VF w) HWY_ATTR { return hn::Mul(v, silu_of(VectorOps(), w)); });
}

void add_scaled(float a, std::span<const float> x, std::span<float> y) noexcept {
  const VF factor = hn::Set(DF(), a);
  map(x, y, y, [factor](VF v, VF w) HWY_ATTR { return fma(factor, v, w); });
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

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
void gelu(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(gelu, ref::gelu)(x, y);
}
void relu(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(relu, ref::relu)(x, y);
}
void add(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  KRAIT_KERNEL(add, ref::add)(a, b, y);
}
void mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  KRAIT_KERNEL(mul, ref::mul)(a, b, y);
}
void scale(float a, std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(scale, ref::scale)(a, x, y);
}
void silu_mul(std::span<const float> a, std::span<const float> b, std::span<float> y) noexcept {
  KRAIT_KERNEL(silu_mul, ref::silu_mul)(a, b, y);
}
void add_scaled(float a, std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(add_scaled, ref::add_scaled)(a, x, y);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
