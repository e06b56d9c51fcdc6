#pragma once

#include "krait/modules/feed_forward.hpp"
#include "krait/training/parameters.hpp"
#include "krait/training/workspace.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// One of the two matrices of a feed-forward network, with its gradients; null where there is no
// bias, or no gradient is wanted.
struct FeedForwardMatrix {
  const float* W = nullptr;
  const float* bias = nullptr;
  float* dW = nullptr;
  float* dbias = nullptr;
};

// `weight` and, if it exists, `bias` of the scope; `offset` floats on, for one of a stack.
FeedForwardMatrix feed_forward_matrix(const ParameterScope& linear, Index offset = 0);

// The backward pass of y = gate · network(x).
struct FeedForwardBackward {
  FeedForwardMatrix up;
  FeedForwardMatrix down;
  Index d_hidden = 0;
  Activation activation = Activation::relu;
  bool gated = false;
  MatrixView<const float> x;          // [rows, d_model]
  MatrixView<const float> dy;         // [rows, d_model]
  MatrixView<float> dx;               // [rows, d_model] out
  std::span<const float> gates = {};  // [rows]; empty: ones
  std::span<float> dgates = {};       // [rows] out, where there are gates
};
void feed_forward_backward(const Work& work, const FeedForwardBackward& args);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
