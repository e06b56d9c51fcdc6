#pragma once

// The backward pass of the Mamba-1 recurrence, and its bit-exact scalar model.

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include "krait/kernels/ref/elementwise.hpp"
#include "krait/kernels/ref/lanes.hpp"
#include "krait/kernels/selective_scan.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

// Channels whose gradients of B and C are added in one piece: four blocks of the state.
inline constexpr Index scan_group = 64;
// Tokens between the states that are kept; those in between are computed again.
inline constexpr Index scan_chunk = 32;

struct ScanBackwardArgs {
  MatrixView<const float> u;       // [T, d_inner]
  MatrixView<const float> dt_raw;  // [T, d_inner]
  MatrixView<const float> B;       // [T, d_state]
  MatrixView<const float> C;       // [T, d_state]
  MatrixView<const float> z;       // [T, d_inner]
  const float* A = nullptr;        // block layout, -exp(A_log) · log2(e)
  const float* D = nullptr;        // [d_inner]
  const float* h = nullptr;        // block layout, before the first token; null: zeros
  Index d_state = 0;
  MatrixView<const float> dy;  // [T, d_inner] gradient of y · silu(z)
  MatrixView<float> y;         // [T, d_inner] out: y · silu(z)
  MatrixView<float> du;        // [T, d_inner] out
  MatrixView<float> ddt_raw;   // [T, d_inner] out
  MatrixView<float> dz;        // [T, d_inner] out
  MatrixView<float> dBC;       // [T, 2 d_state] out: the part of these channels
  float* dA_log = nullptr;     // block layout, out
  float* dD = nullptr;         // [d_inner] out
  float* dh = nullptr;         // block layout, in/out: gradient after the last, before the first
  std::span<float> memory{};   // scan_backward_memory floats
  Range channels{};            // at most scan_group; begins at a multiple of it
};

constexpr Index scan_backward_memory(Index tokens, Index d_state) noexcept {
  const Index chunks = (tokens + scan_chunk - 1) / scan_chunk;
  const Index block = d_state * scan_block;
  return block * (chunks * (scan_group / scan_block) + 2 * scan_chunk + 1 + 2 * scan_chunk);
}

// Numeric contract, section 12.
void selective_scan_backward(const ScanBackwardArgs& args) noexcept;

}  // namespace kernels

namespace ref {

/// The bits of kernels::selective_scan_backward. Keeps every state.
inline void selective_scan_backward(const kernels::ScanBackwardArgs& args) noexcept {
  const ScalarOps ops;
  const Index T = args.u.rows;
  const Index N = args.d_state;
  const auto index = [](Index i) { return static_cast<std::size_t>(i); };
  std::vector<Lanes> dB(index(T * N));
  std::vector<Lanes> dC(index(T * N));
  for (Index d = args.channels.begin; d < args.channels.end; ++d) {
    std::vector<float> h(index((T + 1) * N));
    std::vector<float> a(index(T * N));
    std::vector<float> y(index(T));
    for (Index n = 0; n < N; ++n) {
      h[index(n)] = args.h == nullptr ? 0.0F : args.h[kernels::scan_offset(d, n, N)];
    }
    for (Index t = 0; t < T; ++t) {
      const float dt = softplus_of(ops, args.dt_raw(t, d));
      const float dt_u = dt * args.u(t, d);
      y[index(t)] = args.D[d] * args.u(t, d);
      for (Index n = 0; n < N; ++n) {
        a[index(t * N + n)] = exp2_nonpositive_of(ops, dt * args.A[kernels::scan_offset(d, n, N)]);
        h[index((t + 1) * N + n)] =
            std::fma(a[index(t * N + n)], h[index(t * N + n)], dt_u * args.B(t, n));
        y[index(t)] = std::fma(args.C(t, n), h[index((t + 1) * N + n)], y[index(t)]);
      }
    }
    const std::size_t lane = index(d % 16);
    std::vector<float> gamma(index(N));
    std::vector<float> dA(index(N));
    float dD = 0.0F;
    for (Index n = 0; n < N; ++n) gamma[index(n)] = args.dh[kernels::scan_offset(d, n, N)];
    for (Index t = T - 1; t >= 0; --t) {
      const float u = args.u(t, d);
      const float z = args.z(t, d);
      const float gate = silu_of(ops, z);
      const float s = sigmoid_of(ops, z);
      args.y(t, d) = y[index(t)] * gate;
      args.dz(t, d) = (args.dy(t, d) * y[index(t)]) * (s * (1.0F + z * (1.0F - s)));
      const float dy = args.dy(t, d) * gate;
      const float dt = softplus_of(ops, args.dt_raw(t, d));
      const float dt_u = dt * u;
      float q = 0.0F;
      float r = 0.0F;
      for (Index n = 0; n < N; ++n) {
        const float A = args.A[kernels::scan_offset(d, n, N)];
        const float G = std::fma(dy, args.C(t, n), gamma[index(n)]);
        float& c = dC[index(t * N + n)][lane];
        float& b = dB[index(t * N + n)][lane];
        c = std::fma(dy, h[index((t + 1) * N + n)], c);
        b = std::fma(G, dt_u, b);
        q = std::fma(G, args.B(t, n), q);
        gamma[index(n)] = G * a[index(t * N + n)];
        const float m = gamma[index(n)] * h[index(t * N + n)];
        r = std::fma(m, A, r);
        dA[index(n)] = std::fma(dt, m, dA[index(n)]);
      }
      dD = std::fma(dy, u, dD);
      args.du(t, d) = std::fma(dt, q, args.D[d] * dy);
      const float ddt = std::fma(u, q, std::numbers::ln2_v<float> * r);
      args.ddt_raw(t, d) = ddt * sigmoid_of(ops, args.dt_raw(t, d));
    }
    args.dD[d] = dD;
    for (Index n = 0; n < N; ++n) {
      const Index at = kernels::scan_offset(d, n, N);
      args.dA_log[at] = dA[index(n)] * (args.A[at] * std::numbers::ln2_v<float>);
      args.dh[at] = gamma[index(n)];
    }
  }
  for (Index t = 0; t < T; ++t) {
    for (Index n = 0; n < N; ++n) {
      args.dBC(t, n) = reduce(dB[index(t * N + n)]);
      args.dBC(t, N + n) = reduce(dC[index(t * N + n)]);
    }
  }
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
