#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// Whether a pattern, in which `*` is any run of characters, fits the tensor's name or its
/// module's.
bool is_named(std::string_view tensor, const std::vector<std::string>& patterns);

/// Whether each pattern fits something in the checkpoint. Errors: bad_argument.
Result<void> check_kept(const CheckpointPlan& plan, const std::vector<std::string>& patterns);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
