#pragma once

/// \file
/// Version numbers, the inline namespace that carries them, and symbol visibility.

#define KRAIT_VERSION_MAJOR 0
#define KRAIT_VERSION_MINOR 1
#define KRAIT_VERSION_PATCH 0
#define KRAIT_VERSION_STRING "0.1.0"

#if defined(KRAIT_SHARED) && defined(_WIN32)
#  ifdef KRAIT_BUILDING
#    define KRAIT_API __declspec(dllexport)
#  else
#    define KRAIT_API __declspec(dllimport)
#  endif
#elif defined(__GNUC__)
#  define KRAIT_API __attribute__((visibility("default")))
#else
#  define KRAIT_API
#endif

/// Every name of the library. The version is an inline namespace, so that two versions can be
/// linked into one program; user code never spells it.
namespace krait {
inline namespace v0_1 {

/// Version of the compiled library, "major.minor.patch". Compare with KRAIT_VERSION_STRING, the
/// version of the headers, to detect a mismatch.
KRAIT_API const char* version() noexcept;

}  // namespace v0_1
}  // namespace krait
