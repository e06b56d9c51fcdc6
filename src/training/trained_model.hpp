#pragma once

/// \file
/// A checkpoint as it is trained, or has gradients: with embedding and head as inference uses them.

#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

/// The checkpoint's model, with a head of its own where one is stored, though the configuration
/// ties it to the embedding.
KRAIT_API ModelSpec trained_spec(const CheckpointPlan& plan);

/// The weights of such a model, in which an embedding that is stored under the head's name alone
/// has its own, too.
KRAIT_API Result<WeightStore> trained_weights(const ModelSpec& spec, const std::string& prefix,
                                              const WeightStore& stored);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
