#pragma once

/// \file
/// The Mamba-2 recurrence: the oracle in double and the bit-exact scalar model.

#include <algorithm>
#include <cmath>

#include "krait/kernels/ref/elementwise.hpp"
#include "krait/kernels/ref/lanes.hpp"
#include "krait/kernels/ssd.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The bits of kernels::ssd_scan.
inline void ssd_scan(const kernels::SsdScanArgs& args) noexcept {
  const ScalarOps ops;
  const Index d_state = args.d_state;
  for (Index h = args.heads.begin; h < args.heads.end; ++h) {
    const Index group = h / (args.n_head / args.n_group);
    for (Index t = 0; t < args.x.rows; ++t) {
      const float* B = args.B.row_data(t) + group * d_state;
      float dt = softplus_of(ops, args.dt_raw(t, h) + args.dt_bias[h]);
      dt = ops.min(args.dt_max, ops.max(args.dt_min, dt));
      const float decay = exp2_nonpositive_of(ops, dt * args.A[h]);
      for (Index channel = h * args.head_dim; channel < (h + 1) * args.head_dim; ++channel) {
        const float x = args.x(t, channel);
        const float dt_x = dt * x;
        float* S = args.state + channel * d_state;
        for (Index n = 0; n < d_state; ++n) S[n] = std::fma(decay, S[n], dt_x * B[n]);
        if (args.C.data == nullptr) continue;
        const float sum = dot(args.C.row_data(t) + group * d_state, S, d_state);
        args.y(t, channel) = std::fma(args.D[args.D_per_channel ? channel : h], x, sum);
      }
    }
  }
}

/// The recurrence in double precision; state is [n_head * head_dim, d_state], in/out.
inline void ssd_scan_oracle(const kernels::SsdScanArgs& args, MatrixView<double> state,
                            MatrixView<double> y) {
  for (Index h = args.heads.begin; h < args.heads.end; ++h) {
    const Index group = h / (args.n_head / args.n_group);
    for (Index t = 0; t < args.x.rows; ++t) {
      const double raw =
          static_cast<double>(args.dt_raw(t, h)) + static_cast<double>(args.dt_bias[h]);
      const double dt = std::clamp(softplus_oracle(raw), static_cast<double>(args.dt_min),
                                   static_cast<double>(args.dt_max));
      const double decay = std::exp2(dt * static_cast<double>(args.A[h]));
      for (Index channel = h * args.head_dim; channel < (h + 1) * args.head_dim; ++channel) {
        const auto x = static_cast<double>(args.x(t, channel));
        double sum = static_cast<double>(args.D[args.D_per_channel ? channel : h]) * x;
        for (Index n = 0; n < args.d_state; ++n) {
          const Index at = group * args.d_state + n;
          double& S = state(channel, n);
          S = decay * S + dt * static_cast<double>(args.B(t, at)) * x;
          if (args.C.data != nullptr) sum += static_cast<double>(args.C(t, at)) * S;
        }
        if (args.C.data != nullptr) y(t, channel) = sum;
      }
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
