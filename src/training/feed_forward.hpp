#pragma once

#include <optional>

#include "krait/modules/feed_forward.hpp"
#include "training/products.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// The backward pass of y = gate · network(x).
struct FeedForwardBackward {
  LinearWeights up;
  LinearWeights down;
  Index d_hidden = 0;
  Activation activation = Activation::relu;
  bool gated = false;
  std::optional<LinearWeights> gate = {};  // the gate's own matrix; none: its rows are in `up`
  bool gate_last = false;                  // the gate is the last rows of `up`
  float gate_scale = 1.0F;                 // multiplies the gate in front of the activation
  MatrixView<const float> x;               // [rows, d_model]
  MatrixView<const float> dy;              // [rows, d_model]
  MatrixView<float> dx;                    // [rows, d_model] out
  std::span<const float> gates = {};       // [rows]; empty: ones
  std::span<float> dgates = {};            // [rows] out, where there are gates
};
void feed_forward_backward(const Work& work, const FeedForwardBackward& args);

// y = network(x), of args without gradients and gates.
void feed_forward(const Work& work, const FeedForwardBackward& args, MatrixView<float> y);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
