# The library is a polite guest: it does not end the process, print, or read the environment but
# for KRAIT_ISA, once. Kernels, training and tools neither throw nor catch: kernels are compiled the
# same with exceptions as without, the others must be able to do without.
# cmake -DROOT=<source tree> -P check_guest.cmake
cmake_minimum_required(VERSION 3.24)

string(CONCAT forbidden "[^A-Za-z0-9_]("
  "(abort|exit|_exit|_Exit|quick_exit|printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|perror"
  "|assert|getenv|secure_getenv|setenv|putenv|setlocale|signal|sigaction|system|atexit"
  "|fesetround|srand)[ \t\n]*\\(|std::(cout|cerr|clog)[^A-Za-z0-9_])")

set(exceptions "[^A-Za-z0-9_](try[ \t\n]*{|catch[ \t\n]*\\(|throw[^A-Za-z0-9_])")

set(problems "")
file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/include/* ${ROOT}/src/*)
list(FILTER files INCLUDE REGEX "\\.(hpp|inl|cpp|h|c|cc)$")
foreach(file IN LISTS files)
  file(READ ${ROOT}/${file} text)
  string(REGEX REPLACE "[][;]" " " text "${text}")
  string(REGEX REPLACE "//[^\n]*" "" text "${text}")
  string(REGEX REPLACE "/\\*([^*]|\\*+[^*/])*\\*+/" "" text "${text}")
  string(REGEX MATCHALL "${forbidden}" hits " ${text}")
  if(file STREQUAL "src/core/cpu.cpp")
    list(FILTER hits INCLUDE REGEX "getenv")
    list(LENGTH hits count)
    string(REGEX MATCH "getenv\\(\"KRAIT_ISA\"\\)" isa "${text}")
    if(count EQUAL 1 AND isa)
      string(REGEX MATCHALL "${forbidden}" hits " ${text}")
      list(FILTER hits EXCLUDE REGEX "getenv")
    endif()
  endif()
  if(file MATCHES "^(include/krait|src)/(kernels|training|tools)/")
    string(REGEX MATCHALL "${exceptions}" more " ${text}")
    list(APPEND hits ${more})
  endif()
  foreach(hit IN LISTS hits)
    string(STRIP "${hit}" hit)
    string(APPEND problems "${file}: ${hit}\n")
  endforeach()
endforeach()

if(problems)
  message(FATAL_ERROR "a library does not do this to its host:\n${problems}")
endif()
