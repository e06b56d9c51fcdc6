#include "krait/kernels/conv1d.hpp"

#include "krait/kernels/ref/conv1d.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv1d.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {

// The channels of one register, all tokens, with the taps and the window in registers. Raw inputs
// are read once, before the output of their token is written: y may be x.
HWY_INLINE void convolve_4(const Conv1dArgs& args, Index c, Index count) {
  const Index channels = args.x.cols;
  const float* weight = args.weight + c;
  const VF w0 = load_count(weight, count);
  const VF w1 = load_count(weight + channels, count);
  const VF w2 = load_count(weight + 2 * channels, count);
  const VF w3 = load_count(weight + 3 * channels, count);
  const VF bias = args.bias != nullptr ? load_count(args.bias + c, count) : hn::Zero(DF());
  float* state = args.state + c;
  VF x0 = load_count(state, count);
  VF x1 = load_count(state + channels, count);
  VF x2 = load_count(state + 2 * channels, count);
  const float* from = args.x.data + c;
  float* to = args.y.data + c;
  for (Index t = 0; t < args.x.rows; ++t) {
    const VF x3 = load_count(from, count);
    const VF acc = fma(w3, x3, fma(w2, x2, fma(w1, x1, fma(w0, x0, bias))));
    store_count(silu_of(VectorOps(), acc), to, count);
    x0 = x1;
    x1 = x2;
    x2 = x3;
    from += args.x.stride;
    to += args.y.stride;
  }
  store_count(x0, state, count);
  store_count(x1, state + channels, count);
  store_count(x2, state + 2 * channels, count);
}

// Any number of taps: the window stays in `state`.
HWY_INLINE void convolve_any(const Conv1dArgs& args, Index c, Index count) {
  const Index channels = args.x.cols;
  const Index history = args.d_conv - 1;
  const float* weight = args.weight + c;
  float* state = args.state + (history > 0 ? c : 0);
  for (Index t = 0; t < args.x.rows; ++t) {
    VF acc = args.bias != nullptr ? load_count(args.bias + c, count) : hn::Zero(DF());
    for (Index k = 0; k < history; ++k) {
      const VF x = load_count(state + k * channels, count);
      acc = fma(load_count(weight + k * channels, count), x, acc);
      if (k > 0) store_count(x, state + (k - 1) * channels, count);
    }
    const VF newest = load_count(args.x.row_data(t) + c, count);
    acc = fma(load_count(weight + history * channels, count), newest, acc);
    if (history > 0) store_count(newest, state + (history - 1) * channels, count);
    store_count(silu_of(VectorOps(), acc), args.y.row_data(t) + c, count);
  }
}

void conv1d_silu(const Conv1dArgs& args) noexcept {
  const Index first = args.channels.begin;
  for_each_register(args.channels.size(), [&](Index i, Index count) HWY_ATTR {
    if (args.d_conv == 4) {
      convolve_4(args, first + i, count);
    } else {
      convolve_any(args, first + i, count);
    }
  });
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void conv1d_silu(const Conv1dArgs& args) noexcept {
  KRAIT_KERNEL(conv1d_silu, ref::conv1d_silu)(args);
}

}  // namespace krait::inline v0_1::kernels
#endif
