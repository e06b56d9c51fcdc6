# krait leaves no traces in an application that has it as a subproject, and does not let it break
# its arithmetic: cmake -DSOURCE=<krait> -DBINARY=<scratch folder> -DCOMPILER=<C++> -P guest.cmake
cmake_minimum_required(VERSION 3.24)

file(REMOVE_RECURSE ${BINARY})
file(GLOB modules RELATIVE ${SOURCE}/cmake ${SOURCE}/cmake/*.cmake)

# configure(name option …): sets `result` and `output`.
function(configure name)
  execute_process(COMMAND ${CMAKE_COMMAND} -G Ninja -S ${CMAKE_CURRENT_LIST_DIR}/guest
      -B ${BINARY}/${name} -DKRAIT_SOURCE=${SOURCE} -DCMAKE_CXX_COMPILER=${COMPILER}
      -DKRAIT_INSTALL=ON -DCMAKE_UNITY_BUILD=ON "-DMODULES=${modules}" ${ARGN}
    RESULT_VARIABLE result OUTPUT_VARIABLE output ERROR_VARIABLE output)
  set(result ${result} PARENT_SCOPE)
  string(REGEX REPLACE "[ \n]+" " " output "${output}")  # CMake breaks lines anywhere
  set(output "${output}" PARENT_SCOPE)
endfunction()

# cache(name variable): the names of the cache entries that a person sees.
function(cache name variable)
  file(STRINGS ${BINARY}/${name}/CMakeCache.txt lines REGEX "^[A-Za-z].*:[A-Z]+=")
  list(FILTER lines EXCLUDE REGEX ":(INTERNAL|STATIC)=")
  list(TRANSFORM lines REPLACE ":.*" "")
  set(${variable} ${lines} PARENT_SCOPE)
endfunction()

configure(without -DWITHOUT_KRAIT=ON)
cache(without before)
configure(with)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "an application with ways of its own is not configured:\n${output}")
endif()
file(STRINGS ${BINARY}/with/CMakeCache.txt build_type REGEX "^CMAKE_BUILD_TYPE:[A-Z]+=.")
if(build_type)
  message(FATAL_ERROR "krait chose for the application: ${build_type}")
endif()
cache(with after)
list(REMOVE_ITEM after ${before})
# Its own options, where things were found or go, and what CMake's modules ask themselves.
list(FILTER after EXCLUDE REGEX
  "^(KRAIT_|krait_|pkgcfg_lib_krait_|PKG_CONFIG_|CMAKE_INSTALL_|FETCHCONTENT_)|_DIR$")
if(after)
  message(FATAL_ERROR "krait left in the application's cache: ${after}")
endif()

# expect_refusal(option …)
function(expect_refusal)
  configure(refused ${ARGN})
  if(result EQUAL 0 OR NOT output MATCHES "expected exact arithmetic, found -[Off]")
    message(FATAL_ERROR "${ARGN} is not refused:\n${output}")
  endif()
  file(REMOVE_RECURSE ${BINARY}/refused)
endfunction()
expect_refusal(-DCMAKE_CXX_FLAGS=-ffast-math)
expect_refusal(-DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-Ofast)
expect_refusal(-DCOMPILE_OPTION=-funsafe-math-optimizations)

# The header sees what CMake cannot.
file(WRITE ${BINARY}/header.cpp "#include \"krait/core/config.hpp\"\n")
foreach(flag "" -ffast-math -Ofast -ffinite-math-only)
  execute_process(COMMAND ${COMPILER} -std=c++20 -O2 ${flag} -fsyntax-only -I${SOURCE}/include
      ${BINARY}/header.cpp RESULT_VARIABLE result ERROR_VARIABLE output)
  if(flag STREQUAL "" AND NOT result EQUAL 0)
    message(FATAL_ERROR "${output}")
  elseif(flag AND (result EQUAL 0 OR NOT output MATCHES "expected exact arithmetic"))
    message(FATAL_ERROR "${flag} is not refused:\n${output}")
  endif()
endforeach()
