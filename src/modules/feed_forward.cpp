#include "krait/modules/feed_forward.hpp"

namespace krait {
inline namespace v0_1 {

Result<FeedForward> FeedForward::bind(const Parts& parts, const WeightScope& weights, Plan& plan) {
  const Index rows = up_rows(parts.d_hidden, parts.gated);
  KRAIT_ASSIGN_OR_RETURN(
      auto up, Linear::bind(weights.scope(parts.up), plan, rows, plan.d_model(), parts.bias));
  KRAIT_ASSIGN_OR_RETURN(auto down, Linear::bind(weights.scope(parts.down), plan, plan.d_model(),
                                                 parts.d_hidden, parts.bias));
  return FeedForward(std::move(up), std::move(down), parts.activation);
}

}  // namespace v0_1
}  // namespace krait
