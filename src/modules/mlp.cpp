#include "krait/modules/mlp.hpp"

#include <memory>
#include <string>
#include <utility>

namespace krait {
inline namespace v0_1 {

Result<void> MlpSpec::validate(Index d_model) const {
  return check_extent("d_hidden", resolved(d_model).d_hidden);
}

std::string MlpSpec::to_string(Index d_model) const {
  return "Mlp d_hidden " + std::to_string(resolved(d_model).d_hidden) + ' ' +
         krait::to_string(activation) + (gated ? " gated" : "") + (bias ? " bias" : "");
}

Result<std::unique_ptr<const Block>> MlpSpec::bind(const WeightScope& weights,
                                                   Bookings& bookings) const {
  KRAIT_ASSIGN_OR_RETURN(auto network,
                         FeedForward::bind({.d_hidden = resolved(bookings.d_model()).d_hidden,
                                            .activation = activation,
                                            .gated = gated,
                                            .bias = bias,
                                            .up = up,
                                            .down = down},
                                           weights, bookings));
  return std::unique_ptr<const Block>(std::make_unique<Mlp>(std::move(network), bookings));
}

std::vector<BlockMatrix> MlpSpec::matrices(Index d_model) const {
  return FeedForward::matrices(up, down, resolved(d_model).d_hidden, gated);
}

}  // namespace v0_1
}  // namespace krait
