// Torch's current stream, and what a launch on it may answer.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>

#include <cstdint>

#include "kernels.h"

namespace avflow {

// The stream that torch works on, asked for at the call itself. An operator argument would not do: torch.compile would
// keep the number it saw while tracing, and the graph could later be captured or run on another stream. The shim lies
// in libtorch_cuda, which a module for CPU torch must not link to; where a CUDA tensor exists, it is loaded. Torch 2.13
// has a form of this in libtorch_cpu, 2.11 and 2.12 do not.
inline void* current_stream(int32_t device) {
    using Shim = int32_t (*)(int32_t, void**);
    static const Shim shim = [] {
        void* library = dlopen("libtorch_cuda.so", RTLD_NOW | RTLD_NOLOAD);
        return library ? reinterpret_cast<Shim>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
    }();
    STD_TORCH_CHECK(shim,
                    "this torch has no aoti_torch_get_current_cuda_stream in libtorch_cuda.so: avflow's CUDA "
                    "kernels need a CUDA build of torch 2.11 or later");
    void* stream = nullptr;
    STD_TORCH_CHECK(shim(device, &stream) == 0, "torch could not tell its current stream on device ", device);
    return stream;
}

inline void check_launch(int32_t status, const char* kernel, int32_t device) {
    constexpr int32_t kNoKernelImage = 209, kUnsupportedPtx = 222;  // of cudaError_t
    STD_TORCH_CHECK(status == 0, "avflow's ", kernel, " kernel could not be launched on device ", device, ": ",
                    avflow_cuda_error_name(status), ", ", avflow_cuda_error_text(status),
                    status == kNoKernelImage || status == kUnsupportedPtx
                        ? "; `avflow doctor` lists what was compiled, AVFLOW_CUDA_ARCHS adds to it"
                        : "");
}

}  // namespace avflow
