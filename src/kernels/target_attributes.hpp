#pragma once

// KRAIT_TARGET_BEGIN("avx512f,…") … KRAIT_TARGET_END: the functions between them are compiled for
// those instruction sets. For what Highway has no target for. Only spans, scalars and intrinsics
// belong there: a template of the standard library would be compiled for that target, too, and
// might be the copy that the linker keeps for everyone.

#define KRAIT_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#  define KRAIT_TARGET_BEGIN(targets) \
    KRAIT_PRAGMA(clang attribute push(__attribute__((target(targets))), apply_to = function))
#  define KRAIT_TARGET_END KRAIT_PRAGMA(clang attribute pop)
#else
#  define KRAIT_TARGET_BEGIN(targets) \
    KRAIT_PRAGMA(GCC push_options) KRAIT_PRAGMA(GCC target targets)
#  define KRAIT_TARGET_END KRAIT_PRAGMA(GCC pop_options)
#endif
