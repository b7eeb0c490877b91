// What one launch of the decoder's passes hands to their kernels. Host code without CUDA types.
#pragma once

#include "cuda/gather_call.h"

namespace avflow::cuda {

constexpr int kPassThreads = 256;

struct RotaryCall {
    const uint16_t *q, *k;
    const void *cos, *sin;  // of dtype, or float
    uint16_t *q_out, *k_out;
    int64_t q_row, q_head, k_row, k_head, cos_row, sin_row;
    int64_t count;                         // of threads that have work
    int32_t heads, kv_heads, half, units;  // half a head, and the pieces of it
};

inline bool rounds_once(const AvflowRotary& a) { return a.table_dtype == AVFLOW_FLOAT32; }

inline bool reads_wide(const AvflowRotary& a) {
    const int64_t table = rounds_once(a) ? 4 : 2;  // bytes of a number
    return aligned(
        16, {a.q, a.k, a.cos, a.sin, a.q_out, a.k_out},
        {a.q_row * 2, a.q_head * 2, a.k_row * 2, a.k_head * 2, a.cos_row * table, a.sin_row * table, a.head_dim});
}

inline RotaryCall make_call(const AvflowRotary& a) {
    RotaryCall c{};
    c.q = static_cast<const uint16_t*>(a.q), c.k = static_cast<const uint16_t*>(a.k);
    c.cos = a.cos, c.sin = a.sin;
    c.q_out = static_cast<uint16_t*>(a.q_out), c.k_out = static_cast<uint16_t*>(a.k_out);
    c.q_row = a.q_row, c.q_head = a.q_head, c.k_row = a.k_row, c.k_head = a.k_head;
    c.cos_row = a.cos_row, c.sin_row = a.sin_row;
    c.heads = a.heads, c.kv_heads = a.kv_heads, c.half = a.head_dim / 2;
    c.units = c.half / (reads_wide(a) ? kWide : 1);
    c.count = a.rows * (a.heads + a.kv_heads) * c.units;
    return c;
}

struct SiluMulCall {
    const uint16_t *gate, *up;
    uint16_t* out;
    int64_t gate_row, up_row, width;
    int64_t units, count;  // pieces of a row; threads that have work
};

inline bool reads_wide(const AvflowSiluMul& a) {
    return aligned(16, {a.gate, a.up, a.out}, {a.gate_row * 2, a.up_row * 2, a.width * 2});
}

inline SiluMulCall make_call(const AvflowSiluMul& a) {
    SiluMulCall c{};
    c.gate = static_cast<const uint16_t*>(a.gate), c.up = static_cast<const uint16_t*>(a.up);
    c.out = static_cast<uint16_t*>(a.out);
    c.gate_row = a.gate_row, c.up_row = a.up_row, c.width = a.width;
    c.units = a.width / (reads_wide(a) ? kWide : 1);
    c.count = a.rows * c.units;
    return c;
}

template <typename Call>
int64_t pass_blocks(const Call& c) {
    return (c.count + kPassThreads - 1) / kPassThreads;
}

}  // namespace avflow::cuda
