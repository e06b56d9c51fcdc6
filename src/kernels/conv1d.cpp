#include "krait/kernels/conv1d.hpp"

#include "krait/kernels/ref/conv1d.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/conv1d.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// Four taps: the channels of `width` registers, all tokens, with taps and window in registers. Raw
// inputs are read once, before the output of their token is written: y may be x. Only a single
// register may be partial.
template <std::size_t width, bool silu>
HWY_INLINE void convolve_4(const Conv1dArgs& args, Index c, Index count) {
  using Registers = RegisterSet<width>;
  const auto read = [count](const float* p) HWY_ATTR {
    Registers values;
    for (std::size_t i = 0; i < width; ++i) {
      values.part[i] = load_count(p + static_cast<Index>(i) * vector_lanes, count);
    }
    return values;
  };
  const auto write = [count](const Registers& values, float* p) HWY_ATTR {
    for (std::size_t i = 0; i < width; ++i) {
      store_count(values.part[i], p + static_cast<Index>(i) * vector_lanes, count);
    }
  };
  const RegisterSetOps<width> ops;
  const Index channels = args.x.cols;
  const float* weight = args.weight + c;
  const Registers w0 = read(weight);
  const Registers w1 = read(weight + channels);
  const Registers w2 = read(weight + 2 * channels);
  const Registers w3 = read(weight + 3 * channels);
  const Registers bias = args.bias != nullptr ? read(args.bias + c) : ops.set(0.0F);
  float* state = args.state + c;
  Registers x0 = read(state);
  Registers x1 = read(state + channels);
  Registers x2 = read(state + 2 * channels);
  const float* from = args.x.data + c;
  float* to = args.y.data + c;
  for (Index t = 0; t < args.x.rows; ++t) {
    const Registers x3 = read(from);
    Registers acc = ops.fma(w1, x1, ops.fma(w0, x0, bias));
    acc = ops.fma(w3, x3, ops.fma(w2, x2, acc));
    if constexpr (silu) acc = silu_of(ops, acc);
    write(acc, to);
    x0 = x1;
    x1 = x2;
    x2 = x3;
    from += args.x.stride;
    to += args.y.stride;
  }
  write(x0, state);
  write(x1, state + channels);
  write(x2, state + 2 * channels);
}

// Any number of taps: the window stays in `state`.
template <bool silu>
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
    if constexpr (silu) acc = silu_of(VectorOps(), acc);
    store_count(acc, args.y.row_data(t) + c, count);
  }
}

template <bool silu>
HWY_INLINE void convolve(const Conv1dArgs& args) {
  Index c = args.channels.begin;
  if (args.d_conv == 4) {
    constexpr Index width = 2;
    for (; c + width * vector_lanes <= args.channels.end; c += width * vector_lanes) {
      convolve_4<width, silu>(args, c, vector_lanes);
    }
  }
  for (; c < args.channels.end; c += vector_lanes) {
    const Index count = HWY_MIN(vector_lanes, args.channels.end - c);
    if (args.d_conv == 4) {
      convolve_4<1, silu>(args, c, count);
    } else {
      convolve_any<silu>(args, c, count);
    }
  }
}

void conv1d_silu(const Conv1dArgs& args) noexcept {
  args.silu ? convolve<true>(args) : convolve<false>(args);
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void conv1d_silu(const Conv1dArgs& args) noexcept {
  KRAIT_KERNEL(conv1d_silu, ref::conv1d_silu)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
