# KRAIT_SANITIZE: a list of sanitizers for everything in this build.
if(KRAIT_SANITIZE)
  if("thread" IN_LIST KRAIT_SANITIZE AND "address" IN_LIST KRAIT_SANITIZE)
    message(FATAL_ERROR "KRAIT_SANITIZE: expected address or thread, found both")
  endif()
  list(JOIN KRAIT_SANITIZE "," krait_sanitizers)
  add_compile_options(-fsanitize=${krait_sanitizers} -fno-omit-frame-pointer
    -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${krait_sanitizers})
endif()

# Fuzz targets need the whole library to report which code an input reached.
if(KRAIT_BUILD_FUZZERS)
  if(NOT CMAKE_CXX_COMPILER_ID MATCHES "Clang")
    message(FATAL_ERROR "KRAIT_BUILD_FUZZERS: expected Clang, found ${CMAKE_CXX_COMPILER_ID}")
  endif()
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()
