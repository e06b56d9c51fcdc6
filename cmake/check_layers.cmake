# Who may include whom: cmake -DROOT=<source tree> -P check_layers.cmake
#
# Floors include themselves and what is below them. Public headers include the standard library
# and krait, nothing else; each third-party library has its place in src/.
cmake_minimum_required(VERSION 3.24)

set(see_core core)
set(see_kernels core kernels)
set(see_io core io)
set(see_text core text)
set(see_weights core kernels io weights)
set(see_modules core kernels weights modules)
set(see_models core kernels io weights modules models)
set(see_loading core kernels io text weights modules models loading)
set(see_decoding core kernels io text weights modules models loading decoding)
set(see_training core kernels io text weights modules models loading decoding training)
set(see_tools ${see_training} tools)
set(floors core kernels io text weights modules models loading decoding tools training)

# Headers beyond these that a floor may include.
set(also_text io/json.hpp)  # one reader of untrusted JSON, with its limits, serves both wings

# Where src/ may use a third-party library.
set(places_nlohmann io)
set(places_hwy kernels training)
set(places_pcre2 text)
set(places_utf8proc text)
set(places_Eigen tools)
set(places_gtest "")
set(places_gmock "")
set(places_benchmark "")
set(places_CLI "")

set(problems "")

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/include/* ${ROOT}/src/*)
foreach(file IN LISTS files)
  if(NOT file MATCHES "\\.(hpp|inl|cpp|h|c|cc)$" OR file MATCHES "^include/krait/interop/")
    continue()
  endif()

  # The file's floor; krait.hpp stands above all of them.
  if(file STREQUAL "include/krait/version.hpp" OR file STREQUAL "include/krait/fwd.hpp")
    set(floor core)
  elseif(file MATCHES "^include/krait/([a-z]+)(/|\\.hpp$)")
    set(floor ${CMAKE_MATCH_1})
  elseif(file MATCHES "^src/([a-z]+)/")
    set(floor ${CMAKE_MATCH_1})
  else()
    set(floor "")
  endif()
  if(floor STREQUAL "krait")
    set(see ${floors})
  elseif(floor IN_LIST floors)
    set(see ${see_${floor}})
  else()
    string(APPEND problems "${file}: belongs to no floor\n")
    continue()
  endif()

  file(STRINGS ${ROOT}/${file} lines REGEX "^[ \t]*#[ \t]*include[ \t]*[<\"]")
  foreach(line IN LISTS lines)
    string(REGEX MATCH "([<\"])([^>\"]+)" _ "${line}")
    set(kind "${CMAKE_MATCH_1}")
    set(name "${CMAKE_MATCH_2}")

    if(kind STREQUAL "\"" OR name MATCHES "^krait/")
      if(name STREQUAL "krait/version.hpp" OR name STREQUAL "krait/fwd.hpp")
        set(target core)
      elseif(name MATCHES "^krait/([a-z]+)(/|\\.hpp$)")
        set(target ${CMAKE_MATCH_1})
      elseif(name MATCHES "^([a-z]+)/")
        set(target ${CMAKE_MATCH_1})
      else()
        set(target ${floor})  # a neighbour, by its bare name
      endif()
      if(NOT target IN_LIST see AND NOT name IN_LIST also_${floor})
        string(APPEND problems "${file}: ${floor} may not include ${name}\n")
      endif()
      if(file MATCHES "^include/" AND NOT name MATCHES "^krait/")
        string(APPEND problems "${file}: a public header may not include \"${name}\"\n")
      endif()
    elseif(file MATCHES "^include/")
      # The standard library's headers have neither folder nor extension.
      if(name MATCHES "[./]" OR name STREQUAL "iostream")
        string(APPEND problems "${file}: a public header may not include <${name}>\n")
      endif()
    else()
      string(REGEX MATCH "^[A-Za-z0-9]+" library "${name}")
      if(DEFINED places_${library} AND NOT floor IN_LIST places_${library})
        string(APPEND problems "${file}: src/${floor} may not include <${name}>\n")
      endif()
    endif()
  endforeach()
endforeach()

if(problems)
  message(FATAL_ERROR "includes that go the wrong way:\n${problems}")
endif()
