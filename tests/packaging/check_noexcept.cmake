# A library without exceptions neither throws nor catches: cmake -DLIBRARY=… -DNM=… -P …
cmake_minimum_required(VERSION 3.24)

execute_process(COMMAND ${NM} -A -P -u ${LIBRARY}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX MATCHALL "[^/\n]*: (__cxa_(allocate_exception|throw|rethrow|begin_catch)|_Unwind_Resume)" bad
  "${symbols}")
string(REGEX MATCHALL "\n" lines "${symbols}")
list(LENGTH lines count)
if(bad OR count LESS 100)
  list(JOIN bad "\n  " bad)
  message(FATAL_ERROR "${LIBRARY}: ${count} symbols, among them\n  ${bad}")
endif()
