// Gathers of the eviction boundary: rows of the residual with their RMS norm, and the cache of the tokens that stay.
// The first is also the norm of a layer that nothing leaves, with what is added before it.
// Both move memory once, in pieces of 16 bytes where rows allow it.
#pragma once

#include "cuda/gather_call.h"
#include "cuda/ptx.h"

namespace avflow::cuda {

template <int kCount>
struct alignas(2 * kCount) Piece {
    uint16_t at[kCount];
};

template <bool kBf16>
AVFLOW_DEVICE uint16_t rounded(float x) {
    return static_cast<uint16_t>(round_pair<kBf16>(x, 0.0f));
}

// One block a kept row; with a residual, that plus x is kept. The sum runs in a fixed order: lanes, then warps.
template <bool kBf16, int kCount>
__global__ void __launch_bounds__(kMostGatherThreads, 2) gather_rms_norm(const GatherCall c) {
    using Row = Piece<kCount>;
    const int64_t row = blockIdx.x, from = c.keep ? c.keep[row] : row;
    const int pieces = c.width / kCount;
    Row* const kept = reinterpret_cast<Row*>(c.kept + row * c.width);
    Row* const normed = reinterpret_cast<Row*>(c.normed + row * c.width);
    if (from < 0 || from >= c.n) {
        for (int i = threadIdx.x; i < pieces; i += c.threads) kept[i] = normed[i] = Row{};
        return;
    }
    const Row* x = reinterpret_cast<const Row*>(c.x + from * c.x_row);
    const Row* const residual = reinterpret_cast<const Row*>(c.residual + from * c.residual_row);
    const Row* const weight = reinterpret_cast<const Row*>(c.weight);
    float sum = 0.0f;
    for (int i = threadIdx.x; i < pieces; i += c.threads) {
        Row piece = x[i];
        if (c.residual) {
            const Row more = residual[i];
            for (int n = 0; n < kCount; ++n) {
                piece.at[n] = rounded<kBf16>(widen<kBf16>(more.at[n]) + widen<kBf16>(piece.at[n]));
            }
        }
        if (c.kept) kept[i] = piece;
        for (int n = 0; n < kCount; ++n) {
            const float value = widen<kBf16>(piece.at[n]);
            sum += value * value;
        }
    }
    for (int other = 16; other; other /= 2) sum += shuffle_xor(sum, other);
    float* const sums = reinterpret_cast<float*>(shared_memory());
    if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = sum;
    sync_block();
    sum = 0.0f;
    for (int warp = 0; warp < c.threads / 32; ++warp) sum += sums[warp];
    const float factor = 1.0f / sqrtf(sum / static_cast<float>(c.width) + c.eps);
    if (c.residual) x = kept;                                // a thread reads what it wrote itself
    for (int i = threadIdx.x; i < pieces; i += c.threads) {  // the row lies in the first-level cache now
        const Row piece = x[i], scale = weight[i];
        Row out;
        for (int n = 0; n < kCount; ++n) {
            const float value = widen<kBf16>(rounded<kBf16>(widen<kBf16>(piece.at[n]) * factor));
            out.at[n] = rounded<kBf16>(value * widen<kBf16>(scale.at[n]));
        }
        normed[i] = out;
    }
}

// One thread a piece of kBytes.
template <int kBytes>
__global__ void __launch_bounds__(kCompactThreads) compact(const CompactCall c) {
    using Unit = Piece<kBytes / 2>;
    const int64_t at = static_cast<int64_t>(blockIdx.x) * kCompactThreads + threadIdx.x;
    if (at >= c.rows * c.units) return;
    const int64_t row = at / c.units, unit = at % c.units;
    const int64_t sequence = row / c.m, batch = sequence / c.heads;
    const int64_t from = c.keep[batch * c.m + row % c.m];
    const char* const x = c.x + batch * c.x_batch + sequence % c.heads * c.x_head + from * c.x_token;
    const bool present = from >= 0 && from < c.n;
    reinterpret_cast<Unit*>(c.out)[at] = present ? reinterpret_cast<const Unit*>(x)[unit] : Unit{};
}

}  // namespace avflow::cuda
