# What the archives beside a shared library take from it is exported by it. Linkers stay silent about
# that until a program happens to load the object in question.
#   cmake -DLIBRARY=<shared library> -DARCHIVES=<a;b> -DNM=… -P check_archives.cmake
cmake_minimum_required(VERSION 3.24)

# krait's symbols in what `nm` prints with these options, one mangled name each.
function(symbols_of result)
  execute_process(COMMAND ${NM} -P ${ARGN} OUTPUT_VARIABLE output ERROR_VARIABLE ignored
    COMMAND_ERROR_IS_FATAL ANY)
  string(REGEX MATCHALL "(^|\n)_Z[A-Za-z]*N?K?5krait[^ \n]* [A-Za-z]" lines "${output}")
  list(TRANSFORM lines REPLACE "^\n?([^ ]+) .*" "\\1")
  list(REMOVE_DUPLICATES lines)
  set(${result} "${lines}" PARENT_SCOPE)
endfunction()

symbols_of(exported -D --defined-only ${LIBRARY})
symbols_of(own --defined-only ${ARCHIVES})
symbols_of(missing --undefined-only ${ARCHIVES})
list(LENGTH missing needed)
list(REMOVE_ITEM missing ${own} ${exported})
if(missing OR needed EQUAL 0)
  list(JOIN missing "\n  " missing)
  message(FATAL_ERROR "${LIBRARY} does not export, although ${ARCHIVES} need it "
    "(KRAIT_API in its declaration):\n  ${missing}")
endif()
message(STATUS "all ${needed} symbols that the archives need are there")
