// Rotary embedding, and SiLU times a product, compiled once per instruction set with AVFLOW_ISA = portable, avx2 or
// avx512; without contraction, since torch rounds each product before it adds.
#include <cmath>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu/dispatch.h"
#include "kernels.h"

namespace avflow::cpu::AVFLOW_ISA {
namespace {

#include "cpu/vec.h"
// (order matters: the next uses vec.h)
#include "cpu/convert.h"

constexpr int kPiece = 512;  // elements held in fp32 at a time

// To dtype and back.
void round_to(int dtype, int n, float* x) {
    if (dtype == AVFLOW_FLOAT32) return;
    alignas(64) uint16_t rounded[kPiece];
    store_row(rounded, 0, dtype, n, x, 1.0f);
    load_row(rounded, 0, dtype, n, 1.0f, x);
}

// Some numbers of both halves of the tables of one row, in fp32.
struct Tables {
    alignas(64) float cos[2][kPiece], sin[2][kPiece];
};

// out[at + i] = a[i] * c[i] + sign * b[i] * s[i] for one half of a head. Each step is rounded, or with `once` the sum.
void turn_half(void* out, int64_t at, int dtype, bool once, int n, const float* a, const float* c, const float* b,
               const float* s, float sign) {
    alignas(64) float kept[kPiece], turned[kPiece];
    for (int i = 0; i < n; ++i) {
        kept[i] = a[i] * c[i];
        turned[i] = sign * b[i] * s[i];
    }
    if (!once) {
        round_to(dtype, n, kept);
        round_to(dtype, n, turned);
    }
    for (int i = 0; i < n; ++i) kept[i] += turned[i];
    store_row(out, at, dtype, n, kept, 1.0f);
}

// Numbers from .. from + n of both halves of heads that lie `head` apart; the first head begins at `offset`, and at
// element `at` of out.
void turn_heads(const AvflowRotary& call, const Tables& tables, int from, int n, int64_t heads, const void* x,
                int64_t offset, int64_t head, void* out, int64_t at) {
    const int half = call.head_dim / 2;
    const bool once = call.table_dtype != call.dtype;
    alignas(64) float first[kPiece], second[kPiece];
    for (int64_t h = 0; h < heads; ++h, offset += head, at += call.head_dim) {
        load_row(x, offset + from, call.dtype, n, 1.0f, first);
        load_row(x, offset + half + from, call.dtype, n, 1.0f, second);
        turn_half(out, at + from, call.dtype, once, n, first, tables.cos[0], second, tables.sin[0], -1.0f);
        turn_half(out, at + half + from, call.dtype, once, n, second, tables.cos[1], first, tables.sin[1], 1.0f);
    }
}

// e^x for x <= 0 to 1 ulp or so; 0 below 2^-125, NaN for NaN. By a reduction in two parts of ln 2, so that a large x
// loses no place.
Vec exp_nonpositive(Vec x) {
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
    const Vec n = (x * splat(1.44269502f) + magic) - magic;
    const Vec r = (x - n * splat(0.693145752f)) - n * splat(1.42860677e-6f);  // the first part has 15 bits
    Vec p = splat(1.0f / 5040);
    p = p * r + splat(1.0f / 720);
    p = p * r + splat(1.0f / 120);
    p = p * r + splat(1.0f / 24);
    p = p * r + splat(1.0f / 6);
    p = p * r + splat(0.5f);
    p = p * r + splat(1.0f);
    p = p * r + splat(1.0f);
    const IVec exponent = ((IVec)(n + magic) - 0x4B400000 + 127) << 23;
    return x < splat(-86.6f) ? splat(0.0f) : p * (Vec)exponent;
}

// x / (1 + e^-x)
Vec silu(Vec x) {
    const Vec one = splat(1.0f), e = exp_nonpositive(x < splat(0.0f) ? x : -x);
    return x < splat(0.0f) ? x * e / (one + e) : x / (one + e);
}

}  // namespace

void rotary(const AvflowRotary& call, int64_t first, int64_t last) {
    const int64_t d = call.head_dim;
    const int half = call.head_dim / 2;
    Tables tables;
    for (int64_t row = first; row < last; ++row) {
        for (int from = 0; from < half; from += kPiece) {
            const int n = half - from < kPiece ? half - from : kPiece;
            for (int part = 0; part < 2; ++part) {
                const int64_t begin = part * half + from;
                load_row(call.cos, row * call.cos_row + begin, call.table_dtype, n, 1.0f, tables.cos[part]);
                load_row(call.sin, row * call.sin_row + begin, call.table_dtype, n, 1.0f, tables.sin[part]);
            }
            turn_heads(call, tables, from, n, call.heads, call.q, row * call.q_row, call.q_head, call.q_out,
                       row * call.heads * d);
            turn_heads(call, tables, from, n, call.kv_heads, call.k, row * call.k_row, call.k_head, call.k_out,
                       row * call.kv_heads * d);
        }
    }
}

void silu_mul(const AvflowSiluMul& call, int64_t first, int64_t last) {
    alignas(64) float gate[kPiece] = {}, up[kPiece];
    for (int64_t row = first; row < last; ++row) {
        for (int64_t at = 0; at < call.width; at += kPiece) {
            const int count = static_cast<int>(call.width - at < kPiece ? call.width - at : kPiece);
            load_row(call.gate, row * call.gate_row + at, call.dtype, count, 1.0f, gate);
            for (int i = 0; i < count; i += W) store(gate + i, silu(load(gate + i)));
            round_to(call.dtype, count, gate);
            load_row(call.up, row * call.up_row + at, call.dtype, count, 1.0f, up);
            for (int i = 0; i < count; ++i) gate[i] *= up[i];
            store_row(call.out, row * call.width + at, call.dtype, count, gate, 1.0f);
        }
    }
}

}  // namespace avflow::cpu::AVFLOW_ISA
