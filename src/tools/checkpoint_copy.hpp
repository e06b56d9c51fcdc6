#pragma once

#include <string>
#include <string_view>

#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {

/// That every matrix of the model is stored as floats. Errors: bad_argument, naming the first that
/// is not; `area` is for messages.
Result<void> check_floats(const ModelPlan& plan, const WeightStore& weights,
                          const std::string& path, std::string_view area);

/// That every weight of the model is a number. Errors: not_finite, naming the first tensor with
/// another and its place there; `area` is for messages.
Result<void> check_finite(const ModelPlan& plan, const WeightStore& weights,
                          const std::string& path, std::string_view area);

/// That a new folder would not lie in the checkpoint's own. Errors: bad_argument.
Result<void> check_outside(const Checkpoint& checkpoint, const std::string& destination,
                           std::string_view area);

/// Writes `config` under its name, and copies the files of the tokenizer and of chat templates, to
/// the folder `to`.
Result<void> copy_texts(const Checkpoint& checkpoint, std::string_view config,
                        const std::string& to);

}  // namespace v0_1
}  // namespace krait
