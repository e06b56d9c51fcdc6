# Lines per floor against their budgets (printed), and the limit of a single file (enforced), which
# is lower in the library than in tests and programs:
#   cmake -DROOT=<source tree> -P count_lines.cmake
cmake_minimum_required(VERSION 3.24)

set(file_limit 800)
set(budgets core=2500 kernels=9000 io=3000 text=5000 weights=2000 modules=3000 models=3000 loading=3000
  decoding=5000 tools=7000 training=6000)

# count(file result): its lines
function(count file result)
  file(READ ${file} text)
  string(REGEX REPLACE "[^\n]+" "" text "${text}")
  string(LENGTH "${text}" lines)
  set(${result} ${lines} PARENT_SCOPE)
endfunction()

set(library_limit 600)
set(problems "")
file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/include/* ${ROOT}/src/* ${ROOT}/tests/*
  ${ROOT}/bench/* ${ROOT}/examples/* ${ROOT}/cmake/*)
list(FILTER files INCLUDE REGEX "\\.(hpp|inl|cpp|h|c|cc|cmake|sh)$")
foreach(file IN LISTS files)
  count(${ROOT}/${file} lines)
  set(limit ${file_limit})
  if(file MATCHES "^(include|src)/")
    set(limit ${library_limit})
  endif()
  if(lines GREATER limit)
    string(APPEND problems "${file}: ${lines} lines, at most ${limit}\n")
  endif()
  if(file MATCHES "^include/krait/([a-z]+)[/.]")
    set(floor ${CMAKE_MATCH_1})
  elseif(file MATCHES "^src/([a-z]+)/")
    set(floor ${CMAKE_MATCH_1})
  else()
    continue()
  endif()
  math(EXPR lines_${floor} "0 + 0${lines_${floor}} + ${lines}")
endforeach()

foreach(entry IN LISTS budgets)
  string(REPLACE "=" ";" entry ${entry})
  list(GET entry 0 floor)
  list(GET entry 1 budget)
  math(EXPR lines "0${lines_${floor}}")
  set(note "")
  if(lines GREATER budget)
    set(note "  over budget")
  endif()
  message(STATUS "${floor}: ${lines} of ${budget} lines${note}")
endforeach()

if(problems)
  message(FATAL_ERROR "expected shorter files, found\n${problems}")
endif()
