#pragma once

/// \file
/// The Mamba-1 recurrence: the oracle in double and the bit-exact scalar model.

#include <cmath>

#include "krait/kernels/ref/elementwise.hpp"
#include "krait/kernels/selective_scan.hpp"

namespace krait {
inline namespace v0_1 {
namespace ref {

/// The bits of kernels::selective_scan.
inline void selective_scan(const kernels::SelectiveScanArgs& args) noexcept {
  const ScalarOps ops;
  for (Index d = args.channels.begin; d < args.channels.end; ++d) {
    for (Index t = 0; t < args.u.rows; ++t) {
      const float u = args.u(t, d);
      const float dt = softplus_of(ops, args.dt_raw(t, d));
      const float dt_u = dt * u;
      float y = args.D[d] * u;
      for (Index n = 0; n < args.d_state; ++n) {
        const Index at = kernels::scan_offset(d, n, args.d_state);
        const float decay = exp2_nonpositive_of(ops, dt * args.A[at]);
        args.h[at] = std::fma(decay, args.h[at], dt_u * args.B(t, n));
        y = std::fma(args.C(t, n), args.h[at], y);
      }
      args.y(t, d) = args.z.data != nullptr ? y * silu_of(ops, args.z(t, d)) : y;
    }
  }
}

/// The recurrence in double precision; h is [d_inner, d_state], in/out.
inline void selective_scan_oracle(const kernels::SelectiveScanArgs& args, MatrixView<double> h,
                                  MatrixView<double> y) {
  for (Index d = args.channels.begin; d < args.channels.end; ++d) {
    for (Index t = 0; t < args.u.rows; ++t) {
      const auto u = static_cast<double>(args.u(t, d));
      const double dt = softplus_oracle(static_cast<double>(args.dt_raw(t, d)));
      double sum = static_cast<double>(args.D[d]) * u;
      for (Index n = 0; n < args.d_state; ++n) {
        const auto a = static_cast<double>(args.A[kernels::scan_offset(d, n, args.d_state)]);
        h(d, n) = std::exp2(dt * a) * h(d, n) + dt * static_cast<double>(args.B(t, n)) * u;
        sum += static_cast<double>(args.C(t, n)) * h(d, n);
      }
      y(t, d) = args.z.data != nullptr ? sum * silu_oracle(static_cast<double>(args.z(t, d))) : sum;
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
