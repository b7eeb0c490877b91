/* libavflow: attention cut by token columns, and the gathers of an eviction. C99; no torch, no Python, no CUDA headers.
 * docs/embedding.md explains it, examples/cpp uses it.
 *
 * Errors   Every call returns an AvflowStatus; avflow_last_error() tells the calling thread's last failure in words.
 *          Nothing throws across this border, prints or aborts.
 * Threads  A plan never changes: any number of threads may use it at once. A call touches only what it is handed.
 * Memory   The library owns plans and nothing else. On the CPU a call allocates bookkeeping of a few KiB, on CUDA
 *          nothing.
 * ABI      Structs with a `size` may grow at their end, and a new field's 0 means "as before": a program built against
 *          an older header runs with a newer library. Structs without one stay. AVFLOW_ABI, and so the soname, changes
 *          when that ceases to hold. Zero every struct, then set `size` and the fields you need. */
#ifndef AVFLOW_H
#define AVFLOW_H

#include <stddef.h>
#include <stdint.h>

#define AVFLOW_VERSION 0x000200 /* of this header, 0.2.0; avflow_version() tells the library's */
#define AVFLOW_VERSION_STRING "0.2.0"
#define AVFLOW_ABI 1
#define AVFLOW_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

typedef enum AvflowStatus {
    AVFLOW_OK = 0,
    AVFLOW_INVALID = 1,     /* an argument that no build takes; the message names it */
    AVFLOW_UNSUPPORTED = 2, /* a valid call that this build, device or kernel has no code for */
    AVFLOW_NO_MEMORY = 3,
    AVFLOW_DEVICE = 4 /* the CUDA runtime failed; the message holds its words */
} AvflowStatus;

enum { AVFLOW_F32 = 0, AVFLOW_BF16 = 1, AVFLOW_F16 = 2 };        /* what a `type` may be */
enum { AVFLOW_CPU = 0, AVFLOW_CUDA = 1, AVFLOW_CUDA_SM90A = 2 }; /* what a `kernel` may be */
#define AVFLOW_ALL UINT64_MAX                                    /* every group, every head */
#define AVFLOW_EVERY_EDGE ((uint64_t)1 << 32)                    /* threshold of a cut that is not random */

AVFLOW_API uint32_t avflow_version(void);
AVFLOW_API const char* avflow_last_error(void); /* of this thread, "" before the first; valid until its next failure */

/* ---- what this build and machine can do */
typedef struct AvflowCapabilities {
    size_t size;           /* sizeof(AvflowCapabilities), set by the caller, here and in every struct that has it */
    const char* cpu;       /* the path in use, one of those; "amx", "avx512_bf16" and "neon_bf16" multiply bfloat16, and
                              leave the rest to the next that does not */
    const char* cpu_built; /* the paths there are, the fastest first: "amx avx512_bf16 avx512 avx2 portable", on aarch64
                              "neon_bf16 portable" */
    const char* cuda_archs; /* compiled in, in CMake's words: "80-real 90-real"; null in a build without CUDA */
    int32_t cuda_runtime;   /* such as 13000; 0 without CUDA */
    int32_t cuda_sm90a; /* whether the kernel of sm_90a is compiled in; else another takes AVFLOW_CUDA_SM90A's plans */
    int32_t max_heads, max_groups, max_head_dim, key_tile;
} AvflowCapabilities;
AVFLOW_API AvflowStatus avflow_capabilities(AvflowCapabilities* out);
AVFLOW_API AvflowStatus avflow_force_cpu(const char* path); /* for the whole process; for tests */
/* The kernel to plan for on CUDA device `device`: AVFLOW_CUDA_SM90A, whose tiles are large, where the rows are many
 * enough. Devices other than compute capability 9.0 take such a plan by another kernel. */
AVFLOW_API AvflowStatus avflow_choose_kernel(int32_t device, int64_t rows, int32_t heads, int32_t kv_heads,
                                             int32_t* kernel);

/* ---- threads: run(context, n, body, arg) calls body(arg, i) once for each i = 0 .. n-1, in any order, possibly at
 * once, and returns when all are done. body never throws, nor may run. Zeroed: the calling thread does everything.
 * Results do not depend on `workers`, which bounds n and is 1 at least where there is a `run`. */
typedef struct AvflowThreads {
    void (*run)(void* context, int64_t n, void (*body)(void* arg, int64_t i), void* arg);
    void* context;
    int32_t workers;
} AvflowThreads;

/* ---- the plan: who sees whom in one layer, for all its heads and calls */
typedef struct AvflowTokens { /* columns of n tokens */
    int64_t n;
    const int32_t* order;  /* increases within a stream */
    const int32_t* group;  /* 0 .. 63 */
    const int32_t* item;   /* -1: none; null: all none */
    const int32_t* stream; /* -1: padding; null: all 0 */
} AvflowTokens;

typedef struct AvflowCut {          /* hides keys of the groups `source` from rows of the groups `target` */
    uint64_t source, target, heads; /* sets: of key groups, row groups, query heads */
    uint64_t threshold;             /* edges whose 32-bit hash is below are cut: AVFLOW_EVERY_EDGE, or fewer */
    const int32_t* streams;         /* whose rows are cut; null: all */
    int64_t n_streams;
    uint32_t seed;       /* of the hash */
    int32_t other_items; /* only edges between two items that differ */
    int32_t cut_self;    /* also a token's edge to itself */
} AvflowCut;

typedef struct AvflowLayout {
    size_t size;
    AvflowTokens rows, keys;              /* keys.order null: the keys are the rows */
    const int32_t *keep_rows, *keep_keys; /* positions of those that take part; null: all */
    int64_t n_keep_rows, n_keep_keys;
    const int32_t *parent, *start; /* of each stream: -1 or a root, and the order it starts from; null: all are roots */
    int64_t n_streams;             /* 0: as many as the tokens name */
    const AvflowCut* cuts;
    int64_t n_cuts;
    const int32_t* latest_order; /* not null: each call says its rows' orders, from those here up to this one */
    int32_t groups;              /* columns of group_mass; 0: the keys' largest group + 1 */
    int32_t zero;                /* cut weights become 0 after the softmax, instead of scores -inf before it */
    /* of a later header than the fields above */
    const int32_t *row_block, *key_block; /* tokens of one block (>= 0; -1: none) see each other both ways; null: none.
                                             Where the keys are the rows, row_block serves for both */
    int32_t window;                       /* only keys of order > the row's - window are seen; 0: no window */
    int32_t window_in_blocks;             /* the window also hides keys of the row's own block */
} AvflowLayout;

typedef struct AvflowPlan AvflowPlan;
/* Checks and copies everything. *plan is null where that fails. */
AVFLOW_API AvflowStatus avflow_plan_create(const AvflowLayout* layout, int32_t kernel, int32_t heads, int32_t kv_heads,
                                           const AvflowThreads* threads, AvflowPlan** plan);
AVFLOW_API void avflow_plan_destroy(AvflowPlan* plan); /* null is fine */

typedef struct AvflowPlanInfo {
    size_t size;
    const int32_t* data; /* [words]: to copy to a device, or for torch.ops.avflow.attention as `problem` */
    int64_t words;
    int64_t rows, keys, live_tiles; /* rows and keys that take part; pairs of tiles that are not skipped */
    int32_t groups, row_tiles, key_tiles, kernel;
} AvflowPlanInfo;
AVFLOW_API AvflowStatus avflow_plan_info(const AvflowPlan* plan, AvflowPlanInfo* out);

/* ---- attention, on the CPU or on CUDA as the plan's kernel says */
typedef struct AvflowAttend {
    size_t size;
    const AvflowPlan* plan;
    const int32_t* plan_on_device; /* CUDA: the plan's words in device memory, 16-byte aligned */
    const void *q, *k, *v;         /* [rows, heads, d]; [batch, slots, kv_heads, d]; innermost stride 1 */
    void* out;                     /* [kept rows, heads, d], contiguous */
    float *lse, *group_mass;       /* [kept rows, heads], [kept rows, heads, groups]; null: not wanted */
    const int32_t* row_order;      /* [kept rows], for a plan with latest_order */
    int64_t q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head; /* strides in elements */
    int32_t batch, slots;                                                  /* capacity = the plan's keys / batch; */
    int32_t head_dim; /* key j is slot j % capacity of batch j / capacity, absent from `slots` on */
    int32_t type;
    float scale;     /* of the scores, natural-log softmax; often 1 / sqrt(d) */
    void* workspace; /* 64-byte aligned; CUDA: 256, device memory */
    size_t workspace_bytes;
    AvflowThreads threads; /* CPU */
    void* stream;          /* CUDA: a cudaStream_t. The call returns when it is launched, and can be captured */
} AvflowAttend;
/* For a call like this one, with these threads; pointers to tensors are not looked at. */
AVFLOW_API AvflowStatus avflow_attend_workspace(const AvflowAttend* call, size_t* bytes);
AVFLOW_API AvflowStatus avflow_attend(const AvflowAttend* call);

/* ---- eviction. -1 in `keep` is padding: zeros. Other positions outside are INVALID on the CPU, padding on CUDA. */
typedef struct AvflowNorm { /* kept = x[keep]; normed = kept / rms(kept), rounded to type, times weight */
    size_t size;
    const void *x, *weight;     /* [n, width], innermost stride 1; [width] */
    const int32_t* keep;        /* [m] */
    void *kept, *normed;        /* [m, width], contiguous */
    int64_t n, m, width, x_row; /* x_row: stride in elements */
    float eps;
    int32_t type, kernel; /* AVFLOW_CPU or AVFLOW_CUDA */
    AvflowThreads threads;
    void* stream;
} AvflowNorm;
AVFLOW_API AvflowStatus avflow_gather_norm(const AvflowNorm* call);

typedef struct AvflowCompaction { /* out[b, h, i] = x[b, h, keep[b, i]]: a cache of the tokens that stay */
    size_t size;
    const void* x;       /* [batch, heads, n, row], innermost stride 1 */
    const int32_t* keep; /* [batch, m] */
    void* out;           /* [batch, heads, m, row], contiguous; no part of x */
    int64_t batch, heads, n, m;
    int64_t row_bytes, x_batch, x_head, x_token; /* of one row; strides; in bytes; on CUDA multiples of 2 */
    int32_t kernel;
    AvflowThreads threads;
    void* stream;
} AvflowCompaction;
AVFLOW_API AvflowStatus avflow_compact(const AvflowCompaction* call);

#ifdef __cplusplus
}
#endif
#endif
