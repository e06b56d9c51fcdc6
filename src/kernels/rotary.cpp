#include "krait/kernels/rotary.hpp"

#include <cmath>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/ref/rotary.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/rotary.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

using DD = hn::Repartition<double, DF>;
using DL = hn::RebindToUnsigned<DD>;
using VD = hn::Vec<DD>;

constexpr Index double_lanes = static_cast<Index>(hn::MaxLanes(DD()));

// See ref::ScalarDoubleOps.
struct VectorDoubleOps {
  using V = VD;
  HWY_INLINE V set(double x) const { return hn::Set(DD(), x); }
  HWY_INLINE V add(V a, V b) const { return hn::Add(a, b); }
  HWY_INLINE V sub(V a, V b) const { return hn::Sub(a, b); }
  HWY_INLINE V mul(V a, V b) const { return hn::Mul(a, b); }
  HWY_INLINE V if_odd(V biased, V yes, V no) const {
    const DL d;
    const auto one = hn::Set(d, std::uint64_t{1});
    const auto odd = hn::Eq(hn::And(hn::BitCast(d, biased), one), one);
    return hn::IfThenElse(hn::RebindMask(DD(), odd), yes, no);
  }
  HWY_INLINE V negate_if_bit_1(V biased, std::uint64_t more, V v) const {
    const DL d;
    const auto bits = hn::Add(hn::BitCast(d, biased), hn::Set(d, more));
    const auto sign = hn::ShiftLeft<62>(hn::And(bits, hn::Set(d, std::uint64_t{2})));
    return hn::BitCast(DD(), hn::Xor(hn::BitCast(d, v), sign));
  }
};

#define KRAIT_INLINE HWY_INLINE
#include "krait/kernels/ref/sin_cos.inl"
#undef KRAIT_INLINE

// Pairs whose sines and cosines are computed at a time, for all heads.
constexpr Index chunk_pairs = 64;

struct Angles {
  HWY_ALIGN float sin[chunk_pairs];
  HWY_ALIGN float cos[chunk_pairs];
};

// Of `count` ≤ chunk_pairs pairs.
HWY_INLINE void fill(Angles& angles, double position, const double* frequencies, Index count) {
  const DD d;
  const hn::Half<DF> half;
  HWY_ALIGN double padded[double_lanes] = {};
  for (Index i = 0; i < count; i += double_lanes) {
    const double* from = frequencies + i;
    if (i + double_lanes > count) {
      for (Index k = 0; k < count - i; ++k) padded[k] = from[k];
      from = padded;
    }
    const VD angle = hn::Mul(hn::Set(d, position), hn::LoadU(d, from));
    const auto result = sin_cos_of(VectorDoubleOps(), angle);
    hn::StoreU(hn::DemoteTo(half, result.sin), half, angles.sin + i);
    hn::StoreU(hn::DemoteTo(half, result.cos), half, angles.cos + i);
  }
}

HWY_INLINE void rotate(VF& x0, VF& x1, VF s, VF c) {
  const VF rotated = fma(x0, c, hn::Neg(hn::Mul(x1, s)));
  x1 = fma(x1, c, hn::Mul(x0, s));
  x0 = rotated;
}

HWY_INLINE void rotate_halves(float* x0, float* x1, const Angles& angles, Index count) {
  for_each_register(count, [&](Index i, Index some) HWY_ATTR {
    VF a = load_count(x0 + i, some);
    VF b = load_count(x1 + i, some);
    rotate(a, b, load(angles.sin + i), load(angles.cos + i));
    store_count(a, x0 + i, some);
    store_count(b, x1 + i, some);
  });
}

HWY_INLINE void rotate_neighbours(float* x, const Angles& angles, Index count) {
  const DF d;
  for_each_register(count, [&](Index i, Index some) HWY_ATTR {
    HWY_ALIGN float rest[2 * vector_lanes] = {};
    float* at = x + 2 * i;
    if (some < vector_lanes) {
      for (Index k = 0; k < 2 * some; ++k) rest[k] = at[k];
      at = rest;
    }
    VF a;
    VF b;
    hn::LoadInterleaved2(d, at, a, b);
    rotate(a, b, load(angles.sin + i), load(angles.cos + i));
    hn::StoreInterleaved2(a, b, d, at);
    if (some < vector_lanes) {
      for (Index k = 0; k < 2 * some; ++k) x[2 * i + k] = rest[k];
    }
  });
}

}  // namespace

void rotary(const RotaryArgs& args) noexcept {
  const auto pairs = static_cast<Index>(args.frequencies.size());
  Angles angles;
  for (Index t = 0; t < args.x.rows; ++t) {
    float* row = args.x.row_data(t);
    const auto position = static_cast<double>(args.position + t);
    for (Index first = 0; first < pairs; first += chunk_pairs) {
      const Index count = HWY_MIN(chunk_pairs, pairs - first);
      fill(angles, position, args.frequencies.data() + first, count);
      for (Index head = 0; head + args.d_head <= args.x.cols; head += args.d_head) {
        if (args.interleaved) {
          rotate_neighbours(row + head + 2 * first, angles, count);
        } else {
          rotate_halves(row + head + first, row + head + pairs + first, angles, count);
        }
      }
    }
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
namespace {

// ln x for positive x that is finite and normal.
double log_of(double x) {
  int exponent = 0;
  double m = std::frexp(x, &exponent);  // exact; in [½, 1)
  if (m < 0x1.6a09e667f3bcdp-1) {
    m *= 2.0;
    --exponent;
  }
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double sum = 1.0 / 23.0;
  for (int k = 21; k >= 1; k -= 2) sum = sum * z + 1.0 / static_cast<double>(k);
  return static_cast<double>(exponent) * 0x1.62e42fefa39efp-1 + 2.0 * s * sum;
}

// e^x for x in [-700, 700].
double exp_of(double x) {
  const double n = std::nearbyint(x * 0x1.71547652b82fep0);
  const double r = (x - n * 0x1.62e42feep-1) - n * 0x1.a39ef35793c76p-33;
  double factorial = 6227020800.0;  // of 13
  double sum = 1.0 / factorial;
  for (int k = 13; k >= 1; --k) {
    factorial /= static_cast<double>(k);
    sum = sum * r + 1.0 / factorial;
  }
  return std::ldexp(sum, static_cast<int>(n));  // exact
}

}  // namespace

void rotary_frequencies(double theta, double factor, std::span<double> result) noexcept {
  const FloatEnvironment environment;
  const double logarithm = log_of(theta);
  const auto rotary_dim = static_cast<double>(2 * result.size());
  for (std::size_t i = 0; i < result.size(); ++i) {
    const double part = static_cast<double>(2 * i) / rotary_dim;
    result[i] = exp_of(-(part * logarithm)) / factor;
  }
}

double rotary_log(double x) noexcept {
  const FloatEnvironment environment;
  return log_of(x);
}

void rotary(const RotaryArgs& args) noexcept { KRAIT_KERNEL(rotary, ref::rotary)(args); }

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
