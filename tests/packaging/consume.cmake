# Builds a consumer of krait and runs it, if there is a model to run it with:
#   cmake -DPROJECT=<source folder> -DBINARY=<build folder> [-DOPTIONS=<a;b>] [-DTARGET=<target>]
#         [-DMODEL=<checkpoint>] -P consume.cmake
function(run)
  execute_process(COMMAND ${ARGN} RESULT_VARIABLE result OUTPUT_VARIABLE output
    ERROR_VARIABLE output)
  if(NOT result EQUAL 0)
    message(FATAL_ERROR "${ARGN}:\n${output}")
  endif()
  set(output "${output}" PARENT_SCOPE)
endfunction()

set(build_arguments "")
if(TARGET)
  set(build_arguments --target ${TARGET})
endif()
run(${CMAKE_COMMAND} -G Ninja -S ${PROJECT} -B ${BINARY} ${OPTIONS})
run(${CMAKE_COMMAND} --build ${BINARY} ${build_arguments})

if(TARGET AND MODEL AND EXISTS ${MODEL})
  run(${BINARY}/${TARGET} ${MODEL})
  string(REGEX MATCHALL "\n" lines "${output}")
  list(LENGTH lines count)
  if(count LESS 2)
    message(FATAL_ERROR "expected two texts, found:\n${output}")
  endif()
endif()
