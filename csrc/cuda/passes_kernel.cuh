// The decoder's passes between its matrix products: rotary embedding, and SiLU times a product. Each reads and writes
// memory once, in pieces of 16 bytes where rows allow it, and rounds where torch rounds.
#pragma once

#include <type_traits>

#include "cuda/gather_kernel.cuh"
#include "cuda/passes_call.h"

namespace avflow::cuda {

// A piece of a table in float32; two or one copies of 16 bytes.
template <int kCount>
struct alignas(kCount > 1 ? 16 : 4) FloatPiece {
    float at[kCount];
};

// kept * cos + turned * sin, each step rounded.
template <bool kBf16, int kCount>
AVFLOW_DEVICE Piece<kCount> turned_piece(const Piece<kCount>& kept, const Piece<kCount>& cos,
                                         const Piece<kCount>& turned, const Piece<kCount>& sin, float sign) {
    Piece<kCount> out;
    for (int n = 0; n < kCount; ++n) {
        const uint16_t a = rounded<kBf16>(widen<kBf16>(kept.at[n]) * widen<kBf16>(cos.at[n]));
        const uint16_t b = rounded<kBf16>(sign * widen<kBf16>(turned.at[n]) * widen<kBf16>(sin.at[n]));
        out.at[n] = rounded<kBf16>(widen<kBf16>(a) + widen<kBf16>(b));
    }
    return out;
}

// The same in float32, and the sum rounded.
template <bool kBf16, int kCount>
AVFLOW_DEVICE Piece<kCount> turned_piece(const Piece<kCount>& kept, const FloatPiece<kCount>& cos,
                                         const Piece<kCount>& turned, const FloatPiece<kCount>& sin, float sign) {
    Piece<kCount> out;
    for (int n = 0; n < kCount; ++n) {
        const float a = product(widen<kBf16>(kept.at[n]), cos.at[n]);
        const float b = product(sign * widen<kBf16>(turned.at[n]), sin.at[n]);
        out.at[n] = rounded<kBf16>(sum_of(a, b));
    }
    return out;
}

// One thread a piece of a head's first half and its fellow of the second; the heads of q, then those of k.
// kOnce: the tables are float32.
template <bool kBf16, int kCount, bool kOnce>
__global__ void __launch_bounds__(kPassThreads) rotary(const RotaryCall c) {
    using Part = Piece<kCount>;
    using Number = std::conditional_t<kOnce, float, uint16_t>;
    using Table = std::conditional_t<kOnce, FloatPiece<kCount>, Part>;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kPassThreads + threadIdx.x;
    if (at >= c.count) return;
    const int64_t unit = at % c.units, head = at / c.units % (c.heads + c.kv_heads);
    const int64_t row = at / c.units / (c.heads + c.kv_heads);
    const bool query = head < c.heads;
    const int64_t mine = query ? head : head - c.heads;
    const uint16_t* const x = query ? c.q + row * c.q_row + mine * c.q_head : c.k + row * c.k_row + mine * c.k_head;
    uint16_t* const out =
        query ? c.q_out + (row * c.heads + mine) * 2 * c.half : c.k_out + (row * c.kv_heads + mine) * 2 * c.half;
    const Table* const cos = reinterpret_cast<const Table*>(static_cast<const Number*>(c.cos) + row * c.cos_row);
    const Table* const sin = reinterpret_cast<const Table*>(static_cast<const Number*>(c.sin) + row * c.sin_row);
    const Part first = reinterpret_cast<const Part*>(x)[unit];
    const Part second = reinterpret_cast<const Part*>(x)[unit + c.units];
    // Whole pieces before anything is written: else their numbers are read one by one.
    const Table cos_first = cos[unit], sin_first = sin[unit];
    const Table cos_second = cos[unit + c.units], sin_second = sin[unit + c.units];
    Part* const to = reinterpret_cast<Part*>(out);
    to[unit] = turned_piece<kBf16>(first, cos_first, second, sin_first, -1.0f);
    to[unit + c.units] = turned_piece<kBf16>(second, cos_second, first, sin_second, 1.0f);
}

// The kernel for a call.
inline auto rotary_for(const AvflowRotary& a) {
    const bool bf16 = a.dtype == AVFLOW_BFLOAT16;
    if (rounds_once(a)) {
        return reads_wide(a) ? (bf16 ? rotary<true, kWide, true> : rotary<false, kWide, true>)
                             : (bf16 ? rotary<true, 1, true> : rotary<false, 1, true>);
    }
    return reads_wide(a) ? (bf16 ? rotary<true, kWide, false> : rotary<false, kWide, false>)
                         : (bf16 ? rotary<true, 1, false> : rotary<false, 1, false>);
}

// One thread a piece of a row.
template <bool kBf16, int kCount>
__global__ void __launch_bounds__(kPassThreads) silu_mul(const SiluMulCall c) {
    using Part = Piece<kCount>;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kPassThreads + threadIdx.x;
    if (at >= c.count) return;
    const int64_t row = at / c.units, unit = at % c.units;
    const Part gate = reinterpret_cast<const Part*>(c.gate + row * c.gate_row)[unit];
    const Part up = reinterpret_cast<const Part*>(c.up + row * c.up_row)[unit];
    Part out;
    for (int n = 0; n < kCount; ++n) {
        const float x = widen<kBf16>(gate.at[n]);
        const float silu = widen<kBf16>(rounded<kBf16>(x / (1.0f + expf(-x))));
        out.at[n] = rounded<kBf16>(silu * widen<kBf16>(up.at[n]));
    }
    reinterpret_cast<Part*>(c.out)[at] = out;
}

}  // namespace avflow::cuda
