// Vector helpers shared by the kernels, once per instruction set. Include after targets.hpp.

#if defined(KRAIT_SIMD_INL_HPP) == defined(HWY_TARGET_TOGGLE)
#  ifdef KRAIT_SIMD_INL_HPP
#    undef KRAIT_SIMD_INL_HPP
#  else
#    define KRAIT_SIMD_INL_HPP
#  endif

#  include <cstddef>
#  include <cstdint>
#  include <limits>
#  include <type_traits>
#  include <utility>

#  include <hwy/highway.h>

#  include "kernels/fetch.hpp"
#  include "krait/core/dtype.hpp"

// For loops that must vanish, so that their arrays become registers.
#  undef KRAIT_UNROLL
#  define KRAIT_UNROLL HWY_UNROLL(32)

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

namespace hn = hwy::HWY_NAMESPACE;

// The widest float vector of the target, up to the contract's 16 lanes.
using DF = hn::CappedTag<float, 16>;
using DI = hn::RebindToSigned<DF>;
using VF = hn::Vec<DF>;

// An array of registers; all of its subscripts must be constants once loops are unrolled.
template <class V, int n>
using Array = V[static_cast<std::size_t>(n)];

constexpr Index vector_lanes = static_cast<Index>(hn::MaxLanes(DF()));

// a > b ? a : b and a < b ? a : b: b where either is NaN, as x86 has it and the scalar model asks.
// Arm's instructions give the number.
template <class V>
HWY_INLINE V max_of(V a, V b) {
#  if HWY_ARCH_X86
  return hn::Max(a, b);
#  else
  return hn::IfThenElse(hn::Gt(a, b), a, b);
#  endif
}
template <class V>
HWY_INLINE V min_of(V a, V b) {
#  if HWY_ARCH_X86
  return hn::Min(a, b);
#  else
  return hn::IfThenElse(hn::Lt(a, b), a, b);
#  endif
}

constexpr Index virtual_lanes = 16;
constexpr Index vector_parts = virtual_lanes / vector_lanes;

#  if HWY_TARGET == HWY_SSE4
// a·b + c with one rounding, on a target that has no such instruction: the product of two floats
// is exact in double; the sum is rounded to odd, which makes the final rounding to float correct.
HWY_INLINE hn::Vec<hn::Half<DF>> fma_half(hn::Vec<hn::Half<DF>> a, hn::Vec<hn::Half<DF>> b,
                                          hn::Vec<hn::Half<DF>> c) {
  const hn::FixedTag<double, 2> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Half<DF> dh;
  const auto product = hn::Mul(hn::PromoteTo(d, a), hn::PromoteTo(d, b));
  const auto addend = hn::PromoteTo(d, c);
  const auto sum = hn::Add(product, addend);
  const auto part = hn::Sub(sum, product);
  const auto error = hn::Add(hn::Sub(product, hn::Sub(sum, part)), hn::Sub(addend, part));
  const auto bits = hn::BitCast(di, sum);
  const auto one = hn::Set(di, 1);
  const auto is_even = hn::Eq(hn::And(bits, one), hn::Zero(di));
  const auto zero = hn::Zero(d);
  const auto inexact = hn::Or(hn::Gt(error, zero), hn::Lt(error, zero));
  // One step of the bit pattern away from zero where error and sum have the same sign, towards
  // zero where they differ.
  const auto signs = hn::BitCast(di, hn::Xor(error, sum));
  const auto step = hn::IfThenElse(hn::Lt(signs, hn::Zero(di)), hn::Set(di, -1), one);
  const auto adjust = hn::And(is_even, hn::RebindMask(di, inexact));
  const auto odd = hn::Add(bits, hn::IfThenElseZero(adjust, step));
  return hn::DemoteTo(dh, hn::BitCast(d, odd));
}

HWY_INLINE VF fma(VF a, VF b, VF c) {
  const DF d;
  const hn::Half<DF> dh;
  return hn::Combine(d, fma_half(hn::UpperHalf(dh, a), hn::UpperHalf(dh, b), hn::UpperHalf(dh, c)),
                     fma_half(hn::LowerHalf(dh, a), hn::LowerHalf(dh, b), hn::LowerHalf(dh, c)));
}
#  else
HWY_INLINE VF fma(VF a, VF b, VF c) { return hn::MulAdd(a, b, c); }
#  endif

// Loads of stored weights, widened exactly.
template <class D>
HWY_INLINE hn::Vec<D> load_as(D d, const float* p) {
  return hn::LoadU(d, p);
}

// The floats whose bits as bf16 or f16 these are.
template <class D>
HWY_INLINE hn::Vec<D> widen_as(D d, bf16 /*tag*/, hn::Vec<hn::Rebind<std::uint16_t, D>> bits) {
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(hn::RebindToUnsigned<D>(), bits)));
}

template <class D>
HWY_INLINE hn::Vec<D> widen_as(D d, f16 /*tag*/, hn::Vec<hn::Rebind<std::uint16_t, D>> bits) {
#  if HWY_TARGET == HWY_SSE4
  // Without the instruction. Highway's own widening makes numbers of infinity and NaN.
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto wide = hn::PromoteTo(du, bits);
  const auto sign = hn::ShiftLeft<16>(hn::And(wide, hn::Set(du, 0x8000)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(wide, hn::Set(du, 0x7FFF)));
  // Moves the exponent's bias; exact, also for subnormal numbers.
  const auto finite = hn::BitCast(du, hn::Mul(hn::BitCast(d, magnitude), hn::Set(d, 0x1p112F)));
  const auto at_least = [&](std::int32_t least) HWY_ATTR {
    return hn::RebindMask(du, hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, least - 1)));
  };
  const auto quiet = hn::IfThenElseZero(at_least(0x0F800001), hn::Set(du, 0x400000));
  const auto other = hn::Or(hn::Or(magnitude, hn::Set(du, 0x7F800000)), quiet);
  return hn::BitCast(d, hn::Or(sign, hn::IfThenElse(at_least(0x0F800000), other, finite)));
#  else
  return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), bits));
#  endif
}

template <class D, class T>
HWY_INLINE hn::Vec<D> load_as(D d, const T* p) {
  const hn::Rebind<std::uint16_t, D> d16;
  return widen_as(d, T(), hn::LoadU(d16, reinterpret_cast<const std::uint16_t*>(p)));
}

template <class T>
HWY_INLINE VF load(const T* p) {
  return load_as(DF(), p);
}

// The bits of the nearest bfloat16, ties to even, in the lower half of each lane.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> bf16_bits(D /*tag*/, hn::Vec<D> v) {
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(du, v);
  const auto is_odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto rounded = hn::ShiftRight<16>(hn::Add(bits, hn::Add(is_odd, hn::Set(du, 0x7FFF))));
  const auto quiet = hn::Or(hn::ShiftRight<16>(bits), hn::Set(du, 0x40));
  const auto magnitude = hn::And(bits, hn::Set(du, 0x7FFFFFFF));
  const auto is_nan = hn::Gt(hn::BitCast(di, magnitude), hn::Set(di, 0x7F800000));
  return hn::IfThenElse(hn::RebindMask(du, is_nan), quiet, rounded);
}

#  if HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3
constexpr bool has_masked_access = true;  // loads and stores that do not touch masked elements
#  else
constexpr bool has_masked_access = false;
#  endif

// The first `count` elements, 0 < count < vector_lanes, zeros above. Never reads beyond them. Not
// by way of an array where it can be helped: a wide load of what narrow stores have just written
// stalls.
HWY_INLINE VF load_some(const float* p, Index count) {
  if constexpr (has_masked_access) {
    const DF d;
    return hn::MaskedLoad(hn::FirstN(d, static_cast<std::size_t>(count)), d, p);
  } else {
    HWY_ALIGN float lanes[vector_lanes] = {};
    for (Index i = 0; i < count; ++i) lanes[i] = p[i];
    return load(lanes);
  }
}

// The same for the 16-bit lanes of `d16`.
template <class D16>
HWY_INLINE hn::Vec<D16> load_some_bits(D16 d16, const std::uint16_t* p, Index count) {
#  if HWY_TARGET == HWY_AVX3
  return hn::MaskedLoad(hn::FirstN(d16, static_cast<std::size_t>(count)), d16, p);
#  elif HWY_TARGET == HWY_AVX2
  // Masks are of 32 bits: pairs go through one, an odd element by itself.
  const hn::Repartition<std::uint32_t, D16> d32;
  const auto pairs = hn::FirstN(d32, static_cast<std::size_t>(count / 2));
  const auto even = hn::MaskedLoad(pairs, d32, reinterpret_cast<const std::uint32_t*>(p));
  const auto is_last =
      hn::Eq(hn::Iota(d16, 0), hn::Set(d16, static_cast<std::uint16_t>(count - 1)));
  const auto last = hn::IfThenElseZero(is_last, hn::Set(d16, p[count - 1]));
  return hn::Or(hn::BitCast(d16, even), last);
#  else
  HWY_ALIGN std::uint16_t lanes[hn::MaxLanes(d16)] = {};
  for (Index i = 0; i < count; ++i) lanes[i] = p[i];
  return hn::Load(d16, lanes);
#  endif
}

template <class T>
HWY_INLINE VF load_some(const T* p, Index count) {
  const hn::Rebind<std::uint16_t, DF> d16;
  const auto bits = load_some_bits(d16, reinterpret_cast<const std::uint16_t*>(p), count);
  return widen_as(DF(), T(), bits);
}

HWY_INLINE void store(VF v, float* p) { hn::StoreU(v, DF(), p); }

// Stores the first `count` < vector_lanes elements. Never touches memory beyond them.
HWY_INLINE void store_some(VF v, float* p, Index count) {
  const DF d;
  if constexpr (has_masked_access) {
    hn::BlendedStore(v, hn::FirstN(d, static_cast<std::size_t>(count)), d, p);
  } else {
    HWY_ALIGN float lanes[vector_lanes];
    hn::Store(v, d, lanes);
    for (Index i = 0; i < count; ++i) p[i] = lanes[i];
  }
}

// One register that may be partial, as in the bodies of `accumulate` and `for_each_register`.
template <class T>
HWY_INLINE VF load_count(const T* p, Index count) {
  return count == vector_lanes ? load(p) : load_some(p, count);
}

HWY_INLINE void store_count(VF v, float* p, Index count) {
  if (count == vector_lanes) {
    store(v, p);
  } else {
    store_some(v, p, count);
  }
}

// Calls body(i, count) for the registers of n floats; count is vector_lanes except in the last.
template <class Body>
HWY_INLINE void for_each_register(Index n, Body body) {
  for (Index i = 0; i < n; i += vector_lanes) body(i, HWY_MIN(vector_lanes, n - i));
}

// The contract's 16 virtual lanes (section 2), in as many registers as the target needs.
struct Lanes {
  VF part[vector_parts];
};

HWY_INLINE Lanes zero_lanes() {
  Lanes lanes;
  for (Index i = 0; i < vector_parts; ++i) lanes.part[i] = hn::Zero(DF());
  return lanes;
}

// s[i] = acc[i] + acc[i+8], then + 4, + 2, + 1.
HWY_INLINE float reduce(const Lanes& lanes) {
#  if HWY_TARGET == HWY_AVX3
  const hn::Half<DF> d8;
  const auto s8 = hn::Add(hn::LowerHalf(d8, lanes.part[0]), hn::UpperHalf(d8, lanes.part[0]));
  const hn::Half<decltype(d8)> d4;
  const auto s4 = hn::Add(hn::LowerHalf(d4, s8), hn::UpperHalf(d4, s8));
#  elif HWY_TARGET == HWY_AVX2
  const auto s8 = hn::Add(lanes.part[0], lanes.part[1]);
  const hn::Half<DF> d4;
  const auto s4 = hn::Add(hn::LowerHalf(d4, s8), hn::UpperHalf(d4, s8));
#  else
  const auto s4 =
      hn::Add(hn::Add(lanes.part[0], lanes.part[2]), hn::Add(lanes.part[1], lanes.part[3]));
#  endif
  const auto s2 = hn::Add(s4, hn::Shuffle1032(s4));
  const auto s1 = hn::Add(s2, hn::Shuffle2301(s2));
  return hn::GetLane(s1);
}

// acc[k mod 16] = f(acc[k mod 16], k) over ascending groups of 16; in the last group, lanes
// without an element are left alone. `step(acc, k, count)` returns the new value of one register,
// whose elements start at k; count is vector_lanes except in a tail.
template <class Step>
HWY_INLINE Lanes accumulate(Index n, Step step) {
  const DF d;
  Lanes acc = zero_lanes();
  Index k = 0;
  for (; k + virtual_lanes <= n; k += virtual_lanes) {
    for (Index i = 0; i < vector_parts; ++i) {
      acc.part[i] = step(acc.part[i], k + i * vector_lanes, vector_lanes);
    }
  }
  for (Index i = 0; k < n; ++i, k += vector_lanes) {
    const Index count = HWY_MIN(vector_lanes, n - k);
    const VF next = step(acc.part[i], k, count);
    acc.part[i] = hn::IfThenElse(hn::FirstN(d, static_cast<std::size_t>(count)), next, acc.part[i]);
  }
  return acc;
}

// Vector operations for elementary.inl; see ref::ScalarOps.
struct VectorOps {
  using V = VF;
  HWY_INLINE V set(float x) const { return hn::Set(DF(), x); }
  HWY_INLINE V add(V a, V b) const { return hn::Add(a, b); }
  HWY_INLINE V sub(V a, V b) const { return hn::Sub(a, b); }
  HWY_INLINE V mul(V a, V b) const { return hn::Mul(a, b); }
  HWY_INLINE V div(V a, V b) const { return hn::Div(a, b); }
  HWY_INLINE V fma(V a, V b, V c) const { return HWY_NAMESPACE::fma(a, b, c); }
  HWY_INLINE V sqrt(V a) const { return hn::Sqrt(a); }
  HWY_INLINE V abs(V a) const { return hn::Abs(a); }
  HWY_INLINE V neg(V a) const { return hn::Neg(a); }
  HWY_INLINE V max(V a, V b) const { return max_of(a, b); }
  HWY_INLINE V min(V a, V b) const { return min_of(a, b); }
  HWY_INLINE V round(V a) const { return hn::Round(a); }
  HWY_INLINE V if_greater(V a, V b, V yes, V no) const {
    return hn::IfThenElse(hn::Gt(a, b), yes, no);
  }
  HWY_INLINE V mantissa(V x) const {
    const DI di;
    const auto bits = hn::Sub(hn::BitCast(di, x), hn::ShiftLeft<23>(whole_exponent(x)));
    return hn::BitCast(DF(), bits);
  }
  HWY_INLINE V exponent(V x) const { return hn::ConvertTo(DF(), whole_exponent(x)); }
#  if HWY_TARGET == HWY_AVX3
  HWY_INLINE V scale(V x, V n) const { return V{_mm512_scalef_ps(x.raw, n.raw)}; }
  HWY_INLINE V scale_down(V x, V n) const { return scale(x, n); }
#  else
  // The middle of the exponents is shifted by 64 so that the first product is exact; the second
  // one rounds. If n is NaN, `power` is 0, a power of two or infinite, and x stays NaN.
  HWY_INLINE V scale(V x, V n) const {
    const auto is_positive = hn::Gt(n, hn::Zero(DF()));
    const V bias = hn::IfThenElse(is_positive, set(127.0F - 64.0F), set(127.0F + 64.0F));
    const V rest = hn::IfThenElse(is_positive, set(0x1p64F), set(0x1p-64F));
    return hn::Mul(hn::Mul(x, power(n, bias)), rest);
  }
  HWY_INLINE V scale_down(V x, V n) const {
    return hn::Mul(hn::Mul(x, power(n, set(127.0F + 64.0F))), set(0x1p-64F));
  }
#  endif
  HWY_INLINE V power_of_biased(V biased) const {
    return hn::BitCast(DF(), hn::ShiftLeft<23>(hn::BitCast(DI(), biased)));
  }
  static constexpr float quiet_nan() { return std::numeric_limits<float>::quiet_NaN(); }
  static constexpr float infinity() { return std::numeric_limits<float>::infinity(); }

 private:
  HWY_INLINE hn::Vec<DI> whole_exponent(V x) const {
    const DI di;
    return hn::ShiftRight<23>(hn::Sub(hn::BitCast(di, x), hn::Set(di, 0x3F3504F3)));
  }
  // The float whose biased exponent is n + bias: adding 1.5 · 2^23 leaves that integer in the low
  // bits.
  HWY_INLINE V power(V n, V bias) const {
    return power_of_biased(hn::Add(n, hn::Add(bias, set(0x1.8p23F))));
  }
};

// Several registers that go through a function side by side. One chain of operations is longer
// than the window in which a core looks for independent work; interleaved chains fill its units.
template <std::size_t width>
struct RegisterSet {
  VF part[width];
};

template <std::size_t width>
struct RegisterSetOps {
  using V = RegisterSet<width>;
  HWY_INLINE V set(float x) const {
    return map([x](VF) HWY_ATTR { return hn::Set(DF(), x); }, V{});
  }
  HWY_INLINE V add(V a, V b) const {
    return map([](VF x, VF y) HWY_ATTR { return hn::Add(x, y); }, a, b);
  }
  HWY_INLINE V sub(V a, V b) const {
    return map([](VF x, VF y) HWY_ATTR { return hn::Sub(x, y); }, a, b);
  }
  HWY_INLINE V mul(V a, V b) const {
    return map([](VF x, VF y) HWY_ATTR { return hn::Mul(x, y); }, a, b);
  }
  HWY_INLINE V div(V a, V b) const {
    return map([](VF x, VF y) HWY_ATTR { return hn::Div(x, y); }, a, b);
  }
  HWY_INLINE V neg(V a) const {
    return map([](VF x) HWY_ATTR { return hn::Neg(x); }, a);
  }
  HWY_INLINE V max(V a, V b) const {
    return map([](VF x, VF y) HWY_ATTR { return max_of(x, y); }, a, b);
  }
  HWY_INLINE V min(V a, V b) const {
    return map([](VF x, VF y) HWY_ATTR { return min_of(x, y); }, a, b);
  }
  HWY_INLINE V round(V a) const {
    return map([](VF x) HWY_ATTR { return hn::Round(x); }, a);
  }
  HWY_INLINE V fma(V a, V b, V c) const {
    return map([](VF x, VF y, VF z) HWY_ATTR { return HWY_NAMESPACE::fma(x, y, z); }, a, b, c);
  }
  HWY_INLINE V if_greater(V a, V b, V yes, V no) const {
    return map([](VF x, VF y, VF t, VF f) HWY_ATTR { return VectorOps().if_greater(x, y, t, f); },
               a, b, yes, no);
  }
  HWY_INLINE V mantissa(V x) const {
    return map([](VF v) HWY_ATTR { return VectorOps().mantissa(v); }, x);
  }
  HWY_INLINE V exponent(V x) const {
    return map([](VF v) HWY_ATTR { return VectorOps().exponent(v); }, x);
  }
  HWY_INLINE V scale(V x, V n) const {
    return map([](VF v, VF e) HWY_ATTR { return VectorOps().scale(v, e); }, x, n);
  }
  HWY_INLINE V scale_down(V x, V n) const {
    return map([](VF v, VF e) HWY_ATTR { return VectorOps().scale_down(v, e); }, x, n);
  }
  HWY_INLINE V power_of_biased(V biased) const {
    return map([](VF v) HWY_ATTR { return VectorOps().power_of_biased(v); }, biased);
  }
  static constexpr float quiet_nan() { return VectorOps::quiet_nan(); }
  static constexpr float infinity() { return VectorOps::infinity(); }

 private:
  // Subscripts are constants, not a loop's variable: only then do compilers keep a set in
  // registers.
  template <class F, class... Vs>
  static HWY_INLINE V map(F f, const Vs&... operands) {
    return map_all(std::make_index_sequence<width>(), f, operands...);
  }
  template <std::size_t... parts, class F, class... Vs>
  static HWY_INLINE V map_all(std::index_sequence<parts...>, F f, const Vs&... operands) {
    return V{{map_one<parts>(f, operands...)...}};
  }
  template <std::size_t part, class F, class... Vs>
  static HWY_INLINE VF map_one(F f, const Vs&... operands) {
    return f(operands.part[part]...);
  }
};

#  define KRAIT_INLINE HWY_INLINE
#  include "krait/kernels/ref/elementary.inl"
#  undef KRAIT_INLINE

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#endif  // per-target include guard
