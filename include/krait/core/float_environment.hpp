#pragma once

/// \file
/// The floating-point control word under which krait computes.

#include <cstdint>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// For its lifetime the calling thread rounds to nearest even and neither flushes subnormal
/// results nor treats subnormal operands as zero; then the thread's own setting returns. Every
/// task that krait runs holds one, so that the caller's setting changes neither results nor is
/// changed by them.
class KRAIT_API FloatEnvironment {
 public:
  FloatEnvironment() noexcept;
  ~FloatEnvironment();
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;

 private:
  std::uint64_t saved_ = 0;
};

/// For its lifetime the calling thread flushes subnormal results and treats subnormal operands as
/// zero, as the instructions for bfloat16 do whatever the setting.
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
