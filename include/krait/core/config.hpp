#pragma once

/// \file
/// Integer types of the library and the macros that describe the compiler.

#include <cstdint>

#include "krait/version.hpp"

// Parts of krait are compiled with the application, and their results are exact by contract.
#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) || \
    (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__ > 0)
#  error "[build] krait: expected exact arithmetic, found -ffast-math or a part of it"
#endif

#if defined(__cpp_exceptions)
#  define KRAIT_HAS_EXCEPTIONS 1
#else
#  define KRAIT_HAS_EXCEPTIONS 0
#endif

namespace krait {
inline namespace v0_1 {

/// Sizes, extents and offsets, in elements unless said otherwise. Signed, so that differences are
/// safe; 64 bits, so that products of two extents of a real tensor cannot overflow.
using Index = std::int64_t;

/// Id of a vocabulary entry; a byte value for byte-level models.
using Token = std::int32_t;

}  // namespace v0_1
}  // namespace krait
