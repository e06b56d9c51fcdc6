#pragma once

#include <atomic>
#include <limits>
#include <optional>

#include "krait/core/executor.hpp"

namespace krait {
inline namespace v0_1 {

/// The smallest index that `find(Range)`, which gives the first of its range or nothing, finds in
/// any part of [0, n), whichever thread meets one first. `find` is called for all parts.
template <class Find>
std::optional<Index> parallel_first(Executor& executor, Index n, Index block, Find&& find) {
  constexpr Index none = std::numeric_limits<Index>::max();
  std::atomic<Index> first = none;
  parallel_for(executor, n, block, [&](Range range) {
    const std::optional<Index> found = find(range);
    if (!found) return;
    Index known = first.load();
    while (*found < known && !first.compare_exchange_weak(known, *found)) {
    }
  });
  const Index found = first.load();
  return found == none ? std::nullopt : std::optional(found);
}

}  // namespace v0_1
}  // namespace krait
