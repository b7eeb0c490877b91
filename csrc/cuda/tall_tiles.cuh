// Pieces of the tall kernel: what a block shares, which key tiles it takes next, and how they get into shared memory.
#pragma once

#include "cuda/rows.cuh"

namespace avflow::cuda {

constexpr int kPair = 2;                // tiles of 16 packed rows that a warp holds
constexpr int kTallHeads = kWideHeads;  // packed rows of a tile: planned as for the Hopper kernel
static_assert(kTallHeads == 16 * kPair * kWarps);

// Key tiles that are taken one after the other: neighbours without a mask, or a single one. None: the walk has ended,
// and `first` is behind the last tile of all.
struct Stretch {
    int32_t first, count, whole;
};
constexpr int32_t kMostTogether = 32;  // the first thread looks that far ahead at most

// What a block shares besides keys, values and queries. What the loops need seldom lies here too: the registers hold
// the outputs of 32 rows a warp.
struct alignas(16) TallShared {
    union {
        Words words[kTallHeads];  // of the partial tile at work, by row or by packed row
        Nonfinite nonfinite;      // of half of its values, where they are not all finite; the words are lost then
    };
    Problem problem;
    Extent tile;
    int32_t keys;        // that take part; of neighbours in memory, those that are held
    Stretch stretch[2];  // the one at work and the one after it
    Walk walk;           // from here on: the first thread's
    int32_t row_tile, whole, latest, earliest;
};

// Keys and values have one place each, and one is on its way while the other is multiplied: at most 99 KB with the mass
// of 64 groups, which every device from sm_80 on gives a block, and without mass two blocks lie beside each other where
// a multiprocessor has 164 KB or more (sm_80, sm_90, sm_100), and at depth 64 also where it has 100.
inline int64_t tall_shared_bytes(const Call& c) {
    return (2 * kKeyTile + kTallHeads) * c.depth * 2 + static_cast<int64_t>(sizeof(TallShared)) +
           kTallHeads * c.mass_groups * 4;
}

// The keys of a row tile are never split here: many rows fill a device without that.
inline Call in_one_part(Call c) {
    c.splits = 1;
    c.split_tiles = INT32_MAX;
    return c;
}

// The walk's next tiles: whole ones first, and behind the last of them from the beginning again those with a mask. The
// loop for either then needs registers for nothing of the other. By the first thread.
AVFLOW_DEVICE Stretch take_stretch(const Call& c, TallShared& shared) {
    const Problem& p = shared.problem;
    Walk now = shared.walk;
    Stretch found = {p.header->key_tiles, 0, shared.whole};
    const auto pass_others = [&] {
        while (pass_closed(c, p, shared.latest, shared.earliest, now), !ended(now)) {
            if (is_whole(c, p, now) == found.whole) return;
            advance(now);
        }
    };
    pass_others();
    if (ended(now) && found.whole) {
        found.whole = shared.whole = 0;
        now = walk_from(p, shared.row_tile, 0, INT32_MAX);
        pass_others();
    }
    if (!ended(now)) {
        found.first = key_tile(now);
        do {
            ++found.count;
            advance(now);
            pass_others();
        } while (found.whole && !c.mass_groups && found.count < kMostTogether && !ended(now) &&
                 key_tile(now) == found.first + found.count);
    }
    shared.walk = now;
    return found;
}

// Which rows the block works on, and its first tiles. By the first thread.
AVFLOW_DEVICE void begin_walk(const Call& c, TallShared& shared) {
    const Problem& p = shared.problem;
    shared.problem = view(c.problem);
    shared.row_tile = p.tile_order[blockIdx.x / c.kv_heads];  // heavy ones first
    shared.tile = extent_of(c, *p.header, shared.row_tile, blockIdx.x % c.kv_heads);
    shared.keys = c.mapped ? mapped_keys(c, *p.header) : p.header->keys;
    shared.latest = latest_seen(c, p, shared.tile);
    shared.earliest = earliest_seen(c, p, shared.tile);
    shared.walk = walk_from(p, shared.row_tile, 0, INT32_MAX);
    shared.whole = 1;
    shared.stretch[0] = take_stretch(c, shared);
}

// Keys of a kv head, or values.
struct Side {
    const uint16_t* from;
    int64_t batch, row;  // strides in elements
};

AVFLOW_DEVICE Side keys_of(const Call& c, int32_t kv_head) { return {c.k + kv_head * c.k_head, c.k_batch, c.k_row}; }
AVFLOW_DEVICE Side values_of(const Call& c, int32_t kv_head) { return {c.v + kv_head * c.v_head, c.v_batch, c.v_row}; }

// Starts the copy of a tile of one side; keys beyond the last and those that are not held become zero.
template <int kDepth>
AVFLOW_DEVICE void load_side(const Call& c, const TallShared& shared, const Side& side, int32_t key_tile, uint32_t to) {
    constexpr int kChunks = kDepth / 8, kStep = kThreads / kChunks;
    static_assert(kStep % 8 == 0);  // a thread's chunks then lie at the same place of their rows
    const int chunk = threadIdx.x % kChunks, first = threadIdx.x / kChunks;
    const int32_t base = key_tile * kKeyTile, left = shared.keys - base;
    to += chunk_at<kDepth>(first, chunk);
    if (c.mapped) {  // addresses are a constant apart, and there is no branch
        const uint16_t* from = side.from + (base + first) * side.row + chunk * 8;
#pragma unroll
        for (int j = 0; j < kKeyTile; j += kStep) {
            copy_async(to + j * kDepth * 2, from, first + j < left);
            from += kStep * side.row;
        }
        return;
    }
    const int32_t* const keep_keys = shared.problem.keep_keys;
#pragma unroll 4
    for (int j = 0; j < kKeyTile; j += kStep) {
        const bool exists = first + j < left;
        const int32_t key = exists ? base + first + j : 0;
        const Place place = place_of(c.slots, keep_keys ? keep_keys[key] : key);
        copy_async(to + j * kDepth * 2, side.from + place.batch * side.batch + place.slot * side.row + chunk * 8,
                   exists && place.slot < c.slots.held);
    }
}

// Adds what values of 32 keys that were taken out would have, see add_nonfinite.
template <int kDepth>
AVFLOW_DEVICE void add_back(const uint32_t (&used)[2], const Nonfinite& nonfinite, int lane, Rows<kDepth>& rows) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const int at = 8 * n + 2 * (lane & 3) + b;
                float& o = rows.o[n][2 * h + b];
                if (used[h] & nonfinite.up[0][at]) o += kInfinity;
                if (used[h] & nonfinite.down[0][at]) o -= kInfinity;
            }
        }
    }
}

// The sign of the warp's 32 queries, for a negative scale.
template <int kDepth>
AVFLOW_DEVICE void flip_queries(uint32_t flip, int lane, char* queries) {
    uint32_t* const pairs = reinterpret_cast<uint32_t*>(queries);
    for (int i = lane; i < 16 * kPair * kDepth / 2; i += 32) pairs[i] ^= flip;
    sync_warp();
}

}  // namespace avflow::cuda
