// Merges the parts of row tiles whose keys were split, in the order of the keys, so that results do not depend on which
// block came first. One block a packed row, one thread a column.
//
// What it costs is waiting for memory, so loads wait for nothing but the problem: each part's maximum and sum by a
// thread of its own first, then a column's values, 16 on their way at a time, without a branch between them.
#pragma once

#include "cuda/tile.cuh"

namespace avflow::cuda {

// sum += shares[i] * from[i * stride] of kCount parts; all loads are begun before the first is waited for.
template <int kCount>
AVFLOW_DEVICE void add_parts(const float* from, int64_t stride, const float* shares, float& sum) {
    float values[kCount];
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = from[i * stride];
#pragma unroll
    for (int i = 0; i < kCount; ++i) sum += values[i] * shares[i];
}

AVFLOW_DEVICE float weighted(const float* from, int64_t stride, const float* shares, int parts) {
    float sum = 0.0f;
    int i = 0;
#if AVFLOW_FORM != 0
    for (; i + 16 <= parts; i += 16) add_parts<16>(from + i * stride, stride, shares + i, sum);
    for (; i + 4 <= parts; i += 4) add_parts<4>(from + i * stride, stride, shares + i, sum);
#endif
    for (; i < parts; ++i) add_parts<1>(from + i * stride, stride, shares + i, sum);
    return sum;
}

// kHeads: c.tile_heads, which would spill if it were read from there.
template <bool kBf16, int kHeads>
__global__ void __launch_bounds__(kThreads, 8) merge(const Call c) {
    const Problem p = view(c.problem);
    const int m = blockIdx.x % kHeads, pair = blockIdx.x / kHeads;
    const int row_tile = pair / c.kv_heads, kv_head = pair % c.kv_heads;
    const Extent tile = extent_of(c, *p.header, row_tile, kv_head);
    const int32_t live = live_tiles(p, row_tile);
    if (m >= tile.count || live <= c.split_tiles) return;

    const int parts = (live + c.split_tiles - 1) / c.split_tiles, column = threadIdx.x;
    const int64_t stride = int64_t{kHeads} * (2 + c.depth + c.mass_groups);
    const float* const first = c.parts + static_cast<int64_t>(pair) * c.splits * stride;
    float top = -kInfinity;
    for (int i = threadIdx.x % 32; i < parts; i += 32) top = fmaxf(top, first[i * stride + m]);
    for (int other = 16; other; other /= 2) top = fmaxf(top, shuffle_xor(top, other));

    float* const shares = reinterpret_cast<float*>(shared_memory());  // [parts], then the parts' sums
    float* const sums = shares + c.splits;
    for (int i = threadIdx.x; i < parts; i += kThreads) {
        const float part_top = first[i * stride + m], part_sum = first[i * stride + kHeads + m];
        shares[i] = part_sum == 0.0f ? 0.0f : exp2_fast(part_top - top);  // one that saw nothing holds zeros
        sums[i] = part_sum;
    }
    sync_block();
    const bool has_value = column < c.depth, has_mass = column < c.mass_groups;
    const float* const values = first + 2 * kHeads + m * c.depth;
    const float* const masses = first + kHeads * (2 + c.depth) + m * c.mass_groups;
    const float o = weighted(values + (has_value ? column : 0), stride, shares, parts);
    const float sum = weighted(sums, 1, shares, parts);
    const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
    const int64_t at =
        static_cast<int64_t>(tile.first_row + m / tile.group) * c.heads + kv_head * tile.group + m % tile.group;
    if (has_value) c.out[at * c.depth + column] = static_cast<uint16_t>(round_pair<kBf16>(o * share, 0.0f));
    if (has_mass) {
        c.group_mass[at * c.mass_groups + column] = weighted(masses + column, stride, shares, parts) * share;
    }
    if (c.lse && column == 0) c.lse[at] = sum == 0.0f ? -kInfinity : (top + log2f(sum)) * kLn2;
}

}  // namespace avflow::cuda
