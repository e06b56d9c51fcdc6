#pragma once

#include <string>

#include "krait/models/model.hpp"
#include "models/model_tree.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether the checkpoint holds the matrix that embedding and head share under the head's name
/// only. False without a checkpoint.
KRAIT_API bool is_embedding_in_head(const ModelSpec& spec, const WeightStore* weights,
                                    const std::string& prefix);

/// Binds every part of a model, the embedding first. `tree` gets a name for each.
Result<Model::Parts> bind_parts(const ModelSpec& spec, WeightBinder& binder,
                                const std::string& prefix, bool embedding_is_head,
                                Bookings& bookings, ModelTree& tree);

/// The same, where a checkpoint that lacks tensors is refused with a list of them. They are looked
/// up after a failure; with `look_first` before anything is bound, for weights whose conversion
/// takes long.
Result<Model::Parts> bind_to(const ModelSpec& spec, WeightBinder& binder, const std::string& prefix,
                             bool look_first, Bookings& bookings, ModelTree& tree);

}  // namespace v0_1
}  // namespace krait
