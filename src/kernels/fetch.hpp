#pragma once

#include <cstdint>

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Weights that will be needed later, requested for the L2 cache while others are multiplied, so
/// that memory is busy all the time. The L1 cache is full of the present tile.
struct Fetch {
  std::uintptr_t next = 0;  ///< may lie beyond the end of everything
  std::uintptr_t step = 0;  ///< bytes that `advance` requests; 0: none

  [[gnu::always_inline]] inline void advance() noexcept {
    constexpr std::uintptr_t line = 64;
    const std::uintptr_t end = next + step;
    // Lines that begin in between: steps may be shorter than a line, and each is asked for once.
    for (std::uintptr_t at = (next + line - 1) & ~(line - 1); at < end; at += line) {
      __builtin_prefetch(reinterpret_cast<const void*>(at), 0, 2);
    }
    next = end;
  }
};

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
