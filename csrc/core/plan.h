// Builds the packed problem: runs of the key tiles, and for each row tile the key tiles that are not skipped.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "problem.h"

namespace avflow {

struct Layout {
    std::vector<Token> rows, keys;  // that take part, keep lists already applied
    std::vector<Stream> streams;
    std::vector<CutRule> cuts;
    std::vector<std::vector<int32_t>> stream_cuts;  // [streams] indices into cuts
    std::vector<int32_t> keep_rows, keep_keys;      // where `keep` is set
    bool keeps_rows = false, keeps_keys = false;
    int32_t q_rows = 0, k_rows = 0, groups = 1;
    int32_t tile_rows = 1;
    bool rows_apart = false;  // fewer rows a tile, where that parts sequences that share no keys; see row_tiles.h
    std::vector<int32_t> row_blocks, key_blocks;  // of each row and key, -1: none; empty: all none
    int32_t window = 0;                           // 0: none
    bool window_in_blocks = false;
    bool zero = false;
    std::optional<int32_t> latest_order;  // a row's order is its token's at least and this at most
    int64_t most_words = INT32_MAX;       // of the buffer: its offsets are int32
};

// run(context, n, body, arg) calls body(arg, i) for i = 0 .. n - 1, possibly at once, and returns when all are done.
struct Threads {
    void (*run)(void* context, int64_t n, void (*body)(void* arg, int64_t i), void* arg);
    void* context;
    int64_t workers;
};

// Skip iff no row of the tile sees an open key (in "zero" semantics: a seen key); full iff every row sees all 64 keys
// with nothing cut for any head; partial otherwise. Both are exact but for one case: cuts limited to heads are judged
// together. Where rows have a range of orders: skip iff so for all of them, full only if so for all of them.
//
// Throws std::length_error where the buffer would have more than most_words, std::bad_alloc where memory ends, also in
// one of its threads. Without `threads` it starts its own, as many as pay and `most_threads` at most; the result is the
// same with any.
std::vector<int32_t> pack(const Layout& layout, const Threads* threads = nullptr, int64_t most_threads = 1);

}  // namespace avflow
