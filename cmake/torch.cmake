# The target torch_stable: headers and libraries of an installed torch, for what uses its stable ABI alone.

# find_package(Torch) is avoided on purpose: it asks for the CUDA toolkit under a CUDA torch and drags in libtorch_python.
if(NOT AVFLOW_TORCH_DIR)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c
            "from importlib.util import find_spec as f; print(f('torch').submodule_search_locations[0])"
    OUTPUT_VARIABLE AVFLOW_TORCH_DIR OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
if(NOT EXISTS "${AVFLOW_TORCH_DIR}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "No stable-ABI headers in '${AVFLOW_TORCH_DIR}': avflow is built against torch 2.11 or newer")
endif()
message(STATUS "torch: ${AVFLOW_TORCH_DIR}")

add_library(torch_stable INTERFACE)
target_include_directories(torch_stable SYSTEM INTERFACE "${AVFLOW_TORCH_DIR}/include")
# The oldest torch whose stable ABI is used: the same binary runs on every torch from 2.11 on.
target_compile_definitions(torch_stable INTERFACE TORCH_TARGET_VERSION=0x020b000000000000)
target_link_libraries(torch_stable INTERFACE "${AVFLOW_TORCH_DIR}/lib/libtorch_cpu${CMAKE_SHARED_LIBRARY_SUFFIX}"
                                             "${AVFLOW_TORCH_DIR}/lib/libc10${CMAKE_SHARED_LIBRARY_SUFFIX}")
