# KRAIT_SANITIZE: a list of sanitizers for everything in this build.
if(KRAIT_SANITIZE)
  if("thread" IN_LIST KRAIT_SANITIZE AND "address" IN_LIST KRAIT_SANITIZE)
    message(FATAL_ERROR "KRAIT_SANITIZE: expected address or thread, found both")
  endif()
  list(JOIN KRAIT_SANITIZE "," krait_sanitizers)
  add_compile_options(-fsanitize=${krait_sanitizers} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  if("undefined" IN_LIST KRAIT_SANITIZE AND CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    # An array without elements has a null pointer, and offsets that are added to it reach nothing:
    # GCC's check of pointers lets that pass, Clang's does not.
    add_compile_options(-fno-sanitize=pointer-overflow)
  endif()
  add_link_options(-fsanitize=${krait_sanitizers})
endif()

# Fuzz targets need the whole library to report which code an input reached.
if(KRAIT_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "KRAIT_BUILD_FUZZERS: expected Clang, found ${CMAKE_CXX_COMPILER_ID}")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
