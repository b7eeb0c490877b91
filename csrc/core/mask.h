// The mask rule, edge by edge, as 64-bit words: bit j of a word stands for key j of the tile.
#pragma once

#include "problem.h"

namespace avflow {

// 32-bit finalizer of MurmurHash3 (A. Appleby, public domain).
AVFLOW_HD uint32_t mix32(uint32_t h) {
    h ^= h >> 16;
    h *= 0x85EBCA6Bu;
    h ^= h >> 13;
    h *= 0xC2B2AE35u;
    return h ^ (h >> 16);
}

AVFLOW_HD uint32_t hash_row(uint32_t seed, int32_t order_row) {
    return mix32(static_cast<uint32_t>(order_row) * 0x9E3779B1u + seed);
}

AVFLOW_HD uint32_t edge_hash(uint32_t row_hash, int32_t order_key) {
    return mix32(row_hash ^ (static_cast<uint32_t>(order_key) * 0x85EBCA77u));
}

AVFLOW_HD bool has(uint64_t set, int32_t member) { return (set >> member) & 1u; }

AVFLOW_HD uint64_t low_bits(int32_t count) { return count >= 64 ? ~uint64_t{0} : (uint64_t{1} << count) - 1; }

// How many of the run's first keys have order <= limit.
AVFLOW_HD int32_t keys_up_to(const Run& run, const Token* tile_keys, int32_t limit) {
    if (limit >= run.last_order) return run.count;
    if (limit < run.first_order) return 0;
    if (run.consecutive) return limit - run.first_order + 1;
    int32_t low = 0, high = run.count;  // orders increase within a run
    while (low < high) {
        const int32_t middle = (low + high) / 2;
        if (tile_keys[run.begin + middle].order <= limit) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

// How many of the run's first keys the window hides from a row of this order.
AVFLOW_HD int32_t keys_too_old(const Run& run, const Token* tile_keys, int32_t order, int32_t window) {
    const int64_t newest = int64_t{order} - window;
    return newest < INT32_MIN ? 0 : keys_up_to(run, tile_keys, static_cast<int32_t>(newest));
}

// Keys of the run that causality, the streams, the window and the blocks let the row see, as bits of the tile.
// `earliest`: the order from which the window counts, the row's own unless a range of orders is asked about.
AVFLOW_HD uint64_t seen_bits(const Problem& p, const Row& row, const Run& run, const Token* tile_keys,
                             int32_t earliest) {
    if (row.stream < 0) return 0;
    const bool own = run.stream == row.stream;
    int32_t limit;
    if (own) {
        limit = row.order;
    } else if (run.stream >= 0 && run.stream == p.streams[row.stream].parent) {
        limit = p.streams[row.stream].start - 1;
    } else {
        return 0;
    }
    uint64_t bits = low_bits(keys_up_to(run, tile_keys, limit));
    const uint64_t block = row.block < 0 || row.block != run.block ? 0 : own ? low_bits(run.count) : bits;
    if (p.window_in_blocks) bits |= block;
    if (p.window) bits &= ~low_bits(keys_too_old(run, tile_keys, earliest, p.window));
    if (!p.window_in_blocks) bits |= block;
    return bits << run.begin;
}

// Does the cut concern edges between tokens like these at all?
AVFLOW_HD bool concerns(const CutRule& cut, const Token& row, const Run& run) {
    if (!has(cut.target, row.group) || !has(cut.source, run.group)) return false;
    return !cut.other_items || (row.item >= 0 && run.item >= 0 && row.item != run.item);
}

// Those of `bits` that the cut takes out.
AVFLOW_HD uint64_t removed_bits(const CutRule& cut, const Token& row, const Run& run, const Token* tile_keys,
                                uint64_t bits) {
    uint64_t removed = bits;
    if (cut.threshold < kAllEdges) {
        const uint32_t of_row = hash_row(cut.seed, row.order);
        for (int32_t j = run.begin; j < run.begin + run.count; ++j) {
            if (edge_hash(of_row, tile_keys[j].order) >= cut.threshold) removed &= ~(uint64_t{1} << j);
        }
    }
    if (!cut.cut_self && run.stream == row.stream && row.order >= run.first_order && row.order <= run.last_order) {
        const int32_t upto = keys_up_to(run, tile_keys, row.order);  // >= 1
        const int32_t j = run.begin + upto - 1;
        if (tile_keys[j].order == row.order) removed &= ~(uint64_t{1} << j);
    }
    return removed;
}

struct Words {
    uint64_t seen;  // causality, streams, window and blocks
    uint64_t open;  // seen and not cut
};

// What `head` means below: a query head, or one of these.
constexpr int32_t kAnyHead = -1;    // open for some head: only cuts that name no heads count
constexpr int32_t kEveryHead = -2;  // open for every head: all cuts count

// The part of row_words that lies in one run.
AVFLOW_HD Words run_words(const Problem& p, const Row& row, const Run& run, const Token* tile_keys, int32_t head) {
    const uint64_t seen = seen_bits(p, row, run, tile_keys, row.order);
    if (!seen) return {0, 0};
    uint64_t open = seen;
    const int32_t cut_last = p.cut_begin[row.stream + 1];
    for (int32_t c = p.cut_begin[row.stream]; c < cut_last && open; ++c) {
        const CutRule& cut = p.cuts[p.cut_ids[c]];
        if (!concerns(cut, row, run)) continue;
        if (head >= 0 && !has(cut.heads, head)) continue;
        if (head == kAnyHead && cut.heads != kAllHeads) continue;
        open &= ~removed_bits(cut, row, run, tile_keys, open);
    }
    return {seen, open};
}

AVFLOW_HD Words row_words(const Problem& p, const Row& row, int32_t tile, int32_t head) {
    const Token* tile_keys = p.keys + static_cast<int64_t>(tile) * kKeyTile;
    Words words = {0, 0};
    for (int32_t r = p.run_begin[tile]; r < p.run_begin[tile + 1]; ++r) {
        const Words here = run_words(p, row, p.runs[r], tile_keys, head);
        words.seen |= here.seen;
        words.open |= here.open;
    }
    return words;
}

}  // namespace avflow
