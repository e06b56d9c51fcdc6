#include "krait/kernels/softmax.hpp"

#include "krait/kernels/ref/softmax.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/softmax.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

constexpr float minus_infinity = -std::numeric_limits<float>::infinity();
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();

// The largest element that is not NaN, -inf if there is none. Several registers at a time: the
// order of comparisons does not matter, except for the sign of a zero, which nothing below sees.
HWY_INLINE float max_of(const float* x, Index n) {
  const DF d;
  constexpr Index ways = 4;
  VF largest[ways];
  for (Index w = 0; w < ways; ++w) largest[w] = hn::Set(d, minus_infinity);
  // A comparison rather than Max, whose treatment of NaN differs between instruction sets.
  const auto update = [](VF best, VF v)
                          HWY_ATTR { return hn::IfThenElse(hn::Gt(v, best), v, best); };
  Index i = 0;
  for (; i + ways * vector_lanes <= n; i += ways * vector_lanes) {
    for (Index w = 0; w < ways; ++w)
      largest[w] = update(largest[w], load(x + i + w * vector_lanes));
  }
  for (; i + vector_lanes <= n; i += vector_lanes) largest[0] = update(largest[0], load(x + i));
  if (i < n) {
    const auto is_element = hn::FirstN(d, static_cast<std::size_t>(n - i));
    const VF v = hn::IfThenElse(is_element, load_some(x + i, n - i), largest[0]);
    largest[0] = update(largest[0], v);
  }
  for (Index w = 1; w < ways; ++w) largest[0] = update(largest[0], largest[w]);
  HWY_ALIGN float lanes[vector_lanes];
  hn::Store(largest[0], d, lanes);
  float result = lanes[0];
  for (Index lane = 1; lane < vector_lanes; ++lane) {
    result = lanes[lane] > result ? lanes[lane] : result;
  }
  return result;
}

HWY_INLINE bool has_nan(const float* x, Index n) {
  bool found = false;
  for (Index i = 0; i < n; ++i) found |= x[i] != x[i];
  return found;
}

void softmax(std::span<const float> x, std::span<float> y) noexcept {
  const float* from = x.data();
  float* to = y.data();
  const auto n = static_cast<Index>(x.size());
  const VF largest = hn::Set(DF(), max_of(from, n));
  const float sum = reduce(accumulate(n, [=](VF acc, Index k, Index count) HWY_ATTR {
    const VF e = exp_nonpositive_of(VectorOps(), hn::Sub(load_count(from + k, count), largest));
    store_count(e, to + k, count);
    return hn::Add(acc, e);
  }));
  if (sum != sum) {  // one bit pattern, whichever NaN came first
    for (Index i = 0; i < n; ++i) to[i] = quiet_nan;
    return;
  }
  const VF divisor = hn::Set(DF(), sum);
  for_each_register(n, [=](Index i, Index count) HWY_ATTR {
    store_count(hn::Div(load_count(to + i, count), divisor), to + i, count);
  });
}

float log_sum_exp(std::span<const float> x) noexcept {
  const float* from = x.data();
  const auto n = static_cast<Index>(x.size());
  const float largest = max_of(from, n);
  if (largest == minus_infinity || largest == -minus_infinity) {
    return has_nan(from, n) ? quiet_nan : largest;
  }
  const VF subtrahend = hn::Set(DF(), largest);
  const float sum = reduce(accumulate(n, [=](VF acc, Index k, Index count) HWY_ATTR {
    const VF v = hn::Sub(load_count(from + k, count), subtrahend);
    return hn::Add(acc, exp_nonpositive_of(VectorOps(), v));
  }));
  if (sum != sum) return quiet_nan;
  return largest + hn::GetLane(log_of(VectorOps(), hn::Set(DF(), sum)));
}

void log_softmax(std::span<const float> x, std::span<float> y) noexcept {
  const float* from = x.data();
  float* to = y.data();
  const VF total = hn::Set(DF(), HWY_NAMESPACE::log_sum_exp(x));
  const VF nan = hn::Set(DF(), quiet_nan);
  for_each_register(static_cast<Index>(x.size()), [=](Index i, Index count) HWY_ATTR {
    const VF v = hn::Sub(load_count(from + i, count), total);
    store_count(hn::IfThenElse(hn::Eq(v, v), v, nan), to + i, count);
  });
}

Index argmax(std::span<const float> x) noexcept {
  const DF d;
  const float* from = x.data();
  const auto n = static_cast<Index>(x.size());
  const float largest = max_of(from, n);
  const VF wanted = hn::Set(d, largest);
  Index i = 0;
  for (; i + vector_lanes <= n; i += vector_lanes) {
    if (!hn::AllFalse(d, hn::Eq(load(from + i), wanted))) break;
  }
  for (; i < n; ++i) {
    if (from[i] == largest) return i;
  }
  return 0;
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void softmax(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(softmax, ref::softmax)(x, y);
}
float log_sum_exp(std::span<const float> x) noexcept {
  return KRAIT_KERNEL(log_sum_exp, ref::log_sum_exp)(x);
}
void log_softmax(std::span<const float> x, std::span<float> y) noexcept {
  KRAIT_KERNEL(log_softmax, ref::log_softmax)(x, y);
}
Index argmax(std::span<const float> x) noexcept { return KRAIT_KERNEL(argmax, ref::argmax)(x); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
