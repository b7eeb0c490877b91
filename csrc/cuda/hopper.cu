// Launches the Hopper kernel. Compiled for sm_90a alone, and only where the build has sm_90.
#include <cuda_runtime.h>

#include "cuda/hopper_kernel.cuh"
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

// [kv_heads, depth / 64, keys, 64] over keys or values; strides in elements.
bool encode(KeyMap* map, bool bf16, const uint16_t* at, const Call& c, int32_t keys, int64_t row, int64_t head) {
    static const Encode of_driver = find_encode();
    if (!of_driver) return false;
    const cuuint64_t sizes[4] = {64, static_cast<cuuint64_t>(keys), static_cast<cuuint64_t>(c.depth / 64),
                                 static_cast<cuuint64_t>(c.kv_heads)};
    // Of a dimension of one element torch may say any stride; the engine wants multiples of 16 bytes that are not 0.
    const auto bytes = [](int64_t stride, int64_t size) {
        return static_cast<cuuint64_t>(size > 1 ? stride * 2 : 128);
    };
    const cuuint64_t strides[3] = {bytes(row, keys), 128, bytes(head, c.kv_heads)};
    const cuuint32_t blocks = AVFLOW_FORM == 2 ? 1 : static_cast<cuuint32_t>(c.depth / 64);  // that a copy brings
    const cuuint32_t box[4] = {64, kKeyTile, blocks, 1}, steps[4] = {1, 1, 1, 1};
    return of_driver(map, bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 4,
                     const_cast<uint16_t*>(at), sizes, strides, box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE,
                     CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
                     CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE) == CUDA_SUCCESS;
}

template <bool kBf16, int kDepth>
cudaError_t launch(Call c, const Header& h, cudaStream_t stream) {
    KeyMaps maps{};
    if (c.mapped) {  // strides that the engine does not take (0, from an expanded tensor) come by cp.async
        const int32_t keys = mapped_keys(c, h);
        c.mapped = encode(&maps.keys, kBf16, c.k, c, keys, c.k_row, c.k_head) &&
                   encode(&maps.values, kBf16, c.v, c, keys, c.v_row, c.v_head);
    }
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
