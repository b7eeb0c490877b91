// The gathers of an eviction behind the C interface.
#include <avflow/avflow.h>

#include <climits>

#include "c/cuda.h"
#include "c/status.h"
#include "c/threads.h"
#include "kernels.h"

using namespace avflow::c;

namespace {

bool runs_on_cpu(int32_t kernel) {
    AVFLOW_REQUIRE(kernel == AVFLOW_CPU || kernel == AVFLOW_CUDA, "kernel = %d: pass AVFLOW_CPU or AVFLOW_CUDA",
                   kernel);
    if (kernel == AVFLOW_CUDA) require_cuda();
    return kernel == AVFLOW_CPU;
}

void check_range(const int32_t* keep, int64_t count, int64_t n) {
    for (int64_t i = 0; i < count; ++i) {
        AVFLOW_REQUIRE(-1 <= keep[i] && keep[i] < n,
                       "keep holds %d, there are %lld tokens: pass positions of these, or -1 for padding", keep[i],
                       static_cast<long long>(n));
    }
}

}  // namespace

AvflowStatus avflow_gather_norm(const AvflowNorm* given) {
    return guarded([&] {
        const AvflowNorm call = read(given, "AvflowNorm");
        AVFLOW_REQUIRE(0 <= call.n && call.n <= INT32_MAX && 0 <= call.m && call.m <= INT32_MAX && 0 < call.width &&
                           call.width <= INT32_MAX,
                       "n = %lld, m = %lld, width = %lld: sizes must fit in int32, and width be 1 at least",
                       static_cast<long long>(call.n), static_cast<long long>(call.m),
                       static_cast<long long>(call.width));
        AVFLOW_REQUIRE(call.type == AVFLOW_F32 || call.type == AVFLOW_BF16 || call.type == AVFLOW_F16,
                       "type = %d: pass AVFLOW_F32, AVFLOW_BF16 or AVFLOW_F16", call.type);
        AVFLOW_REQUIRE(!call.m || (call.weight && call.keep && call.kept && call.normed && (call.x || !call.n)),
                       "x, weight, keep, kept or normed is null");
        const bool on_cpu = runs_on_cpu(call.kernel);
        AvflowGatherRmsNorm args{};
        args.x = call.x, args.weight = call.weight, args.keep = call.keep;
        args.kept = call.kept, args.normed = call.normed;
        args.n = call.n, args.m = call.m, args.width = call.width, args.x_row = call.x_row;
        args.eps = call.eps;
        args.dtype = call.type;
        hand_over(call.threads, args);
        if (on_cpu) {
            check_range(call.keep, call.m, call.n);
            avflow_gather_rms_norm_cpu(&args);
        } else {
            if (call.type == AVFLOW_F32) {
                fail(AVFLOW_UNSUPPORTED,
                     "x is float32: the CUDA kernel takes bfloat16 and float16; convert, or call on the CPU");
            }
            launch(args, call.stream);
        }
    });
}

AvflowStatus avflow_compact(const AvflowCompaction* given) {
    return guarded([&] {
        const AvflowCompaction call = read(given, "AvflowCompaction");
        AVFLOW_REQUIRE(0 <= call.batch && 0 <= call.heads && 0 <= call.n && call.n <= INT32_MAX && 0 <= call.m &&
                           0 <= call.row_bytes,
                       "batch = %lld, heads = %lld, n = %lld, m = %lld, row_bytes = %lld: none may be negative, and n "
                       "must fit in int32",
                       static_cast<long long>(call.batch), static_cast<long long>(call.heads),
                       static_cast<long long>(call.n), static_cast<long long>(call.m),
                       static_cast<long long>(call.row_bytes));
        int64_t rows = 0, bytes = 0;
        AVFLOW_REQUIRE(!__builtin_mul_overflow(call.batch, call.m, &rows) &&
                           !__builtin_mul_overflow(rows, call.heads, &rows) &&
                           !__builtin_mul_overflow(rows, call.row_bytes, &bytes),
                       "batch x heads x m x row_bytes does not fit in int64");
        AVFLOW_REQUIRE(!rows || (call.keep && call.out && (call.x || !call.n)), "x, keep or out is null");
        const bool on_cpu = runs_on_cpu(call.kernel);
        AvflowCompact args{};
        args.x = call.x, args.keep = call.keep, args.out = call.out;
        args.batch = call.batch, args.heads = call.heads, args.n = call.n, args.m = call.m;
        args.row_bytes = call.row_bytes;
        args.x_batch = call.x_batch, args.x_head = call.x_head, args.x_token = call.x_token;
        hand_over(call.threads, args);
        if (on_cpu) {
            check_range(call.keep, rows ? call.batch * call.m : 0, call.n);
            avflow_compact_cpu(&args);
        } else {
            AVFLOW_REQUIRE((call.row_bytes | call.x_batch | call.x_head | call.x_token) % 2 == 0,
                           "row_bytes and strides must be multiples of 2 bytes on CUDA");
            launch(args, call.stream);
        }
    });
}
