#include "krait/kernels/selective_scan.hpp"

#include "krait/kernels/ref/selective_scan.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/selective_scan.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// Tokens whose step sizes and sums wait in the first-level cache: 2 + 2 + 2 KiB at 16 lanes.
constexpr Index chunk_tokens = 32;

// What one register of channels needs for a chunk of tokens.
struct ScanChunk {
  HWY_ALIGN float dt[chunk_tokens * vector_lanes];
  HWY_ALIGN float dt_u[chunk_tokens * vector_lanes];
  HWY_ALIGN float y[chunk_tokens * vector_lanes];
};

// Advances `ways` states of one register of channels through a chunk. They and their rows of A
// stay in registers; the sums over the states, which are taken in ascending order, go through
// chunk.y. Each state's chain over time is one fma long, so the exponentials overlap freely.
template <std::size_t ways>
HWY_INLINE void advance(const SelectiveScanArgs& args, ScanChunk& chunk, Index first_token,
                        Index tokens, Index n, const float* a, float* h, Index count) {
  VF A[ways];
  VF state[ways];
  for (std::size_t w = 0; w < ways; ++w) {
    A[w] = load(a + static_cast<Index>(w) * scan_block);
    state[w] = load(h + static_cast<Index>(w) * scan_block);
  }
  const float* B = args.B.row_data(first_token) + n;
  const float* C = args.C.row_data(first_token) + n;
  for (Index t = 0; t < tokens; ++t) {
    const VF dt = load(chunk.dt + t * vector_lanes);
    const VF dt_u = load(chunk.dt_u + t * vector_lanes);
    VF y = load(chunk.y + t * vector_lanes);
    RegisterSet<ways> decay;
    for (std::size_t w = 0; w < ways; ++w) decay.part[w] = hn::Mul(dt, A[w]);
    decay = exp2_nonpositive_of(RegisterSetOps<ways>(), decay);
    for (std::size_t w = 0; w < ways; ++w) {
      state[w] = fma(decay.part[w], state[w], hn::Mul(dt_u, hn::Set(DF(), B[w])));
      y = fma(hn::Set(DF(), C[w]), state[w], y);
    }
    store(y, chunk.y + t * vector_lanes);
    B += args.B.stride;
    C += args.C.stride;
  }
  for (std::size_t w = 0; w < ways; ++w)
    store_count(state[w], h + static_cast<Index>(w) * scan_block, count);
}

// Step sizes and what depends on them, for `width` tokens of a chunk from t on.
template <std::size_t width>
HWY_INLINE void prepare(const SelectiveScanArgs& args, ScanChunk& chunk, Index first_token, Index t,
                        Index c, Index count) {
  const VF D = load_count(args.D + c, count);
  RegisterSet<width> dt;
  for (std::size_t i = 0; i < width; ++i) {
    const Index token = first_token + t + static_cast<Index>(i);
    dt.part[i] = load_count(args.dt_raw.row_data(token) + c, count);
  }
  dt = softplus_of(RegisterSetOps<width>(), dt);
  for (std::size_t i = 0; i < width; ++i) {
    const Index at = (t + static_cast<Index>(i)) * vector_lanes;
    const Index token = first_token + t + static_cast<Index>(i);
    const VF u = load_count(args.u.row_data(token) + c, count);
    store(dt.part[i], chunk.dt + at);
    store(hn::Mul(dt.part[i], u), chunk.dt_u + at);
    store(hn::Mul(D, u), chunk.y + at);
  }
}

// The gated sums of `width` tokens of a chunk from t on go to their place. All their operands are
// read first, since y may be any of them.
template <std::size_t width>
HWY_INLINE void finish(const SelectiveScanArgs& args, const ScanChunk& chunk, Index first_token,
                       Index t, Index c, Index count) {
  RegisterSet<width> y;
  for (std::size_t i = 0; i < width; ++i) {
    y.part[i] = load(chunk.y + (t + static_cast<Index>(i)) * vector_lanes);
  }
  if (args.z.data != nullptr) {
    RegisterSet<width> z;
    for (std::size_t i = 0; i < width; ++i) {
      const Index token = first_token + t + static_cast<Index>(i);
      z.part[i] = load_count(args.z.row_data(token) + c, count);
    }
    const RegisterSetOps<width> ops;
    y = ops.mul(y, silu_of(ops, z));
  }
  for (std::size_t i = 0; i < width; ++i) {
    const Index token = first_token + t + static_cast<Index>(i);
    store_count(y.part[i], args.y.row_data(token) + c, count);
  }
}

// All tokens of the `count` channels from c on, which lie in one block.
HWY_INLINE void scan_register(const SelectiveScanArgs& args, Index c, Index count) {
  constexpr Index ways = vector_lanes == 16 ? 4 : 2;
  const float* A = args.A + scan_offset(c, 0, args.d_state);
  float* h = args.h + scan_offset(c, 0, args.d_state);
  ScanChunk chunk;
  for (Index first = 0; first < args.u.rows; first += chunk_tokens) {
    const Index tokens = HWY_MIN(chunk_tokens, args.u.rows - first);
    Index t = 0;
    for (; t + 2 <= tokens; t += 2) prepare<2>(args, chunk, first, t, c, count);
    if (t < tokens) prepare<1>(args, chunk, first, t, c, count);
    Index n = 0;
    for (; n + ways <= args.d_state; n += ways) {
      advance<ways>(args, chunk, first, tokens, n, A + n * scan_block, h + n * scan_block, count);
    }
    for (; n < args.d_state; ++n) {
      advance<1>(args, chunk, first, tokens, n, A + n * scan_block, h + n * scan_block, count);
    }
    t = 0;
    for (; t + 2 <= tokens; t += 2) finish<2>(args, chunk, first, t, c, count);
    if (t < tokens) finish<1>(args, chunk, first, t, c, count);
  }
}

// One token of two registers of channels from c on. There is no other token whose operations could
// fill the gaps, but the states are independent, and what they share stays in registers.
HWY_INLINE void step_registers(const SelectiveScanArgs& args, Index c) {
  constexpr std::size_t width = 2;
  using Registers = RegisterSet<width>;
  const RegisterSetOps<width> ops;
  const auto read = [](const float* p) HWY_ATTR {
    return Registers{{load(p), load(p + vector_lanes)}};
  };
  const Registers u = read(args.u.data + c);
  const Registers dt = softplus_of(ops, read(args.dt_raw.data + c));
  const Registers dt_u = ops.mul(dt, u);
  Registers y = ops.mul(read(args.D + c), u);
  const Index at[width] = {scan_offset(c, 0, args.d_state),
                           scan_offset(c + vector_lanes, 0, args.d_state)};
  const Index ahead = 2 * scan_block * args.d_state;  // A and states come from memory
  for (Index n = 0; n < args.d_state; ++n) {
    const float* A = args.A + n * scan_block;
    float* h = args.h + n * scan_block;
    __builtin_prefetch(A + at[0] + ahead, 0, 3);
    __builtin_prefetch(h + at[0] + ahead, 0, 3);
    const Registers decay =
        exp2_nonpositive_of(ops, ops.mul(dt, Registers{{load(A + at[0]), load(A + at[1])}}));
    const Registers input = ops.mul(dt_u, ops.set(args.B.data[n]));
    const Registers state = ops.fma(decay, Registers{{load(h + at[0]), load(h + at[1])}}, input);
    store(state.part[0], h + at[0]);
    store(state.part[1], h + at[1]);
    y = ops.fma(ops.set(args.C.data[n]), state, y);
  }
  if (args.z.data != nullptr) y = ops.mul(y, silu_of(ops, read(args.z.data + c)));
  store(y.part[0], args.y.data + c);
  store(y.part[1], args.y.data + c + vector_lanes);
}

void selective_scan(const SelectiveScanArgs& args) noexcept {
  Index first = args.channels.begin;
  if (args.u.rows == 1) {
    for (; first + 2 * vector_lanes <= args.channels.end; first += 2 * vector_lanes) {
      step_registers(args, first);
    }
  }
  for_each_register(args.channels.end - first,
                    [&](Index i, Index count) HWY_ATTR { scan_register(args, first + i, count); });
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void selective_scan(const SelectiveScanArgs& args) noexcept {
  KRAIT_KERNEL(selective_scan, ref::selective_scan)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
