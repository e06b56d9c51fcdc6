# The Debian package holds the library, its headers, the CMake and pkg-config files, the program
# and the models: cmake -DBINARY=<build folder> -DCPACK=… -DDPKG_DEB=… -DPROGRAM=<0 or 1> -P …
cmake_minimum_required(VERSION 3.24)

set(folder ${BINARY}/packaging/deb)
file(REMOVE_RECURSE ${folder})
execute_process(COMMAND ${CPACK} -G DEB -B ${folder} --config ${BINARY}/CPackConfig.cmake
  OUTPUT_QUIET COMMAND_ERROR_IS_FATAL ANY)
file(GLOB package ${folder}/*.deb)
execute_process(COMMAND ${DPKG_DEB} -c ${package} OUTPUT_VARIABLE content
  COMMAND_ERROR_IS_FATAL ANY)
execute_process(COMMAND ${DPKG_DEB} -f ${package} Depends OUTPUT_VARIABLE depends
  COMMAND_ERROR_IS_FATAL ANY)
set(expected usr/lib/.*libkrait\\. usr/lib/.*libkrait_tools\\.a usr/include/krait/krait\\.hpp krait-config\\.cmake
  krait-targets\\.cmake krait\\.pc
  krait-tools\\.pc)
set(expected_depends "")
if(PROGRAM)
  list(APPEND expected usr/bin/krait usr/share/krait/models/)
  list(APPEND expected_depends libc6)
endif()
if(STATIC)
  list(APPEND expected_depends libfmt-dev libhwy-dev libpcre2-dev libutf8proc-dev)
endif()
foreach(pattern IN LISTS expected)
  if(NOT content MATCHES "${pattern}")
    message(FATAL_ERROR "${package} lacks ${pattern}:\n${content}")
  endif()
endforeach()
foreach(pattern IN LISTS expected_depends)
  if(NOT depends MATCHES "${pattern}")
    message(FATAL_ERROR "${package} does not depend on ${pattern}: ${depends}")
  endif()
endforeach()
