// Launches the gathers of the eviction boundary.
#include <cuda_runtime.h>

#include "cuda/gather_kernel.cuh"

namespace avflow::cuda {
namespace {

template <bool kBf16>
void launch(const AvflowGatherRmsNorm& a, cudaStream_t stream) {
    const GatherCall c = make_call(a);
    const auto kernel = reads_wide(a) ? gather_rms_norm<kBf16, kWide> : gather_rms_norm<kBf16, 1>;
    kernel<<<static_cast<unsigned>(a.m), c.threads, static_cast<size_t>(shared_bytes(c)), stream>>>(c);
}

template <int kBytes>
void launch(const CompactCall& c, cudaStream_t stream) {
    compact<kBytes><<<static_cast<unsigned>(blocks_of(c)), kCompactThreads, 0, stream>>>(c);
}

}  // namespace
}  // namespace avflow::cuda

using namespace avflow::cuda;

extern "C" {

int32_t avflow_gather_rms_norm_cuda(const AvflowGatherRmsNorm* call, void* stream) {
    if (call->dtype != AVFLOW_BFLOAT16 && call->dtype != AVFLOW_FLOAT16) return cudaErrorInvalidValue;
    if (call->m == 0) return cudaSuccess;
    if (call->m > INT32_MAX) return cudaErrorInvalidConfiguration;  // a block each
    const auto on = static_cast<cudaStream_t>(stream);
    call->dtype == AVFLOW_BFLOAT16 ? launch<true>(*call, on) : launch<false>(*call, on);
    return cudaGetLastError();
}

int32_t avflow_compact_cuda(const AvflowCompact* call, void* stream) {
    const CompactCall c = make_call(*call);
    const auto on = static_cast<cudaStream_t>(stream);
    if (c.rows * c.units == 0) return cudaSuccess;
    switch (unit_of(*call)) {
        case 16: launch<16>(c, on); break;
        case 8: launch<8>(c, on); break;
        case 4: launch<4>(c, on); break;
        default: launch<2>(c, on);
    }
    return cudaGetLastError();
}

}  // extern "C"
