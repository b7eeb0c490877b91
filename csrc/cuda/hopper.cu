// Launches the Hopper kernel. Compiled for sm_90a alone, and only where the build has sm_90.
#include <cuda_runtime.h>

#include "cuda/hopper_kernel.cuh"
#include "cuda/key_map.h"
#if AVFLOW_FORM == 2
#include "cuda/pairs_kernel.cuh"
#endif

namespace avflow::cuda {
namespace {

// The driver's own function, asked of it by name: the module does not link to the driver.
using Encode = decltype(&cuTensorMapEncodeTiled);

Encode find_encode() {
    void* found = nullptr;
    cudaDriverEntryPointQueryResult result;
#if CUDART_VERSION >= 12050
    const cudaError_t status =
        cudaGetDriverEntryPointByVersion("cuTensorMapEncodeTiled", &found, 12000, cudaEnableDefault, &result);
#else
    const cudaError_t status = cudaGetDriverEntryPoint("cuTensorMapEncodeTiled", &found, cudaEnableDefault, &result);
#endif
    const bool there = status == cudaSuccess && result == cudaDriverEntryPointSuccess;
    return there ? reinterpret_cast<Encode>(found) : nullptr;
}

bool encode(KeyMap* map, bool bf16, const uint16_t* at, const MapShape& shape) {
    static const Encode of_driver = find_encode();
    if (!of_driver) return false;
    const cuuint64_t* const sizes = reinterpret_cast<const cuuint64_t*>(shape.sizes);
    const cuuint64_t* const strides = reinterpret_cast<const cuuint64_t*>(shape.strides);
    const cuuint32_t steps[4] = {1, 1, 1, 1};
    return of_driver(map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
                     const_cast<uint16_t*>(at), sizes, strides, shape.box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <bool kBf16, int kDepth>
cudaError_t launch(Call c, const Header& h, cudaStream_t stream) {
    const int32_t blocks = AVFLOW_FORM == 2 ? 1 : kDepth / 64;
    const auto maps = make_maps<KeyMaps>(c, h, blocks, [](KeyMap* map, const uint16_t* at, const MapShape& shape) {
        return encode(map, kBf16, at, shape);
    });
    int bytes = static_cast<int>(wide_shared_bytes(c));
    auto kernel = attend_wide<kBf16, kDepth>;
#if AVFLOW_FORM == 2
    if (c.mapped) {
        bytes = static_cast<int>(pair_shared_bytes(c));
        kernel = attend_pairs<kBf16, kDepth>;
    }
#endif
    const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (allowed != cudaSuccess) return allowed;
    kernel<<<static_cast<unsigned>(blocks_of(c, h)), kWideThreads, bytes, stream>>>(c, maps);
    return cudaGetLastError();
}

}  // namespace

int32_t launch_wide(const Call& c, const Header& h, bool bf16, void* stream) {
    const auto on = static_cast<cudaStream_t>(stream);
    if (c.depth == 64) return bf16 ? launch<true, 64>(c, h, on) : launch<false, 64>(c, h, on);
    return bf16 ? launch<true, 128>(c, h, on) : launch<false, 128>(c, h, on);
}

}  // namespace avflow::cuda
