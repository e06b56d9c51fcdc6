#include "krait/kernels/selective_scan.hpp"

#include "krait/kernels/ref/selective_scan.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/selective_scan.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {

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
    for (std::size_t w = 0; w < ways; ++w) {
      const VF decay = exp_nonpositive_of(VectorOps(), hn::Mul(dt, A[w]));
      state[w] = fma(decay, state[w], hn::Mul(dt_u, hn::Set(DF(), B[w])));
      y = fma(hn::Set(DF(), C[w]), state[w], y);
    }
    store(y, chunk.y + t * vector_lanes);
    B += args.B.stride;
    C += args.C.stride;
  }
  for (std::size_t w = 0; w < ways; ++w)
    store_count(state[w], h + static_cast<Index>(w) * scan_block, count);
}

// All tokens of the `count` channels from c on, which lie in one block.
HWY_INLINE void scan_register(const SelectiveScanArgs& args, Index c, Index count) {
  constexpr Index ways = vector_lanes == 16 ? 4 : 2;
  const float* A = args.A + scan_offset(c, 0, args.d_state);
  float* h = args.h + scan_offset(c, 0, args.d_state);
  const VF D = load_count(args.D + c, count);
  ScanChunk chunk;
  for (Index first = 0; first < args.u.rows; first += chunk_tokens) {
    const Index tokens = HWY_MIN(chunk_tokens, args.u.rows - first);
    for (Index t = 0; t < tokens; ++t) {
      const VF u = load_count(args.u.row_data(first + t) + c, count);
      const VF dt =
          softplus_of(VectorOps(), load_count(args.dt_raw.row_data(first + t) + c, count));
      store(dt, chunk.dt + t * vector_lanes);
      store(hn::Mul(dt, u), chunk.dt_u + t * vector_lanes);
      store(hn::Mul(D, u), chunk.y + t * vector_lanes);
    }
    Index n = 0;
    for (; n + ways <= args.d_state; n += ways) {
      advance<ways>(args, chunk, first, tokens, n, A + n * scan_block, h + n * scan_block, count);
    }
    for (; n < args.d_state; ++n) {
      advance<1>(args, chunk, first, tokens, n, A + n * scan_block, h + n * scan_block, count);
    }
    for (Index t = 0; t < tokens; ++t) {
      VF y = load(chunk.y + t * vector_lanes);
      if (args.z.data != nullptr) {
        const VF z = load_count(args.z.row_data(first + t) + c, count);
        y = hn::Mul(y, silu_of(VectorOps(), z));
      }
      store_count(y, args.y.row_data(first + t) + c, count);
    }
  }
}

void selective_scan(const SelectiveScanArgs& args) noexcept {
  const Index first = args.channels.begin;
  for_each_register(args.channels.size(),
                    [&](Index i, Index count) HWY_ATTR { scan_register(args, first + i, count); });
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void selective_scan(const SelectiveScanArgs& args) noexcept {
  KRAIT_KERNEL(selective_scan, ref::selective_scan)(args);
}

}  // namespace krait::inline v0_1::kernels
#endif
