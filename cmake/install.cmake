# What `cmake --install` writes, what a build tree exports, and the Debian package.
include(CMakePackageConfigHelpers)

set(krait_config_dir ${CMAKE_INSTALL_LIBDIR}/cmake/krait)

# The compiled dependencies that a consumer has to link: those of a static krait and of krait_tools,
# unless fetched (then they are inside). Pairs of the target in the export and the library's name,
# and the names that pkg-config and Debian have for them.
set(krait_link_libraries "")
set(krait_pc_modules "")
set(krait_tools_pc_modules "")
set(krait_dev_packages "")
foreach(entry "fmt fmt fmt libfmt-dev" "highway hwy libhwy libhwy-dev"
    "pcre2 pcre2-8 libpcre2-8 libpcre2-dev" "utf8proc utf8proc libutf8proc libutf8proc-dev")
  separate_arguments(entry)
  list(POP_FRONT entry name library module package)
  get_property(fetched GLOBAL PROPERTY krait_fetched_${name})
  if(fetched)
    continue()
  endif()
  if(name STREQUAL "fmt")
    list(APPEND krait_tools_pc_modules ${module})
  endif()
  if(name STREQUAL "fmt" OR NOT BUILD_SHARED_LIBS)
    list(APPEND krait_link_libraries krait_deps::${name}=${library})
    list(APPEND krait_dev_packages ${package})
  endif()
  if(NOT BUILD_SHARED_LIBS)
    list(APPEND krait_pc_modules ${module})
  endif()
endforeach()

install(TARGETS krait krait_tools krait_training EXPORT krait-targets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR}
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR}
  FILE_SET headers DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT krait-targets NAMESPACE krait:: DESTINATION ${krait_config_dir})

configure_package_config_file(${CMAKE_CURRENT_LIST_DIR}/krait-config.cmake.in
  ${PROJECT_BINARY_DIR}/krait-config.cmake INSTALL_DESTINATION ${krait_config_dir})
write_basic_package_version_file(${PROJECT_BINARY_DIR}/krait-config-version.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/krait-config.cmake
  ${PROJECT_BINARY_DIR}/krait-config-version.cmake DESTINATION ${krait_config_dir})

# find_package(krait) with krait_DIR set to the build tree.
export(EXPORT krait-targets NAMESPACE krait:: FILE ${PROJECT_BINARY_DIR}/krait-targets.cmake)

# krait.pc, krait-tools.pc and krait-training.pc. Only one form is installed, so what a static krait needs is required
# outright: the link line is right with and without --static.
file(RELATIVE_PATH krait_pc_prefix /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" krait_pc_prefix "${krait_pc_prefix}")
list(JOIN krait_pc_modules ", " krait_pc_requires)
list(JOIN krait_tools_pc_modules ", " krait_tools_pc_requires)
if(krait_tools_pc_requires)
  string(PREPEND krait_tools_pc_requires ", ")
endif()
if(krait_pc_requires)
  string(PREPEND krait_pc_requires "Requires: ")
endif()
if(BUILD_SHARED_LIBS)
  set(krait_pc_libs "\nLibs.private: ${CMAKE_THREAD_LIBS_INIT}")
  set(krait_pc_cflags " -DKRAIT_SHARED")
else()
  set(krait_pc_libs " ${CMAKE_THREAD_LIBS_INIT}")
  set(krait_pc_cflags "")
endif()
if(KRAIT_PROFILE)
  string(APPEND krait_pc_cflags " -DKRAIT_PROFILE")
endif()
foreach(name krait krait-tools krait-training)
  configure_file(${CMAKE_CURRENT_LIST_DIR}/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()

if(TARGET krait_cli)
  file(RELATIVE_PATH krait_lib_from_bin /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(krait_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${krait_lib_from_bin}")
  install(TARGETS krait_cli DESTINATION ${CMAKE_INSTALL_BINDIR})
endif()
if(EXISTS ${PROJECT_SOURCE_DIR}/examples/models)
  install(DIRECTORY ${PROJECT_SOURCE_DIR}/examples/models/
    DESTINATION ${CMAKE_INSTALL_DATADIR}/krait/models)
endif()
install(FILES ${PROJECT_SOURCE_DIR}/LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR})

# cpack: a Debian package with everything, and an archive.
if(PROJECT_IS_TOP_LEVEL)
  set(CPACK_GENERATOR DEB TGZ)
  set(CPACK_PACKAGE_NAME krait)
  set(CPACK_PACKAGE_VENDOR krait)
  set(CPACK_PACKAGE_CONTACT "The krait authors <krait@localhost>")
  set(CPACK_PACKAGE_DESCRIPTION_SUMMARY ${PROJECT_DESCRIPTION})
  set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
  set(CPACK_STRIP_FILES ON)
  set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
  set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
  set(CPACK_DEBIAN_PACKAGE_SECTION libdevel)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS ON)
  set(CPACK_DEBIAN_PACKAGE_SHLIBDEPS_PRIVATE_DIRS ${PROJECT_BINARY_DIR}/src)
  list(JOIN krait_dev_packages ", " CPACK_DEBIAN_PACKAGE_DEPENDS)
  include(CPack)
endif()
