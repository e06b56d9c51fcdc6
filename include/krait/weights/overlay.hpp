#pragma once

/// \file
/// Other weights for some matrices of a checkpoint, all others shared.

#include <memory>
#include <string_view>
#include <vector>

#include "krait/io/safetensors.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

/// In `store`, a copy of a checkpoint's that shares every tensor of it: gives the matrix `name`
/// ("backbone.layers.3.mixer.in_proj") these parts, of that form, instead of those it has; the
/// names of parts follow the matrix's: "weight", "codes". Its bias stays. `owner` keeps the
/// tensors' bytes alive, as long as the store and the models that are built of it.
///
///   WeightStore changed = checkpoint.weights;
///   replace_matrix(changed, "lm_head", "f32", {{"weight", W}}, owner);
///   Model other = build_model(spec, changed, prefix).value();
KRAIT_API void replace_matrix(WeightStore& store, std::string_view name, std::string_view form,
                              const std::vector<NamedTensor>& parts,
                              std::shared_ptr<const void> owner);

}  // namespace v0_1
}  // namespace krait
