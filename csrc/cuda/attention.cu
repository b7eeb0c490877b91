// Launches the attention kernels.
#include <cuda_runtime.h>

#include <atomic>
#include <string>

#include "cuda/attention_kernel.cuh"
#include "cuda/few_rows_kernel.cuh"
#include "cuda/merge_kernel.cuh"

namespace avflow::cuda {
namespace {

template <bool kBf16, int kDepth>
cudaError_t launch(const Call& c, const Header& h, cudaStream_t stream) {
    const int bytes = static_cast<int>(has_few(c) ? few_shared_bytes(c) : shared_bytes(c));
    const auto kernel = has_few(c) ? attend_few<kBf16, kDepth> : attend<kBf16, kDepth>;
    const cudaError_t allowed = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (allowed != cudaSuccess) return allowed;
    kernel<<<static_cast<unsigned>(blocks_of(c, h)), kThreads, bytes, stream>>>(c);
    return cudaGetLastError();
}

template <bool kBf16>
cudaError_t merge_parts(const Call& c, const Header& h, cudaStream_t stream) {
    if (c.splits == 1) return cudaSuccess;
    const auto rows = static_cast<unsigned>(h.row_tiles * c.kv_heads * c.tile_heads);
    const auto kernel = c.tile_heads == kFewHeads    ? merge<kBf16, kFewHeads>
                        : c.tile_heads == kTileHeads ? merge<kBf16, kTileHeads>
                                                     : merge<kBf16, kWideHeads>;
    kernel<<<rows, kThreads, merge_shared_bytes(c), stream>>>(c);
    return cudaGetLastError();
}

int32_t launch_narrow(const Call& c, const Header& h, bool bf16, cudaStream_t on) {
    if (c.depth == 64) return bf16 ? launch<true, 64>(c, h, on) : launch<false, 64>(c, h, on);
    return bf16 ? launch<true, 128>(c, h, on) : launch<false, 128>(c, h, on);
}

std::atomic<bool> tall_everywhere = false;

// Plans of large tiles are the Hopper kernel's where the current device runs it, elsewhere the tall one's.
bool takes_hopper() {
#ifdef AVFLOW_HAVE_HOPPER
    int device = 0, major = 0, minor = 0;
    return !tall_everywhere && cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) == cudaSuccess &&
           cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) == cudaSuccess && major == 9 &&
           minor == 0;
#else
    return false;
#endif
}

}  // namespace
}  // namespace avflow::cuda

using namespace avflow;
using namespace avflow::cuda;

extern "C" {

int64_t avflow_attention_cuda_workspace(const AvflowAttention* problem, const int32_t* problem_on_host) {
    const Header& h = *reinterpret_cast<const Header*>(problem_on_host);
    return workspace_bytes(make_call(*problem, h), h);
}

int32_t avflow_attention_cuda(const AvflowAttention* problem, const int32_t* problem_on_host, void* stream) {
    const Header& h = *reinterpret_cast<const Header*>(problem_on_host);
    if (!accepts(*problem, h)) return cudaErrorInvalidValue;
    if (h.rows == 0) return cudaSuccess;
    const Call c = make_call(*problem, h);
    if (blocks_of(c, h) > INT32_MAX) return cudaErrorInvalidConfiguration;
    const auto on = static_cast<cudaStream_t>(stream);
    const bool bf16 = problem->dtype == AVFLOW_BFLOAT16;
    if (is_wide(*problem, h) && !takes_hopper()) return launch_tall(c, h, bf16, stream);  // not in parts
#ifdef AVFLOW_HAVE_HOPPER
    const int32_t launched = is_wide(*problem, h) ? launch_wide(c, h, bf16, stream) : launch_narrow(c, h, bf16, on);
#else
    const int32_t launched = launch_narrow(c, h, bf16, on);
#endif
    if (launched != cudaSuccess) return launched;
    return bf16 ? merge_parts<true>(c, h, on) : merge_parts<false>(c, h, on);
}

int32_t avflow_cuda_tile_rows(int32_t heads_per_kv_head) { return tile_rows(heads_per_kv_head); }

int32_t avflow_tall_tile_rows(int32_t heads_per_kv_head) { return wide_tile_rows(heads_per_kv_head); }

void avflow_tall_force(int32_t force) { tall_everywhere = force != 0; }

int32_t avflow_hopper_tile_rows([[maybe_unused]] int32_t heads_per_kv_head) {
#ifdef AVFLOW_HAVE_HOPPER
    return wide_tile_rows(heads_per_kv_head);
#else
    return 0;
#endif
}

const char* avflow_cuda_archs(void) {
#ifdef AVFLOW_CUDA_ARCHS
    return AVFLOW_CUDA_ARCHS;
#else
    static const std::string archs = [] {  // nvcc's own list: 800,900
        std::string list;
        for (const int arch : {__CUDA_ARCH_LIST__}) list += (list.empty() ? "" : ",") + std::to_string(arch / 10);
        return list;
    }();
    return archs.c_str();
#endif
}

}  // extern "C"
