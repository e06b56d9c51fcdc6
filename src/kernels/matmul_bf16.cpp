#include "krait/kernels/matmul_bf16.hpp"

#include "kernels/matmul_bf16_avx512.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/kernels/ref/matmul_bf16.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/matmul_bf16.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/dot-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {
namespace {

using DU = hn::RebindToUnsigned<DF>;
using VU = hn::Vec<DU>;

// Pairs of neighbouring elements, one in each 32-bit lane: the even one in the lower half.
HWY_INLINE VU load_pairs(const bf16* p) {
  return hn::BitCast(DU(), hn::LoadU(hn::Repartition<std::uint16_t, DF>(),
                                     reinterpret_cast<const std::uint16_t*>(p)));
}

HWY_INLINE VF odd(VU pairs) {
  return hn::BitCast(DF(), hn::And(pairs, hn::Set(DU(), 0xFFFF0000U)));
}

HWY_INLINE VF even(VU pairs) { return hn::BitCast(DF(), hn::ShiftLeft<16>(pairs)); }

// The first `count` elements, 0 < count < 2 vector_lanes, zeros above. Never reads beyond them.
HWY_INLINE VU load_some_pairs(const bf16* p, Index count) {
  return hn::BitCast(DU(), load_some_bits(hn::Repartition<std::uint16_t, DF>(),
                                          reinterpret_cast<const std::uint16_t*>(p), count));
}

// Tokens times weights of bf16.
struct PairProduct {
  const bf16* w;
  const bf16* x;
  Index n;
  Index x_stride;
};

// Chains of T tokens for R rows that lie `apart` rows from each other:
// acc[(r·T + t)·register_parts + p]. R·T·register_parts chains hide the latency of an fma; two of
// them depend on each other in every step.
template <int R, int T>
HWY_INLINE void accumulate_pairs(const PairProduct& in, Index row, Index apart,
                                 Array<VF, R * T * register_parts>& acc) {
  const bf16* w = in.w + row * in.n;
  const Index next_row = apart * in.n;
  constexpr Index group = 2 * virtual_lanes;
  Index k = 0;
  for (; k + group <= in.n; k += group) {
    KRAIT_UNROLL
    for (int p = 0; p < register_parts; ++p) {
      const Index at = k + 2 * p * vector_lanes;
      Array<VU, T> xs;
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) xs[t] = load_pairs(in.x + t * in.x_stride + at);
      KRAIT_UNROLL
      for (int r = 0; r < R; ++r) {
        const VU ws = load_pairs(w + r * next_row + at);
        KRAIT_UNROLL
        for (int t = 0; t < T; ++t) {
          VF& a = acc[(r * T + t) * register_parts + p];
          a = fma(even(ws), even(xs[t]), fma(odd(ws), odd(xs[t]), a));
        }
      }
    }
  }
  // The last group: lanes without an element are left alone.
  KRAIT_UNROLL
  for (int p = 0; p < register_parts; ++p) {
    const Index at = k + 2 * p * vector_lanes;
    const Index count = HWY_MIN(in.n - at, 2 * vector_lanes);
    if (count <= 0) return;
    const auto mask = hn::FirstN(DF(), static_cast<std::size_t>((count + 1) / 2));
    KRAIT_UNROLL
    for (int r = 0; r < R; ++r) {
      const bf16* rest = w + r * next_row + at;
      const VU ws = count < 2 * vector_lanes ? load_some_pairs(rest, count) : load_pairs(rest);
      KRAIT_UNROLL
      for (int t = 0; t < T; ++t) {
        const VU xs = load_pairs(in.x + t * in.x_stride + at);
        VF& a = acc[(r * T + t) * register_parts + p];
        a = hn::IfThenElse(mask, fma(even(ws), even(xs), fma(odd(ws), odd(xs), a)), a);
      }
    }
  }
}

// R rows, `apart` rows from each other, for T tokens.
template <int R, int T>
HWY_INLINE void rows_tokens(const MatmulBf16Args& args, Index row, Index apart, Index token) {
  const PairProduct in{.w = static_cast<const bf16*>(args.W.data),
                       .x = args.x.values + token * args.x.stride,
                       .n = args.W.cols,
                       .x_stride = args.x.stride};
  Array<VF, R * T * register_parts> acc;
  KRAIT_UNROLL
  for (int i = 0; i < R * T * register_parts; ++i) acc[i] = hn::Zero(DF());
  accumulate_pairs<R, T>(in, row, apart, acc);
  KRAIT_UNROLL
  for (int r = 0; r < R; ++r) {
    const Index output = row + r * apart;
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      Lanes lanes;
      KRAIT_UNROLL
      for (int p = 0; p < register_parts; ++p)
        lanes.part[p] = acc[(r * T + t) * register_parts + p];
      const float sum = reduce(lanes);
      args.y(token + t, output) = args.bias != nullptr ? sum + args.bias[output] : sum;
    }
  }
}

// All tokens for R rows. A block of rows stays in the L1 cache while the tokens pass by.
template <int R>
HWY_INLINE void rows_all_tokens(const MatmulBf16Args& args, Index row, Index apart) {
  constexpr int width = R == 1 ? 4 : 2;
  Index t = 0;
  for (; t + width <= args.y.rows; t += width) rows_tokens<R, width>(args, row, apart, t);
  for (; t < args.y.rows; ++t) rows_tokens<R, 1>(args, row, apart, t);
}

}  // namespace

void round_activations(MatrixView<const float> x, Range tokens,
                       const Bf16Activations& out) noexcept {
  const hn::Rebind<std::uint16_t, DU> d16;
  for (Index t = tokens.begin; t < tokens.end; ++t) {
    const float* row = x.row_data(t);
    auto* values = reinterpret_cast<std::uint16_t*>(out.values + t * out.stride);
    for (Index k = 0; k < out.stride; k += vector_lanes) {
      const Index rest = x.cols - k;
      const VF v = rest <= 0 ? hn::Zero(DF()) : load_count(row + k, HWY_MIN(rest, vector_lanes));
      hn::StoreU(hn::DemoteTo(d16, hn::BitCast(DI(), bf16_bits(DF(), v))), d16, values + k);
    }
  }
}

void matmul_bf16(const MatmulBf16Args& args) noexcept {
  const FlushToZero flush;
  const Index apart = args.outputs.size() / streams;
  Index row = args.outputs.begin;
  for (; row < args.outputs.begin + apart; ++row) rows_all_tokens<streams>(args, row, apart);
  row += (streams - 1) * apart;
  for (; row < args.outputs.end; ++row) rows_all_tokens<1>(args, row, 0);
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

void round_activations(MatrixView<const float> x, Range tokens,
                       const Bf16Activations& out) noexcept {
  KRAIT_KERNEL(round_activations, ref::round_activations)(x, tokens, out);
}

void matmul_bf16(const MatmulBf16Args& args) noexcept {
  KRAIT_KERNEL_BF16(matmul_bf16, ref::matmul_bf16, matmul_bf16_avx512)(args);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
