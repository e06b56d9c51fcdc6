#pragma once

/// \file
/// The floating-point control word of the calling thread, which callers may have set oddly.

#include <cstdint>
#include <vector>

#if defined(__SSE2__)
#  include <xmmintrin.h>
#endif

namespace krait::test {

#if defined(__SSE2__)

inline std::uint64_t control_word() { return _mm_getcsr() & ~std::uint64_t{0x3F}; }  // less flags
inline void set_control_word(std::uint64_t word) { _mm_setcsr(static_cast<unsigned>(word)); }

/// Flush-to-zero with denormals-are-zero, and every rounding mode, alone and together.
inline std::vector<std::uint64_t> odd_control_words() {
  std::vector<std::uint64_t> words;
  for (const std::uint64_t flush : {0x0000U, 0x8040U}) {
    for (const std::uint64_t rounding : {0x0000U, 0x2000U, 0x4000U, 0x6000U}) {
      words.push_back(0x1F80U | flush | rounding);
    }
  }
  return words;
}

#elif defined(__aarch64__)

inline std::uint64_t control_word() {
  std::uint64_t word = 0;
  asm volatile("mrs %0, fpcr" : "=r"(word));
  return word;
}
inline void set_control_word(std::uint64_t word) { asm volatile("msr fpcr, %0" : : "r"(word)); }

/// Flush-to-zero, and every rounding mode, alone and together.
inline std::vector<std::uint64_t> odd_control_words() {
  std::vector<std::uint64_t> words;
  for (const std::uint64_t flush : {0ULL, 1ULL << 24U}) {
    for (const std::uint64_t rounding : {0ULL, 1ULL << 22U, 2ULL << 22U, 3ULL << 22U}) {
      words.push_back(flush | rounding);
    }
  }
  return words;
}

#else

inline std::uint64_t control_word() { return 0; }
inline void set_control_word(std::uint64_t /*word*/) {}
inline std::vector<std::uint64_t> odd_control_words() { return {0}; }

#endif

}  // namespace krait::test
