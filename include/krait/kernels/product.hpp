#pragma once

/// \file
/// What a matrix product runs with.

#include <span>

#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

/// The threads and the memory that one product after another may use.
struct ProductContext {
  Executor& executor;
  std::span<float> workspace;  ///< as much as Plan::workspace booked for the run's tokens
};

}  // namespace v0_1
}  // namespace krait
