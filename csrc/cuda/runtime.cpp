// Questions to the CUDA runtime, which is linked into libavflow alone: operators and Python ask it through here.
#include <cuda_runtime_api.h>

#include "kernels.h"

extern "C" {

int32_t avflow_cuda_runtime(void) { return CUDART_VERSION; }

int32_t avflow_cuda_device_count(int32_t* count) {
    const cudaError_t status = cudaGetDeviceCount(count);
    if (status != cudaSuccess) *count = 0;
    return status;
}

int32_t avflow_cuda_capability(int32_t device, int32_t* major, int32_t* minor) {
    const cudaError_t status = cudaDeviceGetAttribute(major, cudaDevAttrComputeCapabilityMajor, device);
    return status == cudaSuccess ? cudaDeviceGetAttribute(minor, cudaDevAttrComputeCapabilityMinor, device) : status;
}

const char* avflow_cuda_error_name(int32_t status) { return cudaGetErrorName(static_cast<cudaError_t>(status)); }

const char* avflow_cuda_error_text(int32_t status) { return cudaGetErrorString(static_cast<cudaError_t>(status)); }

}  // extern "C"
