// The CUDA kernels behind the C interface, or the word that there are none.
#include "c/cuda.h"

#include "c/status.h"

namespace avflow::c {

#ifdef AVFLOW_HAVE_CUDA

namespace {

void check(int32_t status) {
    if (status == 0) return;
    fail(AVFLOW_DEVICE, "%s: %s", avflow_cuda_error_name(status), avflow_cuda_error_text(status));
}

}  // namespace

void require_cuda() {}

bool has_sm90a() { return avflow_hopper_tile_rows(1) > 0; }

int64_t cuda_workspace(const AvflowAttention& args, const int32_t* plan_on_host) {
    return avflow_attention_cuda_workspace(&args, plan_on_host);
}

void launch(const AvflowAttention& args, const int32_t* plan_on_host, void* stream) {
    check(avflow_attention_cuda(&args, plan_on_host, stream));
}

void launch(const AvflowGatherRmsNorm& args, void* stream) { check(avflow_gather_rms_norm_cuda(&args, stream)); }

void launch(const AvflowCompact& args, void* stream) { check(avflow_compact_cuda(&args, stream)); }

int32_t kernel_for(int32_t device, int64_t rows_and_heads) {
    int32_t major = 0, minor = 0;
    check(avflow_cuda_capability(device, &major, &minor));
    const bool hopper = has_sm90a() && major == 9 && minor == 0;
    return rows_and_heads >= (hopper ? kHopperRows : kTallRows) ? AVFLOW_CUDA_SM90A : AVFLOW_CUDA;
}

#else

void require_cuda() { fail(AVFLOW_UNSUPPORTED, "this build of libavflow has no CUDA kernels: plan for AVFLOW_CPU"); }

bool has_sm90a() { return false; }

int64_t cuda_workspace(const AvflowAttention&, const int32_t*) {
    require_cuda();
    return 0;
}

void launch(const AvflowAttention&, const int32_t*, void*) { require_cuda(); }

void launch(const AvflowGatherRmsNorm&, void*) { require_cuda(); }

void launch(const AvflowCompact&, void*) { require_cuda(); }

int32_t kernel_for(int32_t, int64_t) {
    require_cuda();
    return AVFLOW_CPU;
}

#endif

}  // namespace avflow::c
