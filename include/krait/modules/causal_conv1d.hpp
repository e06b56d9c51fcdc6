#pragma once

/// \file
/// Causal depthwise convolution over time, usually followed by SiLU, with its state.

#include "krait/kernels/conv1d.hpp"
#include "krait/modules/block.hpp"
#include "krait/weights/scope.hpp"

namespace krait {
inline namespace v0_1 {

/// The convolution of a Mamba block, with `conv1d.weight` [channels, 1, d_conv] and `conv1d.bias`
/// [channels]. Its state is the last d_conv - 1 raw inputs [d_conv - 1, channels], oldest first.
/// (The authors' code keeps d_conv of them and never reads the oldest.)
class CausalConv1d {
 public:
  KRAIT_API static Result<CausalConv1d> bind(const WeightScope& weights, StateSlot state,
                                             Index channels, Index d_conv, bool has_bias);

  /// The same convolution without SiLU behind it.
  CausalConv1d without_silu() const noexcept {
    CausalConv1d conv = *this;
    conv.silu_ = false;
    return conv;
  }

  /// Estimated cost of one channel.
  static constexpr ItemCost cost(Index tokens) noexcept { return ItemCost::of(0, 50 * tokens); }

  /// y = silu(conv(x)) for the channels of `range`, in every sequence; y may be x.
  void apply(std::span<const SequenceRows> sequences, MatrixView<const float> x,
             MatrixView<float> y, Range range) const noexcept {
    for_each_part(sequences, [&](const SequenceRows& sequence) {
      for (Index k = 0; sequence.origin != nullptr && k < d_conv_ - 1; ++k) {
        sequence.take(state_, {k * channels_ + range.begin, k * channels_ + range.end});
      }
      kernels::conv1d_silu({.x = x.rows_from(sequence.first, sequence.count),
                            .weight = weight_,
                            .bias = bias_,
                            .d_conv = d_conv_,
                            .state = sequence.slot(state_).data(),
                            .y = y.rows_from(sequence.first, sequence.count),
                            .channels = range,
                            .silu = silu_});
    });
  }

 private:
  Index channels_ = 0;
  Index d_conv_ = 0;
  const float* weight_ = nullptr;  // [d_conv, channels]
  const float* bias_ = nullptr;    // [channels] or null
  StateSlot state_;                // [d_conv - 1, channels]
  bool silu_ = true;
};

}  // namespace v0_1
}  // namespace krait
