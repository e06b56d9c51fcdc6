#pragma once

// Which instruction sets Highway compiles a kernel for, and how krait chooses between them.
//
// A kernel file defines HWY_TARGET_INCLUDE as its own name, includes this header, and is then
// compiled once per target inside a namespace of its own. The choice is krait's (core/cpu.hpp), not
// Highway's process-wide one, so that forcing a level here changes nothing for other users of
// Highway in the same process.

#include "krait/core/cpu.hpp"

// KRAIT_ONE_LEVEL: HWY_AVX2 or HWY_AVX3 where that level alone is compiled, as KRAIT_NATIVE asks.
//
// ThreadSanitizer looks at who touches what, which is the same at every level: there, one is
// compiled and serves as all, since its checks make kernels slow to compile.
#if !defined(KRAIT_ONE_LEVEL)
#  if defined(__SANITIZE_THREAD__)
#    define KRAIT_ONE_LEVEL HWY_AVX2
#  elif defined(__has_feature)
#    if __has_feature(thread_sanitizer)
#      define KRAIT_ONE_LEVEL HWY_AVX2
#    endif
#  endif
#endif

#if defined(__x86_64__) && defined(KRAIT_ONE_LEVEL)
#  define HWY_BASELINE_TARGETS KRAIT_ONE_LEVEL
#  define HWY_COMPILE_ONLY_STATIC
#elif defined(__x86_64__)
// SSE4 is the weakest vector level; below it the scalar model runs.
#  define HWY_BASELINE_TARGETS HWY_SSE4
#  define HWY_DISABLED_TARGETS (~(HWY_SSE4 | HWY_AVX2 | HWY_AVX3))
#else
// NEON is part of 64-bit Arm; SVE's vectors have no size, so they cannot be array elements. Saying
// that the processor cannot be asked for more keeps the cryptography extension, which not all have,
// out of the functions' target attributes; implicit members would not inherit those.
#  define HWY_COMPILE_ONLY_STATIC
#  define TOOLCHAIN_MISS_SYS_AUXV_H
#endif

#include <hwy/foreach_target.h>
// foreach_target comes first: it includes the kernel file again, which must see this header done.
#include <hwy/highway.h>

/// KRAIT_KERNEL(name, scalar): the function `name` of the active level's namespace, or `scalar`
/// (same signature) for the scalar level.
///
/// KRAIT_KERNEL_INT8(name, scalar, vnni, amx), KRAIT_KERNEL_BF16(name, scalar, bf16): the same,
/// with the other functions where the processor has those extensions, for which Highway has no
/// target.
#if defined(__x86_64__)
#  if defined(KRAIT_ONE_LEVEL)
#    define KRAIT_KERNEL_SSE4(name) &HWY_STATIC_DISPATCH(name)
#    define KRAIT_KERNEL_AVX2(name) &HWY_STATIC_DISPATCH(name)
#    define KRAIT_KERNEL_AVX3(name) &HWY_STATIC_DISPATCH(name)
#  else
#    define KRAIT_KERNEL_SSE4(name) &N_SSE4::name
#    define KRAIT_KERNEL_AVX2(name) &N_AVX2::name
#    define KRAIT_KERNEL_AVX3(name) &N_AVX3::name
#  endif
#  define KRAIT_KERNEL_TABLE(name, scalar, vnni, bf16, amx)                             \
    ([]() noexcept {                                                                    \
      static constexpr decltype(&(scalar)) table[isa_count] = {&(scalar),               \
                                                               &(scalar),               \
                                                               KRAIT_KERNEL_SSE4(name), \
                                                               KRAIT_KERNEL_AVX2(name), \
                                                               KRAIT_KERNEL_AVX3(name), \
                                                               vnni,                    \
                                                               bf16,                    \
                                                               amx};                    \
      return table[static_cast<int>(active_isa())];                                     \
    }())
#  define KRAIT_KERNEL(name, scalar)                                                   \
    KRAIT_KERNEL_TABLE(name, scalar, KRAIT_KERNEL_AVX3(name), KRAIT_KERNEL_AVX3(name), \
                       KRAIT_KERNEL_AVX3(name))
#  define KRAIT_KERNEL_INT8(name, scalar, vnni, amx) \
    KRAIT_KERNEL_TABLE(name, scalar, &(vnni), &(vnni), &(amx))
#  define KRAIT_KERNEL_BF16(name, scalar, bf16) \
    KRAIT_KERNEL_TABLE(name, scalar, KRAIT_KERNEL_AVX3(name), &(bf16), &(bf16))
#else
// `model` is not called `scalar`, since that is part of the expansion.
#  define KRAIT_KERNEL(name, model) \
    (active_isa() == Isa::scalar ? &(model) : &HWY_STATIC_DISPATCH(name))
#  define KRAIT_KERNEL_INT8(name, model, vnni, amx) KRAIT_KERNEL(name, model)
#  define KRAIT_KERNEL_BF16(name, model, bf16) KRAIT_KERNEL(name, model)
#endif
