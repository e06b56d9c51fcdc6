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
namespace krait::inline v0_1::kernels::HWY_NAMESPACE {
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

// T tokens times weights of bf16.
struct PairProduct {
  const bf16* w;
  const bf16* x;
  Index n;
  Index x_stride;
};

// Chains of T tokens for part `part` of a row's lanes.
template <int T>
HWY_INLINE void accumulate_pairs(const PairProduct& in, Index row, Index part, Array<VF, T>& acc) {
  const bf16* w = in.w + row * in.n;
  const auto step = [&](VU ws, Index at) HWY_ATTR {
    const VF w_odd = odd(ws);
    const VF w_even = even(ws);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) {
      const VU xs = load_pairs(in.x + t * in.x_stride + at);
      acc[t] = fma(w_even, even(xs), fma(w_odd, odd(xs), acc[t]));
    }
  };
  constexpr Index group = 2 * virtual_lanes;
  const Index first = 2 * part * vector_lanes;
  Index k = 0;
  for (; k + group <= in.n; k += group) step(load_pairs(w + k + first), k + first);
  const Index rest = in.n - k - first;
  if (rest <= 0) return;
  // The last group: lanes without an element are left alone.
  HWY_ALIGN bf16 last[static_cast<std::size_t>(2 * vector_lanes)] = {};
  const Index count = HWY_MIN(rest, 2 * vector_lanes);
  for (Index i = 0; i < count; ++i) last[i] = w[k + first + i];
  Array<VF, T> before;
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) before[t] = acc[t];
  step(load_pairs(last), k + first);
  const auto mask = hn::FirstN(DF(), static_cast<std::size_t>((count + 1) / 2));
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) acc[t] = hn::IfThenElse(mask, acc[t], before[t]);
}

template <int T>
HWY_INLINE void row_tokens(const MatmulBf16Args& args, const PairProduct& in, Index row,
                           Index token) {
  Array<Lanes, T> lanes;
  KRAIT_UNROLL
  for (int part = 0; part < register_parts; ++part) {
    Array<VF, T> acc;
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) acc[t] = hn::Zero(DF());
    accumulate_pairs<T>(in, row, part, acc);
    KRAIT_UNROLL
    for (int t = 0; t < T; ++t) lanes[t].part[part] = acc[t];
  }
  KRAIT_UNROLL
  for (int t = 0; t < T; ++t) {
    const float sum = reduce(lanes[t]);
    args.y(token + t, row) = args.bias != nullptr ? sum + args.bias[row] : sum;
  }
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
  const PairProduct in{.w = static_cast<const bf16*>(args.W.data),
                       .x = args.x.values,
                       .n = args.W.cols,
                       .x_stride = args.x.stride};
  constexpr int width = 4;
  for (Index row = args.outputs.begin; row < args.outputs.end; ++row) {
    Index t = 0;
    for (; t + width <= args.y.rows; t += width) {
      PairProduct tile = in;
      tile.x += t * in.x_stride;
      row_tokens<width>(args, tile, row, t);
    }
    for (; t < args.y.rows; ++t) {
      PairProduct tile = in;
      tile.x += t * in.x_stride;
      row_tokens<1>(args, tile, row, t);
    }
  }
}

}  // namespace krait::inline v0_1::kernels::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait::inline v0_1::kernels {

void round_activations(MatrixView<const float> x, Range tokens,
                       const Bf16Activations& out) noexcept {
  KRAIT_KERNEL(round_activations, ref::round_activations)(x, tokens, out);
}

void matmul_bf16(const MatmulBf16Args& args) noexcept {
  KRAIT_KERNEL_BF16(matmul_bf16, ref::matmul_bf16, matmul_bf16_avx512)(args);
}

}  // namespace krait::inline v0_1::kernels
#endif
