# krait_warnings(target): the warnings the project holds itself to, for its own targets only.
function(krait_warnings target)
  if(MSVC)
    target_compile_options(${target} PRIVATE /W4 /permissive-)
  else()
    # -Wnull-dereference is left out: GCC 12 to 15 report false positives in std::vector.
    target_compile_options(${target} PRIVATE
      -Wall -Wextra -Wpedantic -Wconversion -Wsign-conversion -Wshadow -Wdouble-promotion
      -Wold-style-cast -Wundef -Woverloaded-virtual -Wnon-virtual-dtor -Wcast-align -Wformat=2 -Wvla)
  endif()
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 14)
    # GCC 12 and 13 see overlapping copies in "text" + std::string (GCC bug 105651), and values of
    # std::variant that are read before they are set.
    target_compile_options(${target} PRIVATE -Wno-restrict -Wno-maybe-uninitialized)
  endif()
  if(KRAIT_UNITY AND NOT target STREQUAL "krait_kernels"
      AND NOT CMAKE_CXX_COMPILER_ID STREQUAL "MSVC")
    # Of files that know nothing of each other.
    target_compile_options(${target} PRIVATE -Wno-shadow
      $<$<CXX_COMPILER_ID:GNU>:-Wno-subobject-linkage>)
  endif()
  if(KRAIT_WERROR)
    target_compile_options(${target} PRIVATE $<IF:$<CXX_COMPILER_ID:MSVC>,/WX,-Werror>)
  endif()
endfunction()
