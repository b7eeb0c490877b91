// Launches the tall kernel.
#include <cuda_runtime.h>

#include "cuda/tall_kernel.cuh"

namespace avflow::cuda {
namespace {

template <bool kBf16, int kDepth>
cudaError_t launch(const Call& c, const Header& h, cudaStream_t stream) {
    const int bytes = static_cast<int>(tall_shared_bytes(c));
    const auto kernel = c.mass_groups ? attend_tall<kBf16, kDepth, true> : attend_tall<kBf16, kDepth, false>;
    const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (allowed != cudaSuccess) return allowed;
    kernel<<<static_cast<unsigned>(blocks_of(c, h)), kThreads, bytes, stream>>>(c);
    return cudaGetLastError();
}

}  // namespace

int32_t launch_tall(const Call& given, const Header& h, bool bf16, void* stream) {
    const Call c = in_one_part(given);
    const auto on = static_cast<cudaStream_t>(stream);
    if (c.depth == 64) return bf16 ? launch<true, 64>(c, h, on) : launch<false, 64>(c, h, on);
    return bf16 ? launch<true, 128>(c, h, on) : launch<false, 128>(c, h, on);
}

}  // namespace avflow::cuda
