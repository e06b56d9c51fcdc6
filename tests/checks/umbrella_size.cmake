# Non-blank lines of krait.hpp after preprocessing:
#   cmake -DCOMPILER=… -DINCLUDE=… -DLIMIT=… -P umbrella_size.cmake
execute_process(COMMAND ${COMPILER} -std=c++20 -I ${INCLUDE} -E -P -x c++
  ${INCLUDE}/krait/krait.hpp OUTPUT_VARIABLE text ERROR_VARIABLE errors RESULT_VARIABLE result)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${errors}")
endif()
string(REGEX REPLACE "[^\n]+" "" text "${text}")  # with -P, blank lines are few
string(LENGTH "${text}" lines)
message(STATUS "krait.hpp: ${lines} lines of at most ${LIMIT}")
if(lines GREATER LIMIT)
  message(FATAL_ERROR "krait.hpp: expected at most ${LIMIT} lines, found ${lines}")
endif()
