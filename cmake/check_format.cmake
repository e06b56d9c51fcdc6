# The sources are as clang-format 14 leaves them: cmake -DROOT=<source tree> -P check_format.cmake
# Other versions format differently, so without that one there is nothing to say.
cmake_minimum_required(VERSION 3.24)

find_program(clang_format NAMES clang-format-14 clang-format)
if(clang_format)
  execute_process(COMMAND ${clang_format} --version OUTPUT_VARIABLE version)
endif()
if(NOT version MATCHES "version 14\\.")
  message(STATUS "clang-format 14 not found")
  return()
endif()

file(GLOB_RECURSE files ${ROOT}/include/* ${ROOT}/src/* ${ROOT}/tests/* ${ROOT}/bench/*
  ${ROOT}/examples/*)
list(FILTER files INCLUDE REGEX "\\.(hpp|inl|cpp)$")
list(FILTER files EXCLUDE REGEX "examples/one_page_mamba\\.cpp$")
execute_process(COMMAND ${clang_format} --dry-run --Werror --style=file ${files}
  RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${output}")
endif()
