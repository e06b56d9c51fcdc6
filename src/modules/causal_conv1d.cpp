#include "krait/modules/causal_conv1d.hpp"

namespace krait {
inline namespace v0_1 {

Result<CausalConv1d> CausalConv1d::bind(const WeightScope& weights, StateSlot state, Index channels,
                                        Index d_conv, bool has_bias) {
  CausalConv1d conv;
  conv.channels_ = channels;
  conv.d_conv_ = d_conv;
  conv.state_ = state;
  // Transposed to [d_conv, channels], so that a vector holds one tap of neighbouring channels.
  KRAIT_ASSIGN_OR_RETURN(const auto weight,
                         weights.derive("weight", {channels, 1, d_conv}, channels * d_conv,
                                        [&](std::span<const float> source, std::span<float> taps) {
                                          for (Index c = 0; c < channels; ++c) {
                                            for (Index k = 0; k < d_conv; ++k) {
                                              taps[static_cast<std::size_t>(k * channels + c)] =
                                                  source[static_cast<std::size_t>(c * d_conv + k)];
                                            }
                                          }
                                        }));
  conv.weight_ = weight.data();
  if (has_bias) {
    KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {channels}));
    conv.bias_ = bias.data();
  }
  return conv;
}

}  // namespace v0_1
}  // namespace krait
