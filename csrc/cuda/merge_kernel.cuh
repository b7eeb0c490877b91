// Merges the parts of row tiles whose keys were split, in the order of the keys, so that results do not depend on which
// block came first. One block a packed row, one thread a column.
#pragma once

#include "cuda/tile.cuh"

namespace avflow::cuda {

template <bool kBf16>
__global__ void __launch_bounds__(kThreads, 8) merge(const Call c) {
    const Problem p = view(c.problem);
    const int m = blockIdx.x % kTileHeads, pair = blockIdx.x / kTileHeads;
    const int row_tile = pair / c.kv_heads, kv_head = pair % c.kv_heads;
    const Extent tile = extent_of(c, *p.header, row_tile, kv_head);
    const int32_t live = live_tiles(p, row_tile);
    if (m >= tile.count || live <= c.split_tiles) return;

    const int parts = (live + c.split_tiles - 1) / c.split_tiles, column = threadIdx.x;
    const int64_t stride = part_floats(c);
    const float* const first = c.parts + static_cast<int64_t>(pair) * c.splits * stride;
    float top = -kInfinity;
    for (int i = 0; i < parts; ++i) top = fmaxf(top, first[i * stride + m]);
    float sum = 0.0f, o = 0.0f, mass = 0.0f;
    for (int i = 0; i < parts; ++i) {
        const float* part = first + i * stride;
        if (part[kTileHeads + m] == 0.0f) continue;  // saw nothing
        const float share = exp2_fast(part[m] - top);
        sum += part[kTileHeads + m] * share;
        if (column < c.depth) o += part[2 * kTileHeads + m * c.depth + column] * share;
        if (column < c.mass_groups) mass += part[kTileHeads * (2 + c.depth) + m * c.mass_groups + column] * share;
    }
    const float share = sum == 0.0f ? 0.0f : 1.0f / sum;
    const int64_t at =
        static_cast<int64_t>(tile.first_row + m / tile.group) * c.heads + kv_head * tile.group + m % tile.group;
    if (column < c.depth) c.out[at * c.depth + column] = static_cast<uint16_t>(round_pair<kBf16>(o * share, 0.0f));
    if (column < c.mass_groups) c.group_mass[at * c.mass_groups + column] = mass * share;
    if (c.lse && column == 0) c.lse[at] = sum == 0.0f ? -kInfinity : (top + log2f(sum)) * kLn2;
}

}  // namespace avflow::cuda
