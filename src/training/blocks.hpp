#pragma once

// The backward passes of krait's blocks, one file each.

#include "krait/training/block_gradient.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

std::unique_ptr<const BlockGradient> gradient_of(const AttentionSpec& spec, Index d_model);
// The same of rows of d_input floats.
std::unique_ptr<const BlockGradient> attention_gradient(const AttentionSpec& spec, Index d_model,
                                                        Index d_input);
std::unique_ptr<const BlockGradient> gradient_of(const Mamba2Spec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const MambaSpec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const MlpSpec& spec, Index d_model);
std::unique_ptr<const BlockGradient> gradient_of(const MoeSpec& spec, Index d_model);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
