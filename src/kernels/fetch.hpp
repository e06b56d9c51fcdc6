#pragma once

#include <cstdint>

namespace krait::inline v0_1::kernels {

/// Weights that will be needed later, requested for the L2 cache while others are multiplied, so
/// that memory is busy all the time. The L1 cache is full of the present tile.
struct Fetch {
  std::uintptr_t next = 0;  ///< may lie beyond the end of everything
  std::uintptr_t step = 0;  ///< bytes that `advance` requests; 0: none

  [[gnu::always_inline]] inline void advance() noexcept {
    const std::uintptr_t end = next + step;
    for (; next < end; next += 64) __builtin_prefetch(reinterpret_cast<const void*>(next), 0, 2);
    next = end;
  }
};

}  // namespace krait::inline v0_1::kernels
