// Into how many parts the Hopper kernel cuts a row tile's live key tiles, so that few rows keep all of a device busy.
// Host code.
#pragma once

#include <algorithm>
#include <cstdint>

namespace avflow::cuda {

// All costs in the time of one step over 64 keys, about 1.1 us: 4.2 MFLOP at 512 TFLOP/s / 132. Estimates, but for
// that. The multiprocessors are an H200's on every device: the split decides how sums round, and results should not
// depend on the device.
constexpr int64_t kWideBlocks = 132;  // that run at once: one a multiprocessor
constexpr int64_t kBlockCost = 2;     // a block's start, its queries, and its first keys
constexpr int64_t kPartCost = 5;      // that of a part: as well 66 KB of sums to memory and back
constexpr int64_t kMergeCost = 4;     // a second kernel,
constexpr int64_t kMergedAtOnce = 8;  // and one more for every so many row tiles: 128 small blocks each
constexpr int64_t kFewestTiles = 4;   // of a part

constexpr int64_t rounded_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Tiles of a part. blocks: row tiles x kv heads; max_tiles: live key tiles of a row tile, at most; total_tiles: of all
// blocks. Tries each count of parts, and takes the one whose time is bounded best.
constexpr int64_t wide_split_tiles(int64_t blocks, int64_t max_tiles, int64_t total_tiles) {
    int64_t best = std::max<int64_t>(max_tiles, 1);
    if (blocks >= kWideBlocks) return best;
    int64_t least = best + kBlockCost;
    for (int64_t parts = 2; parts <= std::min(kWideBlocks, max_tiles / kFewestTiles); ++parts) {
        const int64_t tiles = rounded_up(max_tiles, parts), longest = tiles + kPartCost;
        // If every row tile had the most: so many waves. In any case: nobody is idle before the last part begins.
        const int64_t in_waves = rounded_up(blocks * rounded_up(max_tiles, tiles), kWideBlocks) * longest;
        const int64_t work = total_tiles + (total_tiles / tiles + blocks) * kPartCost;
        const int64_t in_any_order = std::max<int64_t>(work - longest, 0) / kWideBlocks + longest;
        const int64_t time = std::min(in_waves, in_any_order) + kMergeCost + blocks / kMergedAtOnce;
        if (time < least) least = time, best = tiles;
    }
    return best;
}

}  // namespace avflow::cuda
