#pragma once

/// \file
/// Replaces single matrices of a checkpoint; all other tensors stay shared.

#include <memory>
#include <string_view>
#include <vector>

#include "krait/io/safetensors.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// Gives the matrix `name` ("backbone.layers.3.mixer.in_proj") of `store` other weights: `parts` of
/// the form `form`, named by what follows the matrix's name ("weight", "codes"). Its bias and its
/// adapter stay. `store` is usually a copy of a checkpoint's, which shares all other tensors.
/// `owner` keeps the parts' bytes alive as long as the store and the models built from it.
///
///   WeightStore changed = checkpoint.weights;
///   replace_matrix(changed, "lm_head", "f32", {{"weight", W}}, owner);
///   Model other = build_model(spec, changed, prefix).value();
KRAIT_API void replace_matrix(WeightStore& store, std::string_view name, std::string_view form,
                              const std::vector<NamedTensor>& parts,
                              std::shared_ptr<const void> owner);

}  // namespace v0_1
}  // namespace krait
