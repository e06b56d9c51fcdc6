# Third-party libraries: the system's packages first, fetched sources second. All of them stay
# private to krait: no public header includes them, and the installed package names none but the
# compiled libraries that a static krait must be linked with. Nothing is left behind in an application
# that has krait as a subproject: imported targets are visible in krait's folders only (it may bring
# its own fmt afterwards), and options of fetched projects are no cache entries.

# krait_dependency(name TARGET target PACKAGE package PKG_CONFIG module
#                  GIT repository TAG tag FETCH_TARGET target OPTIONS VAR=value …)
# makes `target` available, or stops with the name of what is missing. FETCH_TARGET is what the
# fetched sources call it, if that is another name.
function(krait_dependency name)
  cmake_parse_arguments(arg "" "TARGET;PACKAGE;PKG_CONFIG;GIT;TAG;FETCH_TARGET" "OPTIONS" ${ARGN})
  set_property(GLOBAL PROPERTY krait_target_${name} ${arg_TARGET})
  if(TARGET ${arg_TARGET})
    return()
  endif()
  if(NOT KRAIT_DEPS STREQUAL "fetch")
    if(arg_PACKAGE)
      find_package(${arg_PACKAGE} QUIET)
    endif()
    if(NOT TARGET ${arg_TARGET} AND arg_PKG_CONFIG)
      find_package(PkgConfig QUIET)
      if(PkgConfig_FOUND)
        pkg_check_modules(krait_${name} QUIET IMPORTED_TARGET ${arg_PKG_CONFIG})
        if(TARGET PkgConfig::krait_${name})
          add_library(${arg_TARGET} INTERFACE IMPORTED)
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
    include(FetchContent)
    foreach(option IN LISTS arg_OPTIONS)
      string(REGEX MATCH "^([^=]+)=(.*)$" _ "${option}")
      set(${CMAKE_MATCH_1} ${CMAKE_MATCH_2})
    endforeach()
    # Static, position independent, and without a say in what krait installs.
    set(BUILD_SHARED_LIBS OFF)
    set(CMAKE_POSITION_INDEPENDENT_CODE ON)
    set(CMAKE_POLICY_DEFAULT_CMP0077 NEW)  # option() leaves the lines above alone
    set(CMAKE_POLICY_DEFAULT_CMP0126 NEW)  # and so does set(… CACHE)
    if(CMAKE_VERSION VERSION_GREATER_EQUAL 3.28)
      FetchContent_Declare(${name} GIT_REPOSITORY ${arg_GIT} GIT_TAG ${arg_TAG} GIT_SHALLOW TRUE
        EXCLUDE_FROM_ALL)
      FetchContent_MakeAvailable(${name})
    else()
      FetchContent_Declare(${name} GIT_REPOSITORY ${arg_GIT} GIT_TAG ${arg_TAG} GIT_SHALLOW TRUE)
      FetchContent_GetProperties(${name})
      string(TOLOWER ${name} lower)
      if(NOT ${lower}_POPULATED)
        FetchContent_Populate(${name})
        add_subdirectory(${${lower}_SOURCE_DIR} ${${lower}_BINARY_DIR} EXCLUDE_FROM_ALL)
      endif()
    endif()
    if(arg_FETCH_TARGET)
      add_library(${arg_TARGET} ALIAS ${arg_FETCH_TARGET})
      set_property(GLOBAL PROPERTY krait_fetched_${name} ${arg_FETCH_TARGET})
    endif()
  endif()
endfunction()

# krait_use(target HEADERS name … COMPILED name …): dependencies for the sources of the library
# `target`, and for nobody else. Header-only ones give include folders and definitions, so that an
# export of `target` need not know them. Compiled ones are linked, or, when fetched, become part of
# `target`: nobody else could find them.
function(krait_use target)
  cmake_parse_arguments(arg "" "" "HEADERS;COMPILED" ${ARGN})
  foreach(name IN LISTS arg_COMPILED)
    get_property(fetched GLOBAL PROPERTY krait_fetched_${name})
    if(fetched)
      list(APPEND arg_HEADERS ${name})
      target_sources(${target} PRIVATE $<TARGET_OBJECTS:${fetched}>)
    else()
      get_property(library GLOBAL PROPERTY krait_target_${name})
      target_link_libraries(${target} PRIVATE ${library})
    endif()
  endforeach()
  foreach(name IN LISTS arg_HEADERS)
    get_property(library GLOBAL PROPERTY krait_target_${name})
    target_include_directories(${target} SYSTEM PRIVATE
      $<TARGET_PROPERTY:${library},INTERFACE_INCLUDE_DIRECTORIES>)
    target_compile_definitions(${target} PRIVATE
      $<TARGET_PROPERTY:${library},INTERFACE_COMPILE_DEFINITIONS>)
  endforeach()
endfunction()

find_package(Threads REQUIRED)

krait_dependency(json TARGET nlohmann_json::nlohmann_json PACKAGE nlohmann_json
  GIT https://github.com/nlohmann/json.git TAG v3.12.0)
# Decompositions, for the tools alone.
krait_dependency(eigen TARGET Eigen3::Eigen PACKAGE Eigen3
  GIT https://gitlab.com/libeigen/eigen.git TAG 3.4.0 FETCH_TARGET eigen
  OPTIONS EIGEN_BUILD_DOC=OFF BUILD_TESTING=OFF EIGEN_BUILD_PKGCONFIG=OFF)
# Those with compiled code; install.cmake names them again. fmt would do without, at the price of four
# seconds of compiling for every source that formats a message.
krait_dependency(fmt TARGET krait_deps::fmt PKG_CONFIG fmt
  GIT https://github.com/fmtlib/fmt.git TAG 9.1.0 FETCH_TARGET fmt)
krait_dependency(highway TARGET krait_deps::highway PKG_CONFIG libhwy
  GIT https://github.com/google/highway.git TAG 1.2.0 FETCH_TARGET hwy
  OPTIONS HWY_ENABLE_CONTRIB=OFF HWY_ENABLE_EXAMPLES=OFF HWY_ENABLE_INSTALL=OFF
    HWY_ENABLE_TESTS=OFF HWY_FORCE_STATIC_LIBS=ON)
krait_dependency(pcre2 TARGET krait_deps::pcre2 PKG_CONFIG libpcre2-8
  GIT https://github.com/PCRE2Project/pcre2.git TAG pcre2-10.46 FETCH_TARGET pcre2-8-static
  OPTIONS PCRE2_BUILD_PCRE2GREP=OFF PCRE2_BUILD_TESTS=OFF PCRE2_STATIC_PIC=ON
    PCRE2_SUPPORT_JIT=ON PCRE2_SUPPORT_UNICODE=ON)
krait_dependency(utf8proc TARGET krait_deps::utf8proc PKG_CONFIG libutf8proc
  GIT https://github.com/JuliaStrings/utf8proc.git TAG v2.11.3 FETCH_TARGET utf8proc
  OPTIONS UTF8PROC_INSTALL=OFF UTF8PROC_ENABLE_TESTING=OFF)

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
