#pragma once

// The backward passes of krait's blocks, one file each.

#include "krait/training/block_gradient.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// A block that stands in another one, whose backward pass needs its output again.
class InnerGradient : public BlockGradient {
 public:
  // y [T, d_model] from x, whose first token is the sequence's first.
  virtual void forward(const Work& work, const ParameterScope& weights, MatrixView<const float> x,
                       MatrixView<float> y) const = 0;
  // Most floats of work.memory that it takes at a time.
  virtual Index forward_memory(const BackwardSize& size) const = 0;
};
// Attention to rows of d_input floats.
std::unique_ptr<const InnerGradient> inner_gradient(const AttentionSpec& spec, Index d_model,
                                                    Index d_input);
std::unique_ptr<const InnerGradient> inner_gradient(const MlpSpec& spec, Index d_model);

std::unique_ptr<const BlockGradient> gradient_of(const AttentionSpec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const Mamba2Spec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const MambaSpec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const MlpSpec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const MoeSpec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const SharedTransformerSpec& spec, Index d_model);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
