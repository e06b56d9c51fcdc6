#include "krait/modules/mlp.hpp"

#include <cmath>
#include <memory>
#include <string>
#include <utility>

namespace krait {
inline namespace v0_1 {

Result<void> MlpSpec::validate(Index d_model) const {
  if (!gated && (!gate.empty() || gate_last || gate_scale != 1.0F)) {
    return bad_spec("gated", "true, for a gate", "false");
  }
  if (!std::isfinite(gate_scale)) {
    return bad_spec("gate_scale", "a finite number", spec_number(gate_scale));
  }
  if (adapter_rank != 0) KRAIT_RETURN_IF_ERROR(check_extent("adapter_rank", adapter_rank));
  return check_extent("d_hidden", resolved(d_model).d_hidden);
}

std::string MlpSpec::to_string(Index d_model) const {
  return "Mlp d_hidden " + std::to_string(resolved(d_model).d_hidden) + ' ' +
         krait::to_string(activation) + (gated ? " gated" : "") + (bias ? " bias" : "") +
         (gate_scale == 1.0F ? "" : " gate-scale " + spec_number(gate_scale)) +
         (adapter_rank == 0 ? "" : " adapter " + std::to_string(adapter_rank));
}

namespace {

FeedForward::Parts parts_of(const MlpSpec& spec, Index d_model) {
  return {.d_hidden = spec.resolved(d_model).d_hidden,
          .activation = spec.activation,
          .gated = spec.gated,
          .bias = spec.bias,
          .up = spec.up,
          .down = spec.down,
          .gate = spec.gate,
          .gate_last = spec.gate_last,
          .gate_scale = spec.gate_scale,
          .adapter_rank = spec.adapter_rank,
          .adapter = spec.adapter};
}

}  // namespace

Result<std::unique_ptr<const Block>> MlpSpec::bind(const WeightScope& weights,
                                                   Bookings& bookings) const {
  KRAIT_ASSIGN_OR_RETURN(auto network,
                         FeedForward::bind(parts_of(*this, bookings.d_model()), weights, bookings));
  return std::unique_ptr<const Block>(std::make_unique<Mlp>(std::move(network), bookings));
}

std::vector<BlockMatrix> MlpSpec::matrices(Index d_model) const {
  return FeedForward::matrices(parts_of(*this, d_model));
}

}  // namespace v0_1
}  // namespace krait
