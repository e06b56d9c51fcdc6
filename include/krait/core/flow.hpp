#pragma once

/// \file
/// Flow: what a callback answers.

#include "krait/core/config.hpp"
#include "krait/core/function_ref.hpp"

namespace krait {
inline namespace v0_1 {

/// A callback's answer: whether to go on. An enumeration, because a bool does not say which of the
/// two `true` means.
enum class Flow : bool { go_on, stop };

/// Called with how much of a long operation is done, in units that the operation names.
/// Its answer may stop the operation.
using Progress = FunctionRef<Flow(Index done, Index total)>;

}  // namespace v0_1
}  // namespace krait
