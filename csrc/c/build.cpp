// What this build and this machine can do.
#include <avflow/avflow.h>

#include "c/cuda.h"
#include "c/status.h"
#include "core/problem.h"
#include "kernels.h"

using namespace avflow;
using namespace avflow::c;

uint32_t avflow_version(void) { return AVFLOW_VERSION; }

AvflowStatus avflow_capabilities(AvflowCapabilities* out) {
    return guarded([&] {
        AvflowCapabilities found{};
        found.cpu = avflow_cpu_isa();
        found.cpu_built = avflow_cpu_isas();
#ifdef AVFLOW_HAVE_CUDA
        found.cuda_archs = avflow_cuda_archs();
        found.cuda_runtime = avflow_cuda_runtime();
#endif
        found.cuda_sm90a = has_sm90a();
        found.max_heads = found.max_groups = 64;
        found.max_head_dim = 256;
        found.key_tile = kKeyTile;
        write(out, found, "AvflowCapabilities");
    });
}

AvflowStatus avflow_force_cpu(const char* path) {
    return guarded([&] {
        AVFLOW_REQUIRE(path, "path is null");
        if (avflow_set_cpu_isa(path)) return;
        fail(AVFLOW_UNSUPPORTED, "this build or this processor has no path named %s; built are: %s", path,
             avflow_cpu_isas());
    });
}

AvflowStatus avflow_choose_kernel(int32_t device, int64_t rows, int32_t heads, int32_t kv_heads, int32_t* kernel) {
    return guarded([&] {
        AVFLOW_REQUIRE(kernel, "kernel is null: it receives the kernel");
        AVFLOW_REQUIRE(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads <= 64,
                       "%d query heads over %d kv heads: must divide evenly, 64 at most", heads, kv_heads);
        AVFLOW_REQUIRE(0 <= rows && rows <= INT32_MAX, "rows = %lld", static_cast<long long>(rows));
        *kernel = kernel_for(device, rows * (heads / kv_heads));
    });
}
