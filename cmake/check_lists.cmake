# Every file is in a list, and every listed file exists: cmake -DROOT=<tree> -P check_lists.cmake
#
# A source, test, bench or example must be named in a CMakeLists.txt of its folder or of one above
# it; a public header in the one of its floor. Headers outside include/ may instead be included by
# some file.
cmake_minimum_required(VERSION 3.24)

get_filename_component(ROOT "${ROOT}" ABSOLUTE)
set(pattern "\\.(hpp|inl|cpp|h|c|cc)$")
set(problems "")

# Names in the lists, as absolute paths.
set(listed "")
file(GLOB_RECURSE lists ${ROOT}/src/CMakeLists.txt ${ROOT}/tests/CMakeLists.txt
  ${ROOT}/bench/CMakeLists.txt ${ROOT}/examples/CMakeLists.txt)
foreach(list IN LISTS lists)
  cmake_path(GET list PARENT_PATH folder)
  file(READ ${list} text)
  string(REGEX REPLACE "#[^\n]*" "" text "${text}")
  string(REPLACE "\${PROJECT_SOURCE_DIR}" "${ROOT}" text "${text}")
  string(REPLACE "\${KRAIT_SOURCE}" "${ROOT}" text "${text}")
  string(REGEX REPLACE "\\\${CMAKE_CURRENT_(SOURCE|LIST)_DIR}" "${folder}" text "${text}")
  string(REGEX REPLACE "[][\\]" "" text "${text}")
  string(REGEX REPLACE "[ \t\n()\"']+" ";" words "${text}")
  foreach(word IN LISTS words)
    if(word STREQUAL "" OR word MATCHES "[$<>*]")
      continue()
    endif()
    cmake_path(ABSOLUTE_PATH word BASE_DIRECTORY ${folder} NORMALIZE OUTPUT_VARIABLE path)
    if(NOT word MATCHES "${pattern}")
      # A stem in a loop over examples or tests.
      if(word MATCHES "^[A-Za-z0-9_/]+$" AND EXISTS ${path}.cpp)
        list(APPEND listed ${path}.cpp)
      elseif(word MATCHES "^[A-Za-z0-9_/]+$" AND EXISTS ${path}_test.cpp)
        list(APPEND listed ${path}_test.cpp)
      endif()
    elseif(EXISTS ${path})
      list(APPEND listed ${path})
    elseif(list MATCHES "/src/[a-z]+/CMakeLists.txt$" AND EXISTS ${ROOT}/include/krait/${word})
      list(APPEND listed ${ROOT}/include/krait/${word})
    else()
      cmake_path(RELATIVE_PATH list BASE_DIRECTORY ${ROOT} OUTPUT_VARIABLE short)
      string(APPEND problems "${short} names ${word}, which does not exist\n")
    endif()
  endforeach()
endforeach()

file(GLOB_RECURSE files ${ROOT}/include/* ${ROOT}/src/* ${ROOT}/tests/* ${ROOT}/bench/*
  ${ROOT}/examples/*)
list(FILTER files INCLUDE REGEX "${pattern}")

set(included "")
foreach(file IN LISTS files)
  file(STRINGS ${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*\"")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "\"([^\"]+)" _ "${line}")
    cmake_path(GET file PARENT_PATH folder)
    list(APPEND included ${folder}/${CMAKE_MATCH_1} ${ROOT}/${CMAKE_MATCH_1}
      ${ROOT}/src/${CMAKE_MATCH_1})
  endforeach()
endforeach()
list(REMOVE_DUPLICATES included)

foreach(file IN LISTS files)
  if(file IN_LIST listed)
    continue()
  endif()
  cmake_path(RELATIVE_PATH file BASE_DIRECTORY ${ROOT} OUTPUT_VARIABLE short)
  if(file MATCHES "\\.(hpp|inl|h)$" AND NOT short MATCHES "^include/" AND file IN_LIST included)
    continue()
  endif()
  string(APPEND problems "${short} is in no list\n")
endforeach()

if(problems)
  message(FATAL_ERROR "files and lists differ:\n${problems}")
endif()
