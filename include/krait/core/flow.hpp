#pragma once

/// \file
/// Flow: what a callback answers.

#include "krait/core/config.hpp"
#include "krait/core/function_ref.hpp"

namespace krait {
inline namespace v0_1 {

/// A callback's answer. An enumeration, since nobody can read from a bool whether true means go on
/// or stop.
enum class Flow : bool { go_on, stop };

/// Told how much of a long operation is done, in units named by whoever calls it; may stop it.
using Progress = FunctionRef<Flow(Index done, Index total)>;

}  // namespace v0_1
}  // namespace krait
