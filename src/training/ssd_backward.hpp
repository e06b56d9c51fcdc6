#pragma once

// The backward pass of the Mamba-2 recurrence, and its bit-exact scalar model.

#include <cmath>
#include <numbers>
#include <span>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/tensor_view.hpp"
#include "krait/kernels/ref/elementwise.hpp"
#include "krait/kernels/ref/lanes.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

// Tokens between the states that are kept.
inline constexpr Index ssd_chunk = 32;

// One head.
struct SsdBackwardArgs {
  MatrixView<const float> x;   // [T, head_dim]
  MatrixView<const float> dy;  // [T, head_dim]
  MatrixView<const float> B;   // [T, d_state]
  MatrixView<const float> C;   // [T, d_state]
  std::span<const float> dt;   // [T] after softplus and clamp
  float A = 0.0F;              // -exp(A_log) · log2(e)
  const float* D = nullptr;    // [1], or [head_dim] if D_per_channel
  bool D_per_channel = false;
  const float* states = nullptr;  // [head_dim, d_state] at the beginning of each chunk
  Index state_stride = 0;         // floats from one chunk's states to the next
  MatrixView<float> dx;           // [T, head_dim] out
  std::span<float> ddt;           // [T] out: with respect to dt
  MatrixView<float> dBC;          // [T, 2 d_state] out: the part of this head
  float* dA_log = nullptr;        // [1] out
  float* dD = nullptr;            // [head_dim] out
  float* dstate = nullptr;        // [head_dim, d_state] in/out
  std::span<float> memory;        // ssd_backward_memory floats
};

constexpr Index ssd_backward_memory(Index d_state) noexcept {
  return round_up(d_state, Index{16}) * (5 * ssd_chunk + 2);
}

// Numeric contract, section 12.
void ssd_backward(const SsdBackwardArgs& args) noexcept;

}  // namespace kernels

namespace ref {

/// The bits of kernels::ssd_backward.
inline void ssd_backward(const kernels::SsdBackwardArgs& args) noexcept {
  const ScalarOps ops;
  const Index T = args.x.rows;
  const Index N = args.B.cols;
  const auto at = [](Index i) { return static_cast<std::size_t>(i); };
  std::vector<float> a(at(T));
  std::vector<float> r(at(T));
  for (Index t = 0; t < T; ++t) {
    a[at(t)] = exp2_nonpositive_of(ops, args.dt[at(t)] * args.A);
    args.ddt[at(t)] = 0.0F;
    for (Index n = 0; n < 2 * N; ++n) args.dBC(t, n) = 0.0F;
  }
  for (Index p = 0; p < args.x.cols; ++p) {
    std::vector<float> S(at((T + 1) * N));
    for (Index n = 0; n < N; ++n) S[at(n)] = args.states[p * N + n];
    for (Index t = 0; t < T; ++t) {
      const float dt_x = args.dt[at(t)] * args.x(t, p);
      for (Index n = 0; n < N; ++n) {
        S[at((t + 1) * N + n)] = std::fma(a[at(t)], S[at(t * N + n)], dt_x * args.B(t, n));
      }
    }
    float* gamma = args.dstate + p * N;
    args.dD[p] = 0.0F;
    for (Index t = T - 1; t >= 0; --t) {
      const float x = args.x(t, p);
      const float dy = args.dy(t, p);
      const float dt_x = args.dt[at(t)] * x;
      Lanes q{};
      Lanes m{};
      for (Index n = 0; n < N; ++n) {
        const float G = std::fma(dy, args.C(t, n), gamma[n]);
        args.dBC(t, n) = std::fma(G, dt_x, args.dBC(t, n));
        args.dBC(t, N + n) = std::fma(dy, S[at((t + 1) * N + n)], args.dBC(t, N + n));
        q[at(n % 16)] = std::fma(G, args.B(t, n), q[at(n % 16)]);
        gamma[n] = G * a[at(t)];
        m[at(n % 16)] = std::fma(gamma[n], S[at(t * N + n)], m[at(n % 16)]);
      }
      const float sum = reduce(q);
      args.dx(t, p) = std::fma(args.dt[at(t)], sum, args.D[args.D_per_channel ? p : 0] * dy);
      args.ddt[at(t)] = std::fma(x, sum, args.ddt[at(t)]);
      r[at(t)] += reduce(m);
      args.dD[p] = std::fma(dy, x, args.dD[p]);
    }
  }
  const float A = args.A * std::numbers::ln2_v<float>;
  float dA = 0.0F;
  for (Index t = T - 1; t >= 0; --t) {
    args.ddt[at(t)] = std::fma(A, r[at(t)], args.ddt[at(t)]);
    dA = std::fma(args.dt[at(t)], r[at(t)], dA);
  }
  *args.dA_log = dA * A;
}

}  // namespace ref
}  // namespace v0_1
}  // namespace krait
