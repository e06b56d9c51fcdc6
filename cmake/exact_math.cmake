# krait's results are exact, so flags that let the compiler change arithmetic are refused, wherever
# they come from: its own command line, or the application that has krait as a subproject. What is
# not in these variables (a toolchain's wrapper) meets the #error in krait/core/config.hpp.
set(krait_inexact "-(Ofast|ffast-math|funsafe-math-optimizations|fassociative-math|freciprocal-math\
|ffinite-math-only|fno-signed-zeros)")
get_directory_property(krait_flags COMPILE_OPTIONS)
string(TOUPPER "${CMAKE_BUILD_TYPE}" krait_config)
string(PREPEND krait_flags "${CMAKE_CXX_FLAGS} ${CMAKE_CXX_FLAGS_${krait_config}} ")
if(" ${krait_flags}" MATCHES "[ ;:>](${krait_inexact})([ ;>]|$)")
  message(FATAL_ERROR "[build] compiler flags: expected exact arithmetic, found ${CMAKE_MATCH_1}")
endif()
