// Launches the decoder's passes.
#include <cuda_runtime.h>

#include "cuda/passes_kernel.cuh"

namespace avflow::cuda {
namespace {

template <typename Call, typename Kernel>
int32_t launch(const Call& c, Kernel kernel, void* stream) {
    if (c.count == 0) return cudaSuccess;
    if (pass_blocks(c) > INT32_MAX) return cudaErrorInvalidConfiguration;
    kernel<<<static_cast<unsigned>(pass_blocks(c)), kPassThreads, 0, static_cast<cudaStream_t>(stream)>>>(c);
    return cudaGetLastError();
}

bool is_half(int32_t dtype) { return dtype == AVFLOW_BFLOAT16 || dtype == AVFLOW_FLOAT16; }

}  // namespace
}  // namespace avflow::cuda

using namespace avflow::cuda;

extern "C" {

int32_t avflow_rotary_cuda(const AvflowRotary* call, void* stream) {
    if (!is_half(call->dtype)) return cudaErrorInvalidValue;
    return launch(make_call(*call), rotary_for(*call), stream);
}

int32_t avflow_silu_mul_cuda(const AvflowSiluMul* call, void* stream) {
    if (!is_half(call->dtype)) return cudaErrorInvalidValue;
    const bool bf16 = call->dtype == AVFLOW_BFLOAT16;
    const auto kernel = reads_wide(*call) ? (bf16 ? silu_mul<true, kWide> : silu_mul<false, kWide>)
                                          : (bf16 ? silu_mul<true, 1> : silu_mul<false, 1>);
    return launch(make_call(*call), kernel, stream);
}

}  // extern "C"
