#include "krait/modules/feed_forward.hpp"

namespace krait {
inline namespace v0_1 {

Result<FeedForward> FeedForward::bind(const Parts& parts, const WeightScope& weights,
                                      Bookings& bookings) {
  const Index rows = up_rows(parts.d_hidden, parts.gated);
  KRAIT_ASSIGN_OR_RETURN(auto up, Linear::bind(weights.scope(parts.up), bookings, rows,
                                               bookings.d_model(), parts.bias));
  KRAIT_ASSIGN_OR_RETURN(auto down, Linear::bind(weights.scope(parts.down), bookings,
                                                 bookings.d_model(), parts.d_hidden, parts.bias));
  return FeedForward(std::move(up), std::move(down), parts.activation);
}

std::vector<BlockMatrix> FeedForward::matrices(const std::string& up, const std::string& down,
                                               Index d_hidden, bool gated) {
  BlockMatrix first{.name = up};
  if (gated) first.rows = {{"gate", 0, d_hidden}, {"up", d_hidden, d_hidden}};
  return {std::move(first), {.name = down, .input = Site::hidden}};
}

}  // namespace v0_1
}  // namespace krait
