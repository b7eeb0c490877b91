// The kernels as libavflow_torch and _C call them: plain structs and extern "C" functions, no torch, no CUDA types.
// Nothing is checked here. Private to one version of avflow; include/avflow/avflow.h is for everybody else.
#pragma once

#include <cstdint>

#pragma GCC visibility push(default)  // the version script decides what leaves the library (c/libavflow.map.in)
extern "C" {

enum AvflowDtype { AVFLOW_FLOAT32 = 0, AVFLOW_BFLOAT16 = 1, AVFLOW_FLOAT16 = 2 };

// Runs body(arg, worker) for worker = 0 .. workers - 1, possibly at once; returns when all are done.
typedef void (*AvflowParallel)(void* context, int64_t workers, void (*body)(void* arg, int64_t worker), void* arg);

typedef struct AvflowAttention {
    const void* q;      // [rows, heads, d], innermost stride 1
    const void* k;      // [batch, slots, kv_heads, d]; key j of the problem is slot j % capacity of batch j / capacity
    const void* v;      // the same
    void* out;          // [kept rows, heads, d], contiguous
    float* lse;         // [kept rows, heads] or null
    float* group_mass;  // [kept rows, heads, groups] or null
    const int32_t* problem;    // the packed problem of core/problem.h
    const int32_t* row_order;  // [kept rows] orders, where the problem was packed for a range of them; else null
    int64_t q_row, q_head;     // strides in elements
    int64_t k_batch, k_row, k_head;
    int64_t v_batch, v_row, v_head;
    int32_t capacity, slots;  // of a batch: in the problem, >= 1, and in the tensors, capacity at most
    int32_t heads, kv_heads, head_dim;
    int32_t dtype;  // AvflowDtype
    float scale;    // of the scores, natural-log softmax
    int32_t workers;
    AvflowParallel parallel;
    void* parallel_context;
    void* workspace;  // 64-byte aligned, avflow_attention_workspace() bytes
} AvflowAttention;

// Rows of one tile for this ratio of heads to kv_heads, so that rows x heads fill the kernel's tile.
int32_t avflow_tile_rows(int32_t heads_per_kv_head);
int64_t avflow_attention_workspace(const AvflowAttention* problem);
void avflow_attention_cpu(const AvflowAttention* problem);

// kept[i] = x[keep[i]] (+ residual[keep[i]], rounded to dtype) and normed[i] = its RMS norm times weight, as
// transformers' Qwen2RMSNorm rounds it: normalised in float32, rounded to dtype, multiplied by weight. Rows where keep
// is no row of x are zero.
typedef struct AvflowGatherRmsNorm {
    const void* x;         // [n, width], innermost stride 1
    const void* residual;  // the same, or null: nothing is added
    const void* weight;    // [width], contiguous
    const int32_t* keep;   // [m], or null: all rows in order, m = n
    void* kept;            // [m, width], contiguous; null where neither keep nor residual is given and nobody wants it
    void* normed;          // [m, width], contiguous
    int64_t n, m, width;
    int64_t x_row, residual_row;  // strides in elements
    float eps;
    int32_t dtype;
    int32_t workers;
    AvflowParallel parallel;
    void* parallel_context;
} AvflowGatherRmsNorm;

void avflow_gather_rms_norm_cpu(const AvflowGatherRmsNorm* call);

// out[b, h, i] = x[b, h, keep[b, i]], zero where keep is no row of x.
typedef struct AvflowCompact {
    const void* x;        // [batch, heads, n, d], innermost stride 1
    const int32_t* keep;  // [batch, m], contiguous
    void* out;            // [batch, heads, m, d], contiguous
    int64_t batch, heads, n, m;
    int64_t row_bytes;                 // of d elements
    int64_t x_batch, x_head, x_token;  // strides in bytes
    int32_t workers;
    AvflowParallel parallel;
    void* parallel_context;
} AvflowCompact;

void avflow_compact_cpu(const AvflowCompact* call);

// Rotary embedding of q and k: x * cos + rotate_half(x) * sin. With tables of dtype both products and their sum are
// rounded to it, as in transformers' decoders; with tables in float32 the sum alone, as in its vision towers.
typedef struct AvflowRotary {
    const void* q;    // [rows, heads, d], d even, innermost stride 1
    const void* k;    // [rows, kv_heads, d], the same
    const void* cos;  // [rows, d], innermost stride 1
    const void* sin;  // the same
    void* q_out;      // [rows, heads, d], contiguous
    void* k_out;      // [rows, kv_heads, d], contiguous
    int64_t rows;
    int64_t q_row, q_head, k_row, k_head, cos_row, sin_row;  // strides in elements
    int32_t heads, kv_heads, head_dim;
    int32_t dtype;
    int32_t table_dtype;  // of cos and sin: dtype, or AVFLOW_FLOAT32
    int32_t workers;
    AvflowParallel parallel;
    void* parallel_context;
} AvflowRotary;

void avflow_rotary_cpu(const AvflowRotary* call);

// out = silu(gate) * up; silu in float32, rounded to dtype, then the product.
typedef struct AvflowSiluMul {
    const void* gate;  // [rows, width], innermost stride 1
    const void* up;    // the same
    void* out;         // [rows, width], contiguous
    int64_t rows, width;
    int64_t gate_row, up_row;  // strides in elements
    int32_t dtype;
    int32_t workers;
    AvflowParallel parallel;
    void* parallel_context;
} AvflowSiluMul;

void avflow_silu_mul_cpu(const AvflowSiluMul* call);

// One of avflow_cpu_isas(): what this processor runs. With "amx" and "avx512_bf16" other dtypes than bfloat16, and
// other ops than attention, take avx512; with "neon_bf16" they take portable.
const char* avflow_cpu_isa(void);
const char* avflow_cpu_isas(void);  // compiled in, the fastest first: "amx avx512_bf16 avx512 avx2 portable" or, on
                                    // aarch64, "neon_bf16 portable"
// Forces a path (for tests and measurements). Returns 0 if this processor or this build cannot run it.
int32_t avflow_set_cpu_isa(const char* name);

// CUDA, compiled in on request only: bfloat16 and float16, head_dim 64 or 128. `problem_on_host` is the packed problem
// in host memory, of avflow_cuda_tile_rows() rows a tile or fewer, or of avflow_tall_tile_rows() for many rows: those
// go to the kernel that only a device of compute capability 9.0 runs, and elsewhere to the tall one; `workers` and
// `parallel` are not used.
int64_t avflow_attention_cuda_workspace(const AvflowAttention* problem, const int32_t* problem_on_host);
// `problem->problem`, q, k, v, out, lse, group_mass and workspace are device pointers; q, k, v and out are 16-byte
// aligned and strides are multiples of 8 elements. Launches on `stream` (a cudaStream_t) and returns at once; nothing
// is allocated. Returns a cudaError_t as int: 0, or cudaErrorInvalidValue (1) for what the kernel does not take.
int32_t avflow_attention_cuda(const AvflowAttention* problem, const int32_t* problem_on_host, void* stream);
int32_t avflow_cuda_tile_rows(int32_t heads_per_kv_head);
int32_t avflow_tall_tile_rows(int32_t heads_per_kv_head);
int32_t avflow_hopper_tile_rows(int32_t heads_per_kv_head);  // the same, or 0 where that kernel was not compiled in
void avflow_tall_force(int32_t force);  // 1: the tall kernel also where the other runs (for tests and measurements)
// The same with device pointers; all but compact take bfloat16 and float16 alone.
int32_t avflow_gather_rms_norm_cuda(const AvflowGatherRmsNorm* call, void* stream);
int32_t avflow_compact_cuda(const AvflowCompact* call, void* stream);
int32_t avflow_rotary_cuda(const AvflowRotary* call, void* stream);
int32_t avflow_silu_mul_cuda(const AvflowSiluMul* call, void* stream);
const char* avflow_cuda_archs(void);  // compiled in, such as "80,90,100,120"
// What the runtime that is linked in says; statuses are cudaError_t.
int32_t avflow_cuda_runtime(void);                 // CUDART_VERSION
int32_t avflow_cuda_device_count(int32_t* count);  // 35 where there is no driver, 100 without a device
int32_t avflow_cuda_capability(int32_t device, int32_t* major, int32_t* minor);
const char* avflow_cuda_error_name(int32_t status);
const char* avflow_cuda_error_text(int32_t status);

}  // extern "C"
#pragma GCC visibility pop
