# cmake -DCOMPILER=… -DINCLUDE=… -DSOURCE=… -P compile_fail.cmake
set(command ${COMPILER} -std=c++20 -fsyntax-only -Werror=unused-result -I ${INCLUDE} ${SOURCE})

execute_process(COMMAND ${command} RESULT_VARIABLE result ERROR_VARIABLE output)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "the right half does not compile:\n${output}")
endif()

file(STRINGS ${SOURCE} first LIMIT_COUNT 1)
string(REGEX REPLACE "^// error: " "" expected "${first}")
execute_process(COMMAND ${command} -DKRAIT_WRONG RESULT_VARIABLE result ERROR_VARIABLE output)
if(result EQUAL 0)
  message(FATAL_ERROR "the wrong half compiles")
endif()
if(NOT output MATCHES "error: [^\n]*(${expected})")
  message(FATAL_ERROR "the wrong half fails, but not with '${expected}':\n${output}")
endif()
