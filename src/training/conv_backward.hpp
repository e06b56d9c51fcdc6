#pragma once

#include "krait/training/parameters.hpp"
#include "krait/training/workspace.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// The convolution of a block, y = silu(conv(x)) or conv(x), and its gradients. The sum in front of
// silu is formed again with products that are rounded by themselves.
struct ConvBackward {
  MatrixView<const float> x;     // [T, channels] raw inputs
  MatrixView<const float> dy;    // [T, channels]
  MatrixView<float> dx;          // [T, channels] out
  const float* state = nullptr;  // [d_conv - 1, channels] raw inputs before the first; null: zeros
  float* dstate = nullptr;       // the same, in: after the last token, out: before the first
  Index d_conv = 0;
  bool silu = true;
};

// The parameters are `weight` [channels, 1, d_conv] and, if it exists, `bias` of the scope.
void conv_backward(const Work& work, const ParameterScope& conv, const ConvBackward& args);

// y by the kernel of inference, with the same arguments.
void conv_forward(const Work& work, const ParameterScope& conv, const ConvBackward& args,
                  MatrixView<float> y);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
