# The shared library exports krait's names and nothing else: cmake -DLIBRARY=… -DNM=… -P …
cmake_minimum_required(VERSION 3.24)

execute_process(COMMAND ${NM} -DC --defined-only ${LIBRARY}
  OUTPUT_VARIABLE symbols COMMAND_ERROR_IS_FATAL ANY)
string(REGEX REPLACE "[][;]" "_" symbols "${symbols}")
string(REPLACE "\n" ";" symbols "${symbols}")
set(bad "")
set(count 0)
foreach(symbol IN LISTS symbols)
  if(symbol MATCHES "^[0-9a-f]+ . (.*)$")
    math(EXPR count "${count} + 1")
    set(name "${CMAKE_MATCH_1}")
    if(NOT name MATCHES "^(vtable for |VTT for |typeinfo (name )?for |(non-)?virtual thunk to )?krait::"
        OR name MATCHES "(fmt|nlohmann|hwy|pcre2_|utf8proc_)")
      string(APPEND bad "  ${name}\n")
    endif()
  endif()
endforeach()
if(bad OR count EQUAL 0)
  message(FATAL_ERROR "${LIBRARY}: ${count} symbols, among them\n${bad}")
endif()
message(STATUS "${count} exported symbols, all krait's")
