#include "krait/kernels/codeword_search.hpp"

#include "krait/kernels/ref/codeword_search.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/codeword_search.cpp"
#include "kernels/targets.hpp"
// After targets.hpp:
#include "kernels/simd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace krait {
inline namespace v0_1 {
namespace kernels::HWY_NAMESPACE {

// Codewords lie side by side, so that a vector holds one component of several. Few choices are
// better than the worst that is kept: one comparison per 16 codes looks for them.
Index search_codewords(const CodewordSearchArgs& args, CodewordChoice* best) noexcept {
  const DF d;
  const Index group = args.codewords.rows;
  Index found = 0;
  alignas(64) float costs[virtual_lanes];
  for (Index h = 0; h < args.residuals.rows; ++h) {
    const float* residual = args.residuals.row_data(h);
    const VF base = hn::Set(d, args.costs[h]);
    for (Index k = 0; k < args.codewords.cols; k += virtual_lanes) {
      Array<VF, vector_parts> dots;
      KRAIT_UNROLL
      for (Index p = 0; p < vector_parts; ++p) dots[p] = hn::Zero(d);
      for (Index i = 0; i < group; ++i) {
        const VF component = hn::Set(d, residual[i]);
        const float* codes = args.codewords.row_data(i) + k;
        KRAIT_UNROLL
        for (Index p = 0; p < vector_parts; ++p) {
          dots[p] = fma(component, hn::LoadU(d, codes + p * vector_lanes), dots[p]);
        }
      }
      const float worst =
          found < args.keep ? std::numeric_limits<float>::infinity() : best[args.keep - 1].cost;
      bool any = false;
      KRAIT_UNROLL
      for (Index p = 0; p < vector_parts; ++p) {
        const VF norms = hn::LoadU(d, args.norms + k + p * vector_lanes);
        const VF cost = fma(hn::Set(d, -2.0F), dots[p], hn::Add(base, norms));
        hn::Store(cost, d, costs + p * vector_lanes);
        any = any || !hn::AllFalse(d, hn::Lt(cost, hn::Set(d, worst)));
      }
      if (!any) continue;
      for (Index lane = 0; lane < virtual_lanes; ++lane) {
        const float cost = costs[lane];
        if (!(cost - cost == 0.0F)) continue;  // not finite
        found = ref::insert_choice(
            {cost, static_cast<std::int32_t>(h), static_cast<std::int32_t>(k + lane)}, args.keep,
            found, best);
      }
    }
  }
  return found;
}

}  // namespace kernels::HWY_NAMESPACE
}  // namespace v0_1
}  // namespace krait
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace krait {
inline namespace v0_1 {
namespace kernels {

Index search_codewords(const CodewordSearchArgs& args, CodewordChoice* best) noexcept {
  return KRAIT_KERNEL(search_codewords, ref::search_codewords)(args, best);
}

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
#endif
