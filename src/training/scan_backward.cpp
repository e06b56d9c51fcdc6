#include "training/scan_backward.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "training/scan_backward.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// What one register of channels needs for a chunk of tokens.
struct BackwardChunk {
  HWY_ALIGN float dt[scan_chunk * vector_lanes];
  HWY_ALIGN float dt_u[scan_chunk * vector_lanes];
  HWY_ALIGN float y[scan_chunk * vector_lanes];
  HWY_ALIGN float dy[scan_chunk * vector_lanes];
  HWY_ALIGN float q[scan_chunk * vector_lanes];
  HWY_ALIGN float r[scan_chunk * vector_lanes];
};

// One register of channels: where they begin, how many there are, and which tokens.
struct Place {
  Index c;
  Index count;
  Index first;   // token
  Index tokens;  // of the chunk
};

HWY_INLINE void prepare_chunk(const ScanBackwardArgs& args, BackwardChunk& chunk, Place at) {
  const VF D = load_count(args.D + at.c, at.count);
  for (Index t = 0; t < at.tokens; ++t) {
    const VF dt =
        softplus_of(VectorOps(), load_count(args.dt_raw.row_data(at.first + t) + at.c, at.count));
    const VF u = load_count(args.u.row_data(at.first + t) + at.c, at.count);
    store(dt, chunk.dt + t * vector_lanes);
    store(hn::Mul(dt, u), chunk.dt_u + t * vector_lanes);
    store(hn::Mul(D, u), chunk.y + t * vector_lanes);
  }
}

// Advances `ways` states through a chunk. With `keeps`, h gets the states after each token, from
// its second row on, and a the decays; otherwise only the last states go to `end`.
template <std::size_t ways, bool keeps>
HWY_INLINE void advance_states(const ScanBackwardArgs& args, BackwardChunk& chunk, Place at,
                               Index n, const float* begin, float* h, float* a, float* end) {
  const Index row = args.d_state * scan_block;
  const float* A_data = args.A + scan_offset(at.c, n, args.d_state);
  VF A[ways];
  VF state[ways];
  for (std::size_t w = 0; w < ways; ++w) {
    A[w] = load(A_data + static_cast<Index>(w) * scan_block);
    state[w] = load(begin + static_cast<Index>(w) * scan_block);
  }
  for (Index t = 0; t < at.tokens; ++t) {
    const float* B = args.B.row_data(at.first + t) + n;
    const float* C = args.C.row_data(at.first + t) + n;
    const VF dt = load(chunk.dt + t * vector_lanes);
    const VF dt_u = load(chunk.dt_u + t * vector_lanes);
    VF y = load(chunk.y + t * vector_lanes);
    RegisterSet<ways> decay;
    for (std::size_t w = 0; w < ways; ++w) decay.part[w] = hn::Mul(dt, A[w]);
    decay = exp2_nonpositive_of(RegisterSetOps<ways>(), decay);
    for (std::size_t w = 0; w < ways; ++w) {
      state[w] = fma(decay.part[w], state[w], hn::Mul(dt_u, hn::Set(DF(), B[w])));
      if constexpr (keeps) {
        y = fma(hn::Set(DF(), C[w]), state[w], y);
        store(state[w], h + (t + 1) * row + static_cast<Index>(w) * scan_block);
        store(decay.part[w], a + t * row + static_cast<Index>(w) * scan_block);
      }
    }
    if constexpr (keeps) store(y, chunk.y + t * vector_lanes);
  }
  if constexpr (!keeps) {
    for (std::size_t w = 0; w < ways; ++w) {
      store(state[w], end + static_cast<Index>(w) * scan_block);
    }
  }
}

constexpr Index backward_ways = vector_lanes == 16 ? 4 : 2;

template <bool keeps>
HWY_INLINE void advance_all(const ScanBackwardArgs& args, BackwardChunk& chunk, Place at,
                            const float* begin, float* h, float* a, float* end) {
  constexpr Index ways = backward_ways;
  Index n = 0;
  for (; n + ways <= args.d_state; n += ways) {
    const Index i = n * scan_block;
    advance_states<ways, keeps>(args, chunk, at, n, begin + i, h + i, a + i, end + i);
  }
  for (; n < args.d_state; ++n) {
    const Index i = n * scan_block;
    advance_states<1, keeps>(args, chunk, at, n, begin + i, h + i, a + i, end + i);
  }
}

// The gate, for all tokens of a chunk.
HWY_INLINE void gate_backward(const ScanBackwardArgs& args, BackwardChunk& chunk, Place at) {
  const VectorOps ops;
  const VF one = hn::Set(DF(), 1.0F);
  for (Index t = 0; t < at.tokens; ++t) {
    const Index token = at.first + t;
    const VF z = load_count(args.z.row_data(token) + at.c, at.count);
    const VF dy = load_count(args.dy.row_data(token) + at.c, at.count);
    const VF y = load(chunk.y + t * vector_lanes);
    const VF gate = silu_of(ops, z);
    const VF s = sigmoid_of(ops, z);
    store_count(hn::Mul(y, gate), args.y.row_data(token) + at.c, at.count);
    const VF slope = hn::Mul(s, hn::Add(one, hn::Mul(z, hn::Sub(one, s))));
    store_count(hn::Mul(hn::Mul(dy, y), slope), args.dz.row_data(token) + at.c, at.count);
    store(hn::Mul(dy, gate), chunk.dy + t * vector_lanes);
    store(hn::Zero(DF()), chunk.q + t * vector_lanes);
    store(hn::Zero(DF()), chunk.r + t * vector_lanes);
  }
}

// `ways` states backwards through a chunk. gamma and dA are in/out; dB and dC are lanes of sums
// over the channels, [tokens, d_state, 16].
template <std::size_t ways>
HWY_INLINE void states_backward(const ScanBackwardArgs& args, BackwardChunk& chunk, Place at,
                                Index n, const float* h, const float* a, float* dB, float* dC) {
  const Index row = args.d_state * scan_block;
  const Index offset = scan_offset(at.c, n, args.d_state);
  VF A[ways];
  VF gamma[ways];
  VF dA[ways];
  for (std::size_t w = 0; w < ways; ++w) {
    const Index i = offset + static_cast<Index>(w) * scan_block;
    A[w] = load(args.A + i);
    gamma[w] = load(args.dh + i);
    dA[w] = load(args.dA_log + i);
  }
  for (Index t = at.tokens - 1; t >= 0; --t) {
    const float* B = args.B.row_data(at.first + t) + n;
    const float* C = args.C.row_data(at.first + t) + n;
    const VF dy = load(chunk.dy + t * vector_lanes);
    const VF dt = load(chunk.dt + t * vector_lanes);
    const VF dt_u = load(chunk.dt_u + t * vector_lanes);
    VF q = load(chunk.q + t * vector_lanes);
    VF r = load(chunk.r + t * vector_lanes);
    for (std::size_t w = 0; w < ways; ++w) {
      const Index i = t * row + static_cast<Index>(w) * scan_block;
      const VF G = fma(dy, hn::Set(DF(), C[w]), gamma[w]);
      store(fma(dy, load(h + row + i), load(dC + i)), dC + i);
      store(fma(G, dt_u, load(dB + i)), dB + i);
      q = fma(G, hn::Set(DF(), B[w]), q);
      gamma[w] = hn::Mul(G, load(a + i));
      const VF m = hn::Mul(gamma[w], load(h + i));
      r = fma(m, A[w], r);
      dA[w] = fma(dt, m, dA[w]);
    }
    store(q, chunk.q + t * vector_lanes);
    store(r, chunk.r + t * vector_lanes);
  }
  for (std::size_t w = 0; w < ways; ++w) {
    const Index i = offset + static_cast<Index>(w) * scan_block;
    store(gamma[w], args.dh + i);
    store(dA[w], args.dA_log + i);
  }
}

// What follows from q and r, for all tokens of a chunk.
HWY_INLINE void inputs_backward(const ScanBackwardArgs& args, const BackwardChunk& chunk,
                                Place at) {
  const VF D = load_count(args.D + at.c, at.count);
  VF dD = load_count(args.dD + at.c, at.count);
  const VF ln2 = hn::Set(DF(), 0x1.62e430p-1F);
  for (Index t = at.tokens - 1; t >= 0; --t) {
    const Index token = at.first + t;
    const VF u = load_count(args.u.row_data(token) + at.c, at.count);
    const VF raw = load_count(args.dt_raw.row_data(token) + at.c, at.count);
    const VF dy = load(chunk.dy + t * vector_lanes);
    const VF q = load(chunk.q + t * vector_lanes);
    dD = fma(dy, u, dD);
    const VF du = fma(load(chunk.dt + t * vector_lanes), q, hn::Mul(D, dy));
    const VF ddt = fma(u, q, hn::Mul(ln2, load(chunk.r + t * vector_lanes)));
    store_count(du, args.du.row_data(token) + at.c, at.count);
    store_count(hn::Mul(ddt, sigmoid_of(VectorOps(), raw)), args.ddt_raw.row_data(token) + at.c,
                at.count);
  }
  store_count(dD, args.dD + at.c, at.count);
}

HWY_INLINE float reduce_lanes(const float* lanes) {
  Lanes sum;
  for (Index i = 0; i < vector_parts; ++i) sum.part[i] = load(lanes + i * vector_lanes);
  return reduce(sum);
}

HWY_INLINE void chunk_backward(const ScanBackwardArgs& args, BackwardChunk& chunk, Place at,
                               const float* begin, float* h, float* a, float* dB, float* dC) {
  prepare_chunk(args, chunk, at);
  for (Index n = 0; n < args.d_state; ++n) {
    store(load(begin + n * scan_block), h + n * scan_block);
  }
  advance_all<true>(args, chunk, at, begin, h, a, h);
  gate_backward(args, chunk, at);
  constexpr Index ways = backward_ways;
  Index n = 0;
  for (; n + ways <= args.d_state; n += ways) {
    const Index i = n * scan_block;
    states_backward<ways>(args, chunk, at, n, h + i, a + i, dB + i, dC + i);
  }
  for (; n < args.d_state; ++n) {
    const Index i = n * scan_block;
    states_backward<1>(args, chunk, at, n, h + i, a + i, dB + i, dC + i);
  }
  inputs_backward(args, chunk, at);
}

void selective_scan_backward(const ScanBackwardArgs& args) noexcept {
  const Index N = args.d_state;
  const Index row = N * scan_block;
  const Index tokens = args.u.rows;
  const Index chunks = (tokens + scan_chunk - 1) / scan_chunk;
  constexpr Index blocks = scan_group / scan_block;
  float* kept = args.memory.data();  // [chunks, blocks, d_state, 16] states at chunks' beginnings
  float* h = kept + chunks * blocks * row;  // [scan_chunk + 1, d_state, 16]
  float* a = h + (scan_chunk + 1) * row;    // [scan_chunk, d_state, 16]
  float* dB = a + scan_chunk * row;         // [scan_chunk, d_state, 16]
  float* dC = dB + scan_chunk * row;
  const Index first = args.channels.begin;
  const Index count = args.channels.end - first;
  const auto kept_of = [=](Index k, Index i)
                           HWY_ATTR { return kept + (k * blocks + i / 16) * row + i % 16; };
  BackwardChunk chunk;
  for_each_register(count, [&](Index i, Index width) HWY_ATTR {
    const Index at = scan_offset(first + i, 0, N);
    float* begin = kept_of(0, i);
    for (Index n = 0; n < N; ++n) {
      const Index k = n * scan_block;
      store(args.h == nullptr ? hn::Zero(DF()) : load(args.h + at + k), begin + k);
      store(hn::Zero(DF()), args.dA_log + at + k);
    }
    store_count(hn::Zero(DF()), args.dD + first + i, width);
    for (Index k = 0; k + 1 < chunks; ++k) {
      const Place place{first + i, width, k * scan_chunk, scan_chunk};
      prepare_chunk(args, chunk, place);
      advance_all<false>(args, chunk, place, kept_of(k, i), h, a, kept_of(k + 1, i));
    }
  });
  for (Index k = chunks - 1; k >= 0; --k) {
    const Index begin = k * scan_chunk;
    const Index size = HWY_MIN(scan_chunk, tokens - begin);
    for (Index i = 0; i < 2 * scan_chunk * row; i += vector_lanes) store(hn::Zero(DF()), dB + i);
    for_each_register(count, [&](Index i, Index width) HWY_ATTR {
      const Index lane = i % 16;
      chunk_backward(args, chunk, {first + i, width, begin, size}, kept_of(k, i), h + lane,
                     a + lane, dB + lane, dC + lane);
    });
    for (Index t = 0; t < size; ++t) {
      for (Index n = 0; n < N; ++n) {
        args.dBC(begin + t, n) = reduce_lanes(dB + t * row + n * scan_block);
        args.dBC(begin + t, N + n) = reduce_lanes(dC + t * row + n * scan_block);
      }
    }
  }
  const VF ln2 = hn::Set(DF(), 0x1.62e430p-1F);
  for_each_register(count, [&](Index i, Index) HWY_ATTR {
    float* dA = args.dA_log + scan_offset(first + i, 0, N);
    const float* A = args.A + scan_offset(first + i, 0, N);
    for (Index n = 0; n < N; ++n) {
      const Index at = n * scan_block;
      store(hn::Mul(load(dA + at), hn::Mul(load(A + at), ln2)), dA + at);
    }
  });
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void selective_scan_backward(const ScanBackwardArgs& args) noexcept {
  KRAIT_KERNEL(selective_scan_backward, ref::selective_scan_backward)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
