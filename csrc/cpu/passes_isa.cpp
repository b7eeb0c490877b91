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

// out[at + i] = a[i] * c[i] + sign * b[i] * s[i] for one half of a head, each step rounded.
void turn_half(void* out, int64_t at, int dtype, int n, const float* a, const float* c, const float* b, const float* s,
               float sign) {
    alignas(64) float kept[kPiece], turned[kPiece];
    for (int i = 0; i < n; ++i) {
        kept[i] = a[i] * c[i];
        turned[i] = sign * b[i] * s[i];
    }
    round_to(dtype, n, kept);
    round_to(dtype, n, turned);
    for (int i = 0; i < n; ++i) kept[i] += turned[i];
    store_row(out, at, dtype, n, kept, 1.0f);
}

// One head [d] at `offset`, to element `at` of out; cos and sin begin at these offsets.
void turn_head(const AvflowRotary& call, const void* x, int64_t offset, void* out, int64_t at, int64_t cos,
               int64_t sin) {
    const int half = call.head_dim / 2;
    alignas(64) float first[kPiece], second[kPiece], c[kPiece], s[kPiece];
    for (int from = 0; from < half; from += kPiece) {
        const int n = half - from < kPiece ? half - from : kPiece;
        load_row(x, offset + from, call.dtype, n, 1.0f, first);
        load_row(x, offset + half + from, call.dtype, n, 1.0f, second);
        load_row(call.cos, cos + from, call.dtype, n, 1.0f, c);
        load_row(call.sin, sin + from, call.dtype, n, 1.0f, s);
        turn_half(out, at + from, call.dtype, n, first, c, second, s, -1.0f);
        load_row(call.cos, cos + half + from, call.dtype, n, 1.0f, c);
        load_row(call.sin, sin + half + from, call.dtype, n, 1.0f, s);
        turn_half(out, at + half + from, call.dtype, n, second, c, first, s, 1.0f);
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
    for (int64_t row = first; row < last; ++row) {
        const int64_t cos = row * call.cos_row, sin = row * call.sin_row;
        for (int64_t h = 0; h < call.heads; ++h) {
            turn_head(call, call.q, row * call.q_row + h * call.q_head, call.q_out, (row * call.heads + h) * d, cos,
                      sin);
        }
        for (int64_t h = 0; h < call.kv_heads; ++h) {
            turn_head(call, call.k, row * call.k_row + h * call.k_head, call.k_out, (row * call.kv_heads + h) * d, cos,
                      sin);
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
