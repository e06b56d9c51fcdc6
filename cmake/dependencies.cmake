# Third-party libraries: the system's packages first, fetched sources second. All of them stay
# private to krait: no public header includes them and the installed package does not name them.
include(FetchContent)

# krait_dependency(name TARGET target PACKAGE package PKG_CONFIG module GIT repository TAG tag)
# makes `target` available, or stops with the name of what is missing.
function(krait_dependency name)
  cmake_parse_arguments(arg "" "TARGET;PACKAGE;PKG_CONFIG;GIT;TAG" "OPTIONS" ${ARGN})
  if(TARGET ${arg_TARGET})
    return()
  endif()
  if(NOT KRAIT_DEPS STREQUAL "fetch")
    if(arg_PACKAGE)
      find_package(${arg_PACKAGE} QUIET GLOBAL)
    endif()
    if(NOT TARGET ${arg_TARGET} AND arg_PKG_CONFIG)
      find_package(PkgConfig QUIET)
      if(PkgConfig_FOUND)
        pkg_check_modules(krait_${name} QUIET IMPORTED_TARGET GLOBAL ${arg_PKG_CONFIG})
        if(TARGET PkgConfig::krait_${name})
          add_library(${arg_TARGET} INTERFACE IMPORTED GLOBAL)
          target_link_libraries(${arg_TARGET} INTERFACE PkgConfig::krait_${name})
        endif()
      endif()
    endif()
  endif()
  if(NOT TARGET ${arg_TARGET})
    if(KRAIT_DEPS STREQUAL "system" OR NOT arg_GIT)
      message(FATAL_ERROR "krait needs ${name}: no package gives the target ${arg_TARGET}")
    endif()
    message(STATUS "krait: fetching ${name} ${arg_TAG}")
    foreach(option IN LISTS arg_OPTIONS)
      string(REGEX MATCH "^([^=]+)=(.*)$" _ "${option}")
      set(${CMAKE_MATCH_1} ${CMAKE_MATCH_2} CACHE BOOL "" FORCE)
    endforeach()
    FetchContent_Declare(${name} GIT_REPOSITORY ${arg_GIT} GIT_TAG ${arg_TAG} GIT_SHALLOW TRUE)
    FetchContent_MakeAvailable(${name})
  endif()
endfunction()

find_package(Threads REQUIRED)

krait_dependency(fmt TARGET fmt::fmt-header-only PACKAGE fmt
  GIT https://github.com/fmtlib/fmt.git TAG 9.1.0)
krait_dependency(json TARGET nlohmann_json::nlohmann_json PACKAGE nlohmann_json
  GIT https://github.com/nlohmann/json.git TAG v3.11.2)
krait_dependency(highway TARGET krait_deps::highway PKG_CONFIG libhwy)
krait_dependency(pcre2 TARGET krait_deps::pcre2 PKG_CONFIG libpcre2-8)
krait_dependency(utf8proc TARGET krait_deps::utf8proc PKG_CONFIG libutf8proc)

if(KRAIT_BUILD_EXAMPLES)
  krait_dependency(CLI11 TARGET CLI11::CLI11 PACKAGE CLI11
    GIT https://github.com/CLIUtils/CLI11.git TAG v2.1.2)
endif()
if(KRAIT_BUILD_TESTS)
  krait_dependency(googletest TARGET GTest::gtest PACKAGE GTest
    GIT https://github.com/google/googletest.git TAG release-1.12.1)
endif()
if(KRAIT_BUILD_BENCH)
  krait_dependency(benchmark TARGET benchmark::benchmark PACKAGE benchmark
    GIT https://github.com/google/benchmark.git TAG v1.7.1 OPTIONS BENCHMARK_ENABLE_TESTING=OFF)
endif()
