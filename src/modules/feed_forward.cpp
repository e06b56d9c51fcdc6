#include "krait/modules/feed_forward.hpp"

#include "weights/adapted.hpp"

namespace krait {
inline namespace v0_1 {

void activate(Activation activation, std::span<const float> x, std::span<float> y) noexcept {
  switch (activation) {
    case Activation::relu:
      return kernels::relu(x, y);
    case Activation::silu:
      return kernels::silu(x, y);
    case Activation::relu_squared:
      kernels::relu(x, y);
      return kernels::mul(y, y, y);
    case Activation::gelu:
      return kernels::gelu(x, y);
  }
}

Result<FeedForward> FeedForward::bind(const Parts& parts, const WeightScope& weights,
                                      Bookings& bookings) {
  const Index d_model = bookings.d_model();
  std::optional<Linear> gate;
  if (!parts.gate.empty()) {
    KRAIT_ASSIGN_OR_RETURN(gate, Linear::bind(weights.scope(parts.gate), bookings, parts.d_hidden,
                                              d_model, parts.bias));
  }
  const Index rows = up_rows(parts.d_hidden, parts.gated && !gate);
  KRAIT_ASSIGN_OR_RETURN(
      auto up, Linear::bind(weights.scope(parts.up), bookings, rows, d_model, parts.bias));
  if (parts.adapter_rank > 0) {
    KRAIT_ASSIGN_OR_RETURN(
        up, bind_own_adapter(weights.scope(parts.adapter), bookings, up, parts.adapter_rank));
  }
  KRAIT_ASSIGN_OR_RETURN(auto down, Linear::bind(weights.scope(parts.down), bookings, d_model,
                                                 parts.d_hidden, parts.bias));
  FeedForward network(std::move(up), std::move(down), parts.activation);
  network.gate_ = std::move(gate);
  network.gate_last_ = parts.gate_last;
  network.gate_scale_ = parts.gate_scale;
  return network;
}

std::vector<BlockMatrix> FeedForward::matrices(const Parts& parts, const std::string& prefix) {
  std::vector<BlockMatrix> all;
  if (!parts.gate.empty()) all.push_back({.name = prefix + std::string(parts.gate)});
  BlockMatrix up{.name = prefix + std::string(parts.up)};
  if (parts.gated && parts.gate.empty()) {
    up.rows = {{parts.gate_last ? "up" : "gate", 0, parts.d_hidden},
               {parts.gate_last ? "gate" : "up", parts.d_hidden, parts.d_hidden}};
  }
  all.push_back(std::move(up));
  all.push_back({.name = prefix + std::string(parts.down), .input = Site::hidden});
  return all;
}

}  // namespace v0_1
}  // namespace krait
