// The elementary functions, written once over an abstract vector.
//
// Included inside a namespace: by ref/elementary.hpp for scalars and by src/kernels/simd-inl.hpp
// once per instruction set. `Ops` supplies the vector type V and the few operations used; all of
// them are exact or correctly rounded, so every instantiation gives the same bits.
//
// KRAIT_INLINE is the including file's "static inline", with its target's attributes.

// exp(x). Below 1.1 ulp over the whole range; subnormal results are rounded once; exp(-inf) = 0,
// exp(inf) = inf, NaN stays NaN.
//
// x = n ln2 + r with |r| ≤ ln2/2; exp(r) by a polynomial; 2^n by assembling exponent bits.
template <class Ops>
KRAIT_INLINE typename Ops::V exp_of(Ops ops, typename Ops::V x) {
  // Beyond these the result is 0 or infinity. The operand order lets a NaN through.
  x = ops.max(ops.set(-104.5F), x);
  x = ops.min(ops.set(89.5F), x);
  const auto n = ops.round(ops.mul(x, ops.set(0x1.715476p+0F)));
  auto r = ops.fma(n, ops.set(-0x1.62e400p-1F), x);  // the product is exact: ln2's high 15 bits
  r = ops.fma(n, ops.set(-0x1.7f7d1cp-20F), r);
  auto p = ops.set(0x1.6850e4p-10F);
  p = ops.fma(p, r, ops.set(0x1.123bccp-7F));
  p = ops.fma(p, r, ops.set(0x1.555b98p-5F));
  p = ops.fma(p, r, ops.set(0x1.55548ep-3F));
  p = ops.fma(p, r, ops.set(0x1.fffff8p-2F));
  p = ops.fma(p, r, ops.set(1.0F));
  p = ops.fma(p, r, ops.set(1.0F));
  return ops.scale_by_power_of_two(p, n);
}
