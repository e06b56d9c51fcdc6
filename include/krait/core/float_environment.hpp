#pragma once

/// \file
/// The floating-point control word under which krait computes.

#include <cstdint>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// While it lives, the calling thread rounds to nearest even and computes with subnormal numbers;
/// its destructor restores the thread's own setting. Every task that krait runs holds one, so that
/// results do not depend on the caller's setting, and the caller keeps it.
class KRAIT_API FloatEnvironment {
 public:
  FloatEnvironment() noexcept;
  ~FloatEnvironment();
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::uint64_t saved_ = 0;
};

/// While it lives, the calling thread replaces subnormal operands and results by zero, as the
/// bfloat16 instructions always do.
class KRAIT_API FlushToZero {
 public:
  FlushToZero() noexcept;
  ~FlushToZero();
  FlushToZero(const FlushToZero&) = delete;
  FlushToZero& operator=(const FlushToZero&) = delete;

 private:
  std::uint64_t saved_ = 0;
};

}  // namespace v0_1
}  // namespace krait
