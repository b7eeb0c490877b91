// Pieces of the attention kernel: which rows and keys a block works on, and how they get into shared memory.
#pragma once

#include "core/mask.h"
#include "cuda/call.h"
#include "cuda/ptx.h"

namespace avflow::cuda {

constexpr float kInfinity = __builtin_inff();
constexpr float kLn2 = 0.693147180559945309f;

// A row tile under one kv head. Packed row m = row * group + head: the heads of a row share its words.
struct Extent {
    int32_t first_row, rows, kv_head, group;
    int32_t count;  // rows * group
};

AVFLOW_DEVICE Extent extent_of(const Call& c, const Header& h, int32_t row_tile, int32_t kv_head) {
    const int32_t first = row_tile * h.tile_rows, left = h.rows - first;
    const int32_t rows = left < h.tile_rows ? left : h.tile_rows;
    return {first, rows, kv_head, c.group, rows * c.group};
}

// Counted by a warp together: interleaved cuts leave as many spans as tiles.
AVFLOW_DEVICE int32_t live_tiles(const Problem& p, int32_t row_tile) {
    uint64_t tiles = 0;
    for (int32_t s = p.span_begin[row_tile] + threadIdx.x % 32; s < p.span_begin[row_tile + 1]; s += 32) {
        tiles += p.spans[s].count;
    }
    for (int other = 16; other; other /= 2) tiles += shuffle_xor(tiles, other);
    return static_cast<int32_t>(tiles);
}

// The live key tiles of a row tile, one after the other.
struct Walk {
    const Span* span;
    const Span* last;
    int32_t at, left;  // place in the span; tiles still to come, at most
};

AVFLOW_DEVICE bool ended(const Walk& w) { return w.left <= 0 || w.span == w.last; }
AVFLOW_DEVICE int32_t key_tile(const Walk& w) { return w.span->first + w.at; }
AVFLOW_DEVICE bool is_full(const Walk& w) { return w.span->kind == kFull; }

AVFLOW_DEVICE void advance(Walk& w) {
    --w.left;
    if (++w.at == w.span->count) {
        ++w.span;
        w.at = 0;
    }
}

AVFLOW_DEVICE Walk walk_from(const Problem& p, int32_t row_tile, int32_t begin, int32_t count) {
    Walk w = {p.spans + p.span_begin[row_tile], p.spans + p.span_begin[row_tile + 1], begin, count};
    while (w.span != w.last && w.at >= w.span->count) {
        w.at -= w.span->count;
        ++w.span;
    }
    return w;
}

// The latest order of a key that some row of the tile may see; any where the orders are the problem's own.
AVFLOW_DEVICE int32_t latest_seen(const Call& c, const Problem& p, const Extent& tile) {
    if (!c.row_order) return INT32_MAX;
    int32_t latest = INT32_MIN;
    for (int r = tile.first_row; r < tile.first_row + tile.rows; ++r) {
        if (p.rows[r].stream < 0) continue;
        const Stream stream = p.streams[p.rows[r].stream];
        int32_t order = c.row_order[r];
        if (stream.parent >= 0 && stream.start - 1 > order) order = stream.start - 1;
        if (order > latest) latest = order;
    }
    return latest;
}

// The earliest order that some row's window holds; any where the orders are the problem's own, since then the plan has
// skipped what windows hide.
AVFLOW_DEVICE int32_t earliest_seen(const Call& c, const Problem& p, const Extent& tile) {
    if (!c.row_order || !p.window) return INT32_MIN;
    int64_t earliest = INT32_MAX;
    for (int r = tile.first_row; r < tile.first_row + tile.rows; ++r) {
        const int64_t of_row = int64_t{c.row_order[r]} - p.window + 1;
        if (p.rows[r].stream >= 0 && of_row < earliest) earliest = of_row;
    }
    return earliest < INT32_MIN ? INT32_MIN : static_cast<int32_t>(earliest);
}

// Passes by tiles that this call closes to all rows: they come after `latest`, the window hides them, or none of their
// slots is held.
AVFLOW_DEVICE void pass_closed(const Call& c, const Problem& p, int32_t latest, int32_t earliest, Walk& w) {
    while (!ended(w)) {
        const int32_t tile = key_tile(w);
        const bool later = p.tile_first && p.tile_first[tile] > latest;
        const bool earlier = p.tile_last && p.tile_last[tile] < earliest;
        if (!later && !earlier && !none_held(p, c.slots, tile)) return;
        advance(w);
    }
}

AVFLOW_DEVICE bool is_whole(const Call& c, const Problem& p, const Walk& w) {
    return is_full(w) && all_held(p, c.slots, key_tile(w));
}

// Tiles lie in shared memory as [64, depth] with 16-byte chunk c of row r at place c ^ (r % 8): the eight rows that
// ldmatrix reads at once then lie in different banks.
template <int kDepth>
AVFLOW_DEVICE uint32_t chunk_at(int row, int chunk) {
    return row * kDepth * 2 + ((chunk ^ (row & 7)) << 4);
}

// The same in blocks of 64 columns and kRows rows, one behind the other: what a warpgroup's product reads. One block at
// depth 64, and then the same place. kRows 0: not in blocks.
template <int kDepth, int kRows>
AVFLOW_DEVICE uint32_t block_chunk_at(int row, int chunk) {
    if constexpr (kRows == 0) return chunk_at<kDepth>(row, chunk);
    return (chunk >> 3) * kRows * 128 + chunk_at<64>(row, chunk & 7);
}

// Starts the copy of packed rows first .. first + count - 1 of a tile by `threads` threads; rows beyond its end become
// zero. kRows: see block_chunk_at.
template <int kDepth, int kRows = 0>
AVFLOW_DEVICE void load_queries(const Call& c, const Problem& p, const Extent& tile, int first, int count, int thread,
                                int threads, uint32_t to) {
    constexpr int kChunks = kDepth / 8;
    const int chunk = thread % kChunks;
    for (int m = first + thread / kChunks; m < first + count; m += threads / kChunks) {
        const bool valid = m < tile.count;
        const int row = tile.first_row + (valid ? m / tile.group : 0);
        const int head = tile.kv_head * tile.group + (valid ? m % tile.group : 0);
        const int64_t from = p.keep_rows ? p.keep_rows[row] : row;
        copy_async(to + block_chunk_at<kDepth, kRows>(m, chunk), c.q + from * c.q_row + head * c.q_head + chunk * 8,
                   valid);
    }
}

// Starts the copy of a tile of keys and values by the block's first kThreads threads; keys beyond the last and keys
// that are not held become zero.
template <int kDepth, bool kBlocks = false>
AVFLOW_DEVICE void load_keys(const Call& c, const Problem& p, int32_t kv_head, int32_t tile, uint32_t k, uint32_t v) {
    constexpr int kChunks = kDepth / 8;
    const int chunk = threadIdx.x % kChunks;
    const int32_t base = tile * kKeyTile, left = p.header->keys - base;
    const uint16_t* from_k = c.k + kv_head * c.k_head + chunk * 8;
    const uint16_t* from_v = c.v + kv_head * c.v_head + chunk * 8;
    constexpr int kStep = kThreads / kChunks;
    const int first = threadIdx.x / kChunks;
    Place at = place_of(c.slots, base + first);
#pragma unroll 4
    for (int j = first; j < kKeyTile; j += kStep) {
        Place from = at;
        if (p.keep_keys) from = place_of(c.slots, p.keep_keys[j < left ? base + j : base]);
        const bool valid = j < left && from.slot < c.slots.held;
        const uint32_t to = block_chunk_at<kDepth, kBlocks ? kKeyTile : 0>(j, chunk);
        copy_async(k + to, from_k + from.batch * c.k_batch + from.slot * c.k_row, valid);
        copy_async(v + to, from_v + from.batch * c.v_batch + from.slot * c.v_row, valid);
        for (at.slot += kStep; at.slot >= c.slots.capacity; at.slot -= c.slots.capacity) ++at.batch;
    }
}

// A run of a block's threads, of whole warps, that work together.
template <int kFirst, int kCount>
struct Crew {
    static constexpr int kSize = kCount;
    static AVFLOW_DEVICE_MEMBER int thread() { return static_cast<int>(threadIdx.x) - kFirst; }
};
using FirstThreads = Crew<0, kThreads>;

// The words of units begin .. begin + kSize / lanes - 1 of a partial tile, by a crew; `lanes` threads share a unit.
template <typename Of>
AVFLOW_DEVICE void fill_some_words(const Call& c, const Problem& p, const Extent& tile, int32_t key_tile, int begin,
                                   int units, int lanes, Words* words) {
    const bool by_head = p.header->head_cuts;
    const int unit = begin + Of::thread() / lanes, lane = Of::thread() % lanes;
    Words mine = {0, 0};
    if (unit < units) {
        const int32_t at = tile.first_row + (by_head ? unit / tile.group : unit);
        Row row = row_of(p, at);
        if (c.row_order) row.order = c.row_order[at];
        const int32_t head = by_head ? tile.kv_head * tile.group + unit % tile.group : kEveryHead;
        const Token* keys = p.keys + static_cast<int64_t>(key_tile) * kKeyTile;
        for (int32_t r = p.run_begin[key_tile] + lane; r < p.run_begin[key_tile + 1]; r += lanes) {
            const Words here = run_words(p, row, p.runs[r], keys, head);
            mine.seen |= here.seen;
            mine.open |= here.open;
        }
    }
    for (int other = lanes / 2; other; other /= 2) {
        mine.seen |= shuffle_xor(mine.seen, other);
        mine.open |= shuffle_xor(mine.open, other);
    }
    if (!all_held(p, c.slots, key_tile)) {
        uint64_t held = 0;
        for (int j = lane; j < keys_in_tile(p, key_tile); j += lanes) {
            held |= uint64_t{is_held(p, c.slots, key_tile * kKeyTile + j)} << j;
        }
        for (int other = lanes / 2; other; other /= 2) held |= shuffle_xor(held, other);
        mine.seen &= held;
        mine.open &= held;
    }
    if (lane == 0 && unit < units) words[unit] = mine;
}

// The words of a partial tile, each once: by packed row where cuts name heads, else by row. As many threads of the crew
// as there are share a row's runs, since tiles of short runs have many.
template <typename Of = FirstThreads>
AVFLOW_DEVICE void fill_words(const Call& c, const Problem& p, const Extent& tile, int32_t key_tile, Words* words) {
    const int units = p.header->head_cuts ? tile.count : tile.rows;
    int lanes = 1;
    while (lanes < 32 && units * lanes * 2 <= Of::kSize) lanes *= 2;
    if constexpr (Of::kSize == kThreads) {  // then there are as many threads as units
        fill_some_words<Of>(c, p, tile, key_tile, 0, units, lanes, words);
    } else {
        for (int begin = 0; begin < units; begin += Of::kSize / lanes) {
            fill_some_words<Of>(c, p, tile, key_tile, begin, units, lanes, words);
        }
    }
}

// Does this thread's share of the values hold a NaN or an infinity? Values as [kKeys, depth] in any order.
template <bool kBf16, int kDepth, typename Of = FirstThreads, int kKeys = kKeyTile>
AVFLOW_DEVICE bool any_nonfinite(const char* values) {
    struct alignas(16) Chunk {
        uint32_t pairs[4];
    };
    constexpr uint32_t kExponents = kBf16 ? 0x7F807F80u : 0x7C007C00u, kOnes = kBf16 ? 0x00800080u : 0x04000400u;
    uint32_t carried = 0;
    for (int i = Of::thread(); i < kKeys * kDepth / 8; i += Of::kSize) {
        const Chunk chunk = reinterpret_cast<const Chunk*>(values)[i];
        // An exponent of all ones carries into the sign's place, others do not.
        for (int n = 0; n < 4; ++n) carried |= (chunk.pairs[n] & kExponents) + kOnes;
    }
    return (carried & 0x80008000u) != 0;
}

// Sets values that are NaN or infinite to 0 and notes where they were. kRows: see block_chunk_at. Of 32 keys
// half of what `nonfinite` can hold is written.
template <bool kBf16, int kDepth, int kRows = 0, typename Of = FirstThreads, int kKeys = kKeyTile>
AVFLOW_DEVICE void take_out_nonfinite(char* values, Nonfinite& nonfinite) {
    constexpr uint32_t kExponent = kBf16 ? 0x7F80u : 0x7C00u;
    for (int i = Of::thread(); i < kKeys / 32 * kDepth; i += Of::kSize) {
        const int column = i % kDepth, half = i / kDepth;
        uint32_t up = 0, down = 0;
        for (int j = 0; j < 32; ++j) {
            char* const chunk = values + block_chunk_at<kDepth, kRows>(half * 32 + j, column / 8);
            uint16_t& place = reinterpret_cast<uint16_t*>(chunk)[column % 8];
            const uint32_t value = place;
            if ((value & kExponent) != kExponent) continue;
            const bool nan = (value & 0x7FFFu) != kExponent, negative = value >> 15;
            if (nan || !negative) up |= 1u << j;
            if (nan || negative) down |= 1u << j;
            place = 0;
        }
        nonfinite.up[half][column] = up;
        nonfinite.down[half][column] = down;
    }
}

}  // namespace avflow::cuda
