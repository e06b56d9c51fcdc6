#pragma once

/// \file
/// Convolution over time: the oracle in double and the bit-exact scalar model.

#include <cmath>

#include "krait/kernels/conv1d.hpp"
#include "krait/kernels/ref/elementwise.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The bits of kernels::conv1d_silu.
inline void conv1d_silu(const kernels::Conv1dArgs& args) noexcept {
  const Index history = args.d_conv - 1;
  const Index channels = args.x.cols;
  for (Index c = args.channels.begin; c < args.channels.end; ++c) {
    float* state = args.state + c;
    for (Index t = 0; t < args.x.rows; ++t) {
      const float newest = args.x(t, c);
      float acc = args.bias != nullptr ? args.bias[c] : 0.0F;
      for (Index k = 0; k < history; ++k) {
        acc = std::fma(args.weight[k * channels + c], state[k * channels], acc);
      }
      acc = std::fma(args.weight[history * channels + c], newest, acc);
      args.y(t, c) = args.silu ? silu_of(ScalarOps(), acc) : acc;
      for (Index k = 0; k + 1 < history; ++k) state[k * channels] = state[(k + 1) * channels];
      if (history > 0) state[(history - 1) * channels] = newest;
    }
  }
}

/// The convolution in double precision. Leaves the state alone.
inline void conv1d_silu_oracle(const kernels::Conv1dArgs& args, MatrixView<double> y) {
  const Index history = args.d_conv - 1;
  const Index channels = args.x.cols;
  for (Index c = args.channels.begin; c < args.channels.end; ++c) {
    for (Index t = 0; t < args.x.rows; ++t) {
      double acc = args.bias != nullptr ? static_cast<double>(args.bias[c]) : 0.0;
      for (Index k = 0; k < args.d_conv; ++k) {
        const Index at = t - history + k;
        const float x = at >= 0 ? args.x(at, c) : args.state[(history + at) * channels + c];
        acc += static_cast<double>(args.weight[k * channels + c]) * static_cast<double>(x);
      }
      y(t, c) = args.silu ? silu_oracle(acc) : acc;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
