#pragma once

/// \file
/// BlockGradient: the backward pass of one block.
///
/// It needs no trainer: with the block's input, the gradient of any scalar with respect to its
/// output, and its weights, it gives the gradients with respect to input, weights and state. The
/// block itself (modules/block.hpp) is the forward pass; intermediate values are computed again by
/// the same kernels, so that nothing is kept between the two but the input.

#include <memory>

#include "krait/models/spec.hpp"
#include "krait/training/parameters.hpp"
#include "krait/training/workspace.hpp"

namespace krait {
inline namespace v0_1 {

/// Arguments of `BlockGradient::backward`, for T consecutive tokens of one sequence. Of a block
/// that reads the embedding too, x and dx have 2 d_model columns, and dx is not dy.
struct BackwardArgs {
  MatrixView<const float> x;   ///< [T, d_model] the block's input
  MatrixView<const float> dy;  ///< [T, d_model] gradient with respect to its output
  MatrixView<float> dx;        ///< [T, d_model] out: with respect to its input; may be dy
  /// The block's own part of the state before the first token, as it booked it; null: zeros.
  const float* state = nullptr;
  /// In: the gradient with respect to the state after the last token. Out: with respect to the one
  /// before the first. Of the same layout; null: zeros, and not wanted.
  float* dstate = nullptr;
  double balance = 0.0;  ///< coefficient α of the experts' balancing loss
  double z_loss = 0.0;   ///< coefficient of the routers' z-loss
  /// Of an even share of the tokens, how many an expert takes; 0: all that are sent to it.
  double capacity = 0.0;
};

/// What decides how much memory a backward pass needs.
struct BackwardSize {
  Index tokens = 0;     ///< of a row
  Index threads = 1;    ///< Executor::width
  Index rank = 0;       ///< the largest of adapters in training; 0: everything is in training
  Index workspace = 0;  ///< floats per token that products need with matrices under adapters
};

/// The backward pass of a kind of block. Immutable; several threads use it.
///
/// Bits  numeric contract, section 12: the same for any number of threads and instruction set.
class KRAIT_API BlockGradient {
 public:
  virtual ~BlockGradient();

  /// Computes args.dx and args.dstate, and adds the gradients of the weights to those of `weights`,
  /// whose paths are the block's own ("in_proj.weight").
  virtual void backward(const Work& work, const ParameterScope& weights,
                        const BackwardArgs& args) const = 0;

  /// Most floats of work.memory that `backward` takes at a time. Of experts, if one gets all
  /// tokens; of models under adapters, if all matrices have one.
  virtual Index memory(const BackwardSize& size) const = 0;
};

/// The backward pass of `block`. Errors: unsupported, for a kind of block that has none yet.
KRAIT_API Result<std::unique_ptr<const BlockGradient>> make_block_gradient(const BlockSpec& block,
                                                                           Index d_model);

}  // namespace v0_1
}  // namespace krait
