// The elementary functions, written once over an abstract vector.
//
// Included inside a namespace: by ref/elementary.hpp for scalars and by src/kernels/simd-inl.hpp
// once per instruction set. `Ops` supplies the vector type V and the few operations used; all of
// them are exact or correctly rounded, so every instantiation gives the same bits. min and max
// return their second operand if either is NaN: the argument stands there, so that its NaN goes
// through with sign and payload.
//
// The bounds are those found over every one of the 2^32 arguments, against double precision.
//
// KRAIT_INLINE is the including file's "static inline", with its target's attributes.

// e^x = (1 + q r) · 2^n with |r| ≤ ln2/2, q near 1 and integral n.
template <class Ops>
struct ExpParts {
  typename Ops::V q;
  typename Ops::V r;
  typename Ops::V n;
};

// For x in [-110, 90]: x = n ln2 + r, and e^r by a polynomial whose first two coefficients are 1.
template <class Ops>
KRAIT_INLINE ExpParts<Ops> exp_parts_of(Ops ops, typename Ops::V x) {
  const auto n = ops.round(ops.mul(x, ops.set(0x1.715476p+0F)));
  // ln2 in two parts, the first of 15 bits: its product with n is exact, and so is the difference.
  auto r = ops.fma(n, ops.set(-0x1.62e400p-1F), x);
  r = ops.fma(n, ops.set(-0x1.7f7d1cp-20F), r);
  auto q = ops.set(0x1.6977fcp-10F);
  q = ops.fma(q, r, ops.set(0x1.1239aep-7F));
  q = ops.fma(q, r, ops.set(0x1.555a04p-5F));
  q = ops.fma(q, r, ops.set(0x1.555492p-3F));
  q = ops.fma(q, r, ops.set(0x1.fffffap-2F));
  q = ops.fma(q, r, ops.set(1.0F));
  return {q, r, n};
}

// e^x. Subnormal results are rounded once; exp(-inf) = 0, exp(inf) = inf, NaN stays NaN.
template <class Ops>
KRAIT_INLINE typename Ops::V exp_of(Ops ops, typename Ops::V x) {
  x = ops.max(ops.set(-104.5F), x);  // beyond these the result is 0 or infinity
  x = ops.min(ops.set(89.5F), x);
  const auto parts = exp_parts_of(ops, x);
  return ops.scale(ops.fma(parts.q, parts.r, ops.set(1.0F)), parts.n);
}

// exp_of for x ≤ 0: the same bits in fewer operations.
template <class Ops>
KRAIT_INLINE typename Ops::V exp_nonpositive_of(Ops ops, typename Ops::V x) {
  const auto parts = exp_parts_of(ops, ops.max(ops.set(-104.5F), x));
  return ops.scale_down(ops.fma(parts.q, parts.r, ops.set(1.0F)), parts.n);
}

// 2^x for x ≤ 0, in the fewest operations: what the recurrence needs for every state and token.
// Results below 2^-126.5 are 0; NaN stays NaN. Bound 0.9 ulp.
template <class Ops>
KRAIT_INLINE typename Ops::V exp2_nonpositive_of(Ops ops, typename Ops::V x) {
  x = ops.max(ops.set(-127.0F), x);  // whose power of two is assembled as 0
  // The sum has no bits for a fraction: its lowest bits are n + 127, n the integer nearest to x.
  const auto biased = ops.add(x, ops.set(0x1.8p23F + 127.0F));
  const auto r = ops.sub(x, ops.sub(biased, ops.set(0x1.8p23F + 127.0F)));
  auto q = ops.set(0x1.416b52p-13F);
  q = ops.fma(q, r, ops.set(0x1.5f082ep-10F));
  q = ops.fma(q, r, ops.set(0x1.3b2de0p-7F));
  q = ops.fma(q, r, ops.set(0x1.c6af7cp-5F));
  q = ops.fma(q, r, ops.set(0x1.ebfbdcp-3F));
  q = ops.fma(q, r, ops.set(0x1.62e430p-1F));
  q = ops.fma(q, r, ops.set(1.0F));
  return ops.mul(q, ops.power_of_biased(biased));
}

// (ln(1 + f) - f) / f² for f in [√½ - 1, √2 - 1].
template <class Ops>
KRAIT_INLINE typename Ops::V log1p_tail_of(Ops ops, typename Ops::V f) {
  auto q = ops.set(-0x1.38e2a0p-4F);
  q = ops.fma(q, f, ops.set(0x1.056cd2p-3F));
  q = ops.fma(q, f, ops.set(-0x1.0d844ap-3F));
  q = ops.fma(q, f, ops.set(0x1.22d752p-3F));
  q = ops.fma(q, f, ops.set(-0x1.54721cp-3F));
  q = ops.fma(q, f, ops.set(0x1.99a02cp-3F));
  q = ops.fma(q, f, ops.set(-0x1.000228p-2F));
  q = ops.fma(q, f, ops.set(0x1.555554p-2F));
  return ops.fma(q, f, ops.set(-0.5F));
}

// ln x. -inf at ±0, NaN below, inf at inf; subnormal arguments count in full.
template <class Ops>
KRAIT_INLINE typename Ops::V log_of(Ops ops, typename Ops::V x) {
  const auto smallest = ops.set(0x1p-126F);
  const auto normal = ops.if_greater(smallest, x, ops.mul(x, ops.set(0x1p23F)), x);
  auto e = ops.if_greater(smallest, x, ops.set(-23.0F), ops.set(0.0F));
  const auto m = ops.mantissa(normal);  // x = m · 2^e with m in [√½, √2)
  e = ops.add(e, ops.exponent(normal));
  const auto f = ops.sub(m, ops.set(1.0F));
  const auto low =
      ops.fma(ops.mul(f, f), log1p_tail_of(ops, f), ops.mul(e, ops.set(-0x1.bd0106p-13F)));
  auto y = ops.fma(e, ops.set(0x1.630000p-1F), ops.add(low, f));
  y = ops.if_greater(x, ops.set(0x1.fffffep+127F), x, y);
  const auto undefined = ops.if_greater(ops.set(0.0F), x, ops.set(ops.quiet_nan()),
                                        ops.add(x, ops.set(-ops.infinity())));
  return ops.if_greater(x, ops.set(0.0F), y, undefined);
}

// ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|). The second term vanishes by rounding from x = 17 on,
// so that the result is x there, as with PyTorch's threshold of 20; far below 0 it is e^x.
template <class Ops>
KRAIT_INLINE typename Ops::V softplus_of(Ops ops, typename Ops::V x) {
  const auto w = exp_nonpositive_of(ops, ops.min(ops.neg(x), x));
  // 1 + w lies in [1, 2]: it is halved where it is above √2. w itself keeps the small ones precise.
  const auto bound = ops.set(0x1.a8279ap-2F);
  const auto halved = ops.mul(ops.sub(w, ops.set(1.0F)), ops.set(0.5F));
  const auto f = ops.if_greater(w, bound, halved, w);
  const auto ln2 = ops.if_greater(w, bound, ops.set(0x1.62e430p-1F), ops.set(0.0F));
  const auto y = ops.fma(ops.mul(f, f), log1p_tail_of(ops, f), f);
  return ops.add(ops.max(ops.set(0.0F), x), ops.add(y, ln2));
}

// 1 / (1 + e^-x), as e^x / (1 + e^x) for negative x, which neither overflows nor cancels.
template <class Ops>
KRAIT_INLINE typename Ops::V sigmoid_of(Ops ops, typename Ops::V x) {
  const auto w = exp_nonpositive_of(ops, ops.min(ops.neg(x), x));
  const auto numerator = ops.if_greater(x, ops.set(0.0F), ops.set(1.0F), w);
  return ops.div(numerator, ops.add(ops.set(1.0F), w));
}

// x Φ(x) = max(x, 0) - |x| Φ(-|x|), Φ being the normal distribution. Φ(-t) = M(t) e^(-t²/2), M by a
// polynomial in k = 1 / (1 + 0.3 t), the power with the rounding error of t²; gelu(-inf) = -0.
template <class Ops>
KRAIT_INLINE typename Ops::V gelu_of(Ops ops, typename Ops::V x) {
  const auto one = ops.set(1.0F);
  // -t; Φ(-15) is 0
  const auto t = ops.max(ops.set(-15.0F), ops.min(ops.neg(x), x));
  const auto k = ops.div(one, ops.fma(ops.set(-0.3F), t, one));
  auto q = ops.set(-0x1.51fb0ap-6F);
  q = ops.fma(q, k, ops.set(0x1.cca81ap-4F));
  q = ops.fma(q, k, ops.set(-0x1.d3873ap-3F));
  q = ops.fma(q, k, ops.set(0x1.88fa6ep-3F));
  q = ops.fma(q, k, ops.set(-0x1.45abe8p-4F));
  q = ops.fma(q, k, ops.set(0x1.8a0e6cp-4F));
  q = ops.fma(q, k, ops.set(0x1.410328p-4F));
  q = ops.fma(q, k, ops.set(0x1.c38a58p-4F));
  q = ops.fma(q, k, ops.set(0x1.e9c39ep-4F));
  q = ops.fma(q, k, ops.set(0x1.ea3c9ep-4F));
  const auto square = ops.mul(t, t);
  const auto rest = ops.fma(t, t, ops.neg(square));
  const auto power = exp_nonpositive_of(ops, ops.mul(square, ops.set(-0.5F)));
  const auto precise = ops.fma(power, ops.mul(rest, ops.set(-0.5F)), power);
  const auto tail = ops.mul(ops.mul(t, ops.mul(k, q)), precise);
  return ops.if_greater(x, ops.set(0.0F), ops.add(x, tail), tail);
}

// x / (1 + e^-x). For negative x it is x (1 + q r) / (1 + e^x) · 2^n, scaled last, so that a result
// is precise where e^x alone is subnormal; silu(-inf) = -0, the limit.
template <class Ops>
KRAIT_INLINE typename Ops::V silu_of(Ops ops, typename Ops::V x) {
  const auto lowest = ops.set(-110.0F);  // x e^x is below the subnormals there
  const auto parts = exp_parts_of(ops, ops.max(lowest, ops.min(ops.neg(x), x)));
  const auto one = ops.set(1.0F);
  const auto w = ops.scale_down(ops.fma(parts.q, parts.r, one), parts.n);
  const auto bounded = ops.max(lowest, x);
  const auto product = ops.fma(ops.mul(bounded, parts.r), parts.q, bounded);
  const auto zero = ops.set(0.0F);
  const auto numerator = ops.if_greater(x, zero, x, product);
  const auto quotient = ops.div(numerator, ops.add(one, w));
  return ops.if_greater(x, zero, quotient, ops.scale_down(quotient, parts.n));
}
