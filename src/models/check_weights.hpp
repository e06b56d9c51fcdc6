#pragma once

#include <string>

#include "krait/io/weight_store.hpp"
#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

/// Whether codes of quantised weights have the layout that this version reads.
Result<void> check_format(const WeightStore& weights);

/// Whether the checkpoint has all tensors of the model. The error lists what is missing, so that a
/// wrong prefix or family is seen for what it is.
Result<void> check_names(const ModelSpec& spec, const WeightStore& weights,
                         const std::string& prefix);

}  // namespace v0_1
}  // namespace krait
