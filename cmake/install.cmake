# What `cmake --install` puts where, and how others find it: find_package(avflow) and pkg-config.
include(CMakePackageConfigHelpers)

if(AVFLOW_PACKAGE)
  set(CMAKE_INSTALL_LIBDIR lib)
  set(AVFLOW_CMAKE_DIR share/cmake/avflow)
  set(AVFLOW_PKGCONFIG_DIR share/pkgconfig)
  set(namelink NAMELINK_SKIP)
else()
  set(AVFLOW_CMAKE_DIR "${CMAKE_INSTALL_LIBDIR}/cmake/avflow")
  set(AVFLOW_PKGCONFIG_DIR "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
  set(namelink "")
endif()

install(TARGETS avflow EXPORT avflowTargets ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}"
                                            LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" ${namelink})
install(DIRECTORY csrc/include/avflow DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
if(AVFLOW_TORCH)
  install(TARGETS avflow_torch LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
endif()

install(EXPORT avflowTargets NAMESPACE avflow:: DESTINATION "${AVFLOW_CMAKE_DIR}")
configure_package_config_file(cmake/avflowConfig.cmake.in avflowConfig.cmake INSTALL_DESTINATION "${AVFLOW_CMAKE_DIR}")
write_basic_package_version_file(avflowConfigVersion.cmake COMPATIBILITY SameMinorVersion)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/avflowConfig.cmake" "${CMAKE_CURRENT_BINARY_DIR}/avflowConfigVersion.cmake"
        DESTINATION "${AVFLOW_CMAKE_DIR}")

# Both paths are relative to the .pc file, so that the folder can be moved.
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX BASE_DIRECTORY "${CMAKE_INSTALL_PREFIX}/${AVFLOW_PKGCONFIG_DIR}"
           OUTPUT_VARIABLE AVFLOW_PREFIX_FROM_PC)
if(BUILD_SHARED_LIBS)
  # By its whole name: a package has no libavflow.so to go by.
  set(AVFLOW_LINK "-L\${libdir} -l:libavflow.so.${AVFLOW_ABI}")
else()
  set(AVFLOW_LINK "-L\${libdir} -lavflow -lstdc++ -lm -pthread")
  if(AVFLOW_CUDA)
    string(APPEND AVFLOW_LINK " ${AVFLOW_CUDART} -ldl -lrt")
  endif()
endif()
configure_file(cmake/avflow.pc.in avflow.pc @ONLY)
install(FILES "${CMAKE_CURRENT_BINARY_DIR}/avflow.pc" DESTINATION "${AVFLOW_PKGCONFIG_DIR}")
