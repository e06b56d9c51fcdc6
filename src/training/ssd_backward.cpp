#include "training/ssd_backward.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "training/ssd_backward.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// A chunk of tokens; rows have `width` floats, d_state rounded up to 16, zeros behind the last.
struct SsdChunk {
  Index first;  // token
  Index tokens;
  Index width;
  float* S;  // [tokens + 1, width] the states of one row, before and behind each token
  float* B;  // [tokens, width]
  float* C;
  float* dB;
  float* dC;
  float* gamma;  // [width]
  float decay[ssd_chunk];
  float r[ssd_chunk];
};

HWY_INLINE void copy_padded(const float* from, Index count, float* to) {
  for_each_register(round_up(count, virtual_lanes), [=](Index i, Index) HWY_ATTR {
    const Index rest = count - i;
    store(rest <= 0 ? hn::Zero(DF()) : load_count(from + i, HWY_MIN(rest, vector_lanes)), to + i);
  });
}

HWY_INLINE void begin_chunk(const SsdBackwardArgs& args, SsdChunk& chunk) {
  for (Index t = 0; t < chunk.tokens; ++t) {
    const VF product = hn::Mul(hn::Set(DF(), args.dt[static_cast<std::size_t>(chunk.first + t)]),
                               hn::Set(DF(), args.A));
    chunk.decay[t] = hn::GetLane(exp2_nonpositive_of(VectorOps(), product));
    chunk.r[t] = 0.0F;
    args.ddt[static_cast<std::size_t>(chunk.first + t)] = 0.0F;
    copy_padded(args.B.row_data(chunk.first + t), args.B.cols, chunk.B + t * chunk.width);
    copy_padded(args.C.row_data(chunk.first + t), args.B.cols, chunk.C + t * chunk.width);
  }
  for (Index i = 0; i < chunk.tokens * chunk.width; i += vector_lanes) {
    store(hn::Zero(DF()), chunk.dB + i);
    store(hn::Zero(DF()), chunk.dC + i);
  }
}

// The states of row p behind each token of the chunk.
HWY_INLINE void advance_row(const SsdBackwardArgs& args, const SsdChunk& chunk, Index p) {
  for (Index t = 0; t < chunk.tokens; ++t) {
    const Index token = chunk.first + t;
    const VF a = hn::Set(DF(), chunk.decay[t]);
    const VF dt_x = hn::Set(DF(), args.dt[static_cast<std::size_t>(token)] * args.x(token, p));
    const float* S = chunk.S + t * chunk.width;
    const float* B = chunk.B + t * chunk.width;
    for (Index n = 0; n < chunk.width; n += vector_lanes) {
      store(fma(a, load(S + n), hn::Mul(dt_x, load(B + n))), chunk.S + (t + 1) * chunk.width + n);
    }
  }
}

// Row p backwards through the chunk.
HWY_INLINE void row_backward(const SsdBackwardArgs& args, SsdChunk& chunk, Index p) {
  const float D = args.D[args.D_per_channel ? p : 0];
  for (Index t = chunk.tokens - 1; t >= 0; --t) {
    const Index token = chunk.first + t;
    const float x = args.x(token, p);
    const float dy = args.dy(token, p);
    const float dt = args.dt[static_cast<std::size_t>(token)];
    const VF dys = hn::Set(DF(), dy);
    const VF dt_x = hn::Set(DF(), dt * x);
    const VF a = hn::Set(DF(), chunk.decay[t]);
    const Index row = t * chunk.width;
    Lanes q = zero_lanes();
    Lanes m = zero_lanes();
    for (Index n = 0; n < chunk.width; n += virtual_lanes) {
      for (Index i = 0; i < vector_parts; ++i) {
        const Index k = n + i * vector_lanes;
        const Index at = row + k;
        const VF G = fma(dys, load(chunk.C + at), load(chunk.gamma + k));
        store(fma(G, dt_x, load(chunk.dB + at)), chunk.dB + at);
        store(fma(dys, load(chunk.S + at + chunk.width), load(chunk.dC + at)), chunk.dC + at);
        q.part[i] = fma(G, load(chunk.B + at), q.part[i]);
        const VF gamma = hn::Mul(G, a);
        store(gamma, chunk.gamma + k);
        m.part[i] = fma(gamma, load(chunk.S + at), m.part[i]);
      }
    }
    const float sum = reduce(q);
    const auto scalar_fma = [](float u, float v, float w) HWY_ATTR {
      return hn::GetLane(fma(hn::Set(DF(), u), hn::Set(DF(), v), hn::Set(DF(), w)));
    };
    args.dx(token, p) = scalar_fma(dt, sum, D * dy);
    float& ddt = args.ddt[static_cast<std::size_t>(token)];
    ddt = scalar_fma(x, sum, ddt);
    chunk.r[t] += reduce(m);
    args.dD[p] = scalar_fma(dy, x, args.dD[p]);
  }
}

void ssd_backward(const SsdBackwardArgs& args) noexcept {
  const Index T = args.x.rows;
  const Index N = args.B.cols;
  const Index width = round_up(N, virtual_lanes);
  const float A = args.A * 0x1.62e430p-1F;  // ln 2
  SsdChunk chunk;
  chunk.width = width;
  chunk.S = args.memory.data();
  chunk.B = chunk.S + (ssd_chunk + 1) * width;
  chunk.C = chunk.B + ssd_chunk * width;
  chunk.dB = chunk.C + ssd_chunk * width;
  chunk.dC = chunk.dB + ssd_chunk * width;
  chunk.gamma = chunk.dC + ssd_chunk * width;
  for (Index p = 0; p < args.x.cols; ++p) args.dD[p] = 0.0F;
  float dA = 0.0F;
  for (Index k = (T + ssd_chunk - 1) / ssd_chunk - 1; k >= 0; --k) {
    chunk.first = k * ssd_chunk;
    chunk.tokens = HWY_MIN(ssd_chunk, T - chunk.first);
    begin_chunk(args, chunk);
    for (Index p = 0; p < args.x.cols; ++p) {
      copy_padded(args.states + k * args.state_stride + p * N, N, chunk.S);
      copy_padded(args.dstate + p * N, N, chunk.gamma);
      advance_row(args, chunk, p);
      row_backward(args, chunk, p);
      for_each_register(N, [&](Index i, Index count) HWY_ATTR {
        store_count(load(chunk.gamma + i), args.dstate + p * N + i, count);
      });
    }
    for (Index t = chunk.tokens - 1; t >= 0; --t) {
      float& ddt = args.ddt[static_cast<std::size_t>(chunk.first + t)];
      const VF r = hn::Set(DF(), chunk.r[t]);
      ddt = hn::GetLane(fma(hn::Set(DF(), A), r, hn::Set(DF(), ddt)));
      const VF dt = hn::Set(DF(), args.dt[static_cast<std::size_t>(chunk.first + t)]);
      dA = hn::GetLane(fma(dt, r, hn::Set(DF(), dA)));
      float* to = args.dBC.row_data(chunk.first + t);
      for_each_register(N, [&](Index i, Index count) HWY_ATTR {
        store_count(load(chunk.dB + t * width + i), to + i, count);
        store_count(load(chunk.dC + t * width + i), to + N + i, count);
      });
    }
  }
  *args.dA_log = dA * A;
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void ssd_backward(const SsdBackwardArgs& args) noexcept {
  KRAIT_KERNEL(ssd_backward, ref::ssd_backward)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
