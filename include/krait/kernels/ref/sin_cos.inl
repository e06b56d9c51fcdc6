// Sine and cosine of an angle in double precision, written once over an abstract vector.
//
// Included inside a namespace: by ref/rotary.hpp for scalars and by src/kernels/rotary.cpp once per
// instruction set. Multiplications and additions only, without fma, which not every vector has in
// double: every instantiation gives the same bits.
//
// KRAIT_INLINE is the including file's "static inline", with its target's attributes.

template <class Ops>
struct SinCos {
  typename Ops::V sin;
  typename Ops::V cos;
};

// Errors below 2 units in the last place of the larger of the two for |a| < 2^20 π/2, where the
// first two products are exact; beyond it they grow with the angle's own rounding. Anything for
// angles from 2^50 on.
template <class Ops>
KRAIT_INLINE SinCos<Ops> sin_cos_of(Ops ops, typename Ops::V a) {
  // The sum has no bits for a fraction: its lowest bits are those of n, the integer nearest to it.
  const auto shift = ops.set(0x1.8p52);
  const auto biased = ops.add(ops.mul(a, ops.set(0x1.45f306dc9c883p-1)), shift);
  const auto n = ops.sub(biased, shift);
  // π/2 in three parts, the first two of 33 bits.
  auto r = ops.sub(a, ops.mul(n, ops.set(0x1.921fb544p0)));
  r = ops.sub(r, ops.mul(n, ops.set(0x1.0b4611a6p-34)));
  r = ops.sub(r, ops.mul(n, ops.set(0x1.3198a2e037073p-69)));
  const auto z = ops.mul(r, r);
  auto s = ops.set(-1.0 / 1307674368000.0);
  s = ops.add(ops.mul(s, z), ops.set(1.0 / 6227020800.0));
  s = ops.add(ops.mul(s, z), ops.set(-1.0 / 39916800.0));
  s = ops.add(ops.mul(s, z), ops.set(1.0 / 362880.0));
  s = ops.add(ops.mul(s, z), ops.set(-1.0 / 5040.0));
  s = ops.add(ops.mul(s, z), ops.set(1.0 / 120.0));
  s = ops.add(ops.mul(s, z), ops.set(-1.0 / 6.0));
  const auto sine = ops.add(r, ops.mul(ops.mul(r, z), s));
  auto c = ops.set(1.0 / 20922789888000.0);
  c = ops.add(ops.mul(c, z), ops.set(-1.0 / 87178291200.0));
  c = ops.add(ops.mul(c, z), ops.set(1.0 / 479001600.0));
  c = ops.add(ops.mul(c, z), ops.set(-1.0 / 3628800.0));
  c = ops.add(ops.mul(c, z), ops.set(1.0 / 40320.0));
  c = ops.add(ops.mul(c, z), ops.set(-1.0 / 720.0));
  c = ops.add(ops.mul(c, z), ops.set(1.0 / 24.0));
  c = ops.add(ops.mul(c, z), ops.set(-0.5));
  const auto cosine = ops.add(ops.set(1.0), ops.mul(z, c));
  // a = r + n π/2: an odd n exchanges the two; n mod 4 = 2, 3 negates the sine, 1, 2 the cosine.
  return {ops.negate_if_bit_1(biased, 0, ops.if_odd(biased, cosine, sine)),
          ops.negate_if_bit_1(biased, 1, ops.if_odd(biased, sine, cosine))};
}
