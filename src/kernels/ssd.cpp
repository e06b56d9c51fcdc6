#include "krait/kernels/ssd.hpp"

#include "krait/kernels/ref/ssd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/ssd.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {

// One token of one head.
HWY_INLINE void step_head(const SsdScanArgs& args, Index t, Index h, float dt, float decay) {
  const Index group = h / (args.n_head / args.n_group);
  const float* B = args.B.row_data(t) + group * args.d_state;
  const bool wants_y = args.C.data != nullptr;
  const float* C = wants_y ? args.C.row_data(t) + group * args.d_state : B;
  const VF a = hn::Set(DF(), decay);
  for (Index channel = h * args.head_dim; channel < (h + 1) * args.head_dim; ++channel) {
    const float x = args.x(t, channel);
    const VF dt_x = hn::Set(DF(), dt * x);
    float* S = args.state + channel * args.d_state;
    const Lanes lanes = accumulate(args.d_state, [&](VF acc, Index n, Index count) HWY_ATTR {
      const VF product = hn::Mul(dt_x, load_count(B + n, count));
      const VF state = fma(a, load_count(S + n, count), product);
      store_count(state, S + n, count);
      return fma(load_count(C + n, count), state, acc);
    });
    if (wants_y) {
      const float D = args.D[args.D_per_channel ? channel : h];
      args.y(t, channel) = std::fma(D, x, reduce(lanes));
    }
  }
}

void ssd_scan(const SsdScanArgs& args) noexcept {
  const VectorOps ops;
  for_each_register(args.heads.size(), [&](Index i, Index count) HWY_ATTR {
    const Index first = args.heads.begin + i;
    for (Index t = 0; t < args.x.rows; ++t) {
      HWY_ALIGN float dt[vector_lanes];
      HWY_ALIGN float decay[vector_lanes];
      const VF raw = hn::Add(load_count(args.dt_raw.row_data(t) + first, count),
                             load_count(args.dt_bias + first, count));
      const VF step =
          ops.min(ops.set(args.dt_max), ops.max(ops.set(args.dt_min), softplus_of(ops, raw)));
      store(step, dt);
      store(exp2_nonpositive_of(ops, ops.mul(step, load_count(args.A + first, count))), decay);
      for (Index k = 0; k < count; ++k) step_head(args, t, first + k, dt[k], decay[k]);
    }
  });
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void ssd_scan(const SsdScanArgs& args) noexcept { KRAIT_KERNEL(ssd_scan, ref::ssd_scan)(args); }

}  // namespace krait::inline v0_1::kernels
#endif
