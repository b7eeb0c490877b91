// The packed problem: one int32 buffer that host and device read alike.
//
// Everything the kernels need to know of a layout lies in it: the token columns, the cuts of each stream, the runs of
// equal tokens in each key tile, and for each row tile the spans of key tiles that are not skipped. Its size is O(rows
// + keys + spans). A row tile has as many spans as its key tiles change their kind: a few where groups come in long
// stretches, up to one per key tile where cut and uncut groups alternate tile by tile. docs/the-op.md has the figures.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define AVFLOW_HD static __host__ __device__ __forceinline__
#elif !defined(AVFLOW_HD)  // the tests' emulator has one of its own
// A copy per translation unit: shared weak symbols would let one instruction set's code run under another's name.
#define AVFLOW_HD static inline
#endif

namespace avflow {

constexpr int32_t kMagic = 0x4156464C;
constexpr int32_t kKeyTile = 64;  // one 64-bit word tells which keys of a tile a row may see
constexpr uint64_t kAllHeads = ~uint64_t{0};
constexpr uint64_t kAllEdges = uint64_t{1} << 32;  // threshold that every 32-bit hash is below

constexpr int32_t kNoBlock = -1;

struct Token {
    int32_t order, group, item, stream;
};

// A row, with the block whose tokens see each other both ways.
struct Row : Token {
    int32_t block;
};

struct Stream {
    int32_t parent, start;
};

struct CutRule {
    uint64_t source, target, heads, threshold;
    uint32_t seed;
    uint32_t other_items;
    uint32_t cut_self;
    uint32_t pad;
};

// Neighbouring keys of one tile that differ in order only.
struct Run {
    int16_t begin, count;  // place in the tile
    int32_t group, item, stream, block;
    int32_t first_order, last_order;
    int32_t consecutive;  // orders step by one
};

enum SpanKind : int32_t { kPartial = 0, kFull = 1 };

// Key tiles first .. first + count - 1 of one kind.
struct Span {
    int32_t first, count, kind;
};

struct Header {
    int32_t magic, words;
    int32_t rows, keys;      // that take part
    int32_t q_rows, k_rows;  // of the tensors passed in, before keep lists
    int32_t streams, cuts, groups;
    int32_t tile_rows, row_tiles, key_tiles;
    int32_t zero;         // semantics "zero": cut edges still count in the denominator
    int32_t head_cuts;    // some cut names heads
    int32_t order_range;  // rows' orders are those of the tokens at least, `latest_order` at most; each call says which
    int32_t latest_order;
    int32_t window;            // keys of order <= row's - window are out of sight; 0: none are
    int32_t window_in_blocks;  // also those of the row's own block
    int64_t total_tiles;  // over all row tiles; passes 2^31 at some 2 million tokens, where the buffer is still small
    // Where the sections begin, in words from the buffer's start.
    int32_t row_tokens, key_tokens, stream_table, cut_table, cut_begin, cut_ids;
    int32_t run_begin, runs, span_begin, spans, tile_order;
    int32_t keep_rows, keep_keys;  // 0: all
    int32_t max_tiles;             // most key tiles that a row tile reads
    int32_t tile_first;            // where the plan is for a range of orders, else 0
    int32_t tile_last;             // the same, where there is a window
    int32_t row_blocks;            // 0: no row has a block
    int32_t pad;                   // named, so that it is 0: equal problems are equal buffers
};
static_assert(sizeof(Header) == 38 * sizeof(int32_t));

// Typed pointers into the buffer.
struct Problem {
    const Header* header;
    const Token* rows;
    const Token* keys;
    const Stream* streams;
    const CutRule* cuts;
    const int32_t* cut_begin;  // [streams + 1] into cut_ids
    const int32_t* cut_ids;
    const int32_t* run_begin;  // [key_tiles + 1] into runs
    const Run* runs;
    const int32_t* span_begin;  // [row_tiles + 1] into spans
    const Span* spans;
    const int32_t* tile_order;  // [row_tiles] heavy tiles first
    const int32_t* keep_rows;   // [rows] or null
    const int32_t* keep_keys;   // [keys] or null
    const int32_t* tile_first;  // [key_tiles] no row of a smaller order sees a key of the tile; or null
    const int32_t* tile_last;   // [key_tiles] no row whose window begins after that sees a key of the tile; or null
    const int32_t* row_blocks;  // [rows] or null
    int32_t window, window_in_blocks;
};

AVFLOW_HD Problem view(const int32_t* words) {
    const Header* h = reinterpret_cast<const Header*>(words);
    Problem p;
    p.header = h;
    p.rows = reinterpret_cast<const Token*>(words + h->row_tokens);
    p.keys = reinterpret_cast<const Token*>(words + h->key_tokens);
    p.streams = reinterpret_cast<const Stream*>(words + h->stream_table);
    p.cuts = reinterpret_cast<const CutRule*>(words + h->cut_table);
    p.cut_begin = words + h->cut_begin;
    p.cut_ids = words + h->cut_ids;
    p.run_begin = words + h->run_begin;
    p.runs = reinterpret_cast<const Run*>(words + h->runs);
    p.span_begin = words + h->span_begin;
    p.spans = reinterpret_cast<const Span*>(words + h->spans);
    p.tile_order = words + h->tile_order;
    p.keep_rows = h->keep_rows ? words + h->keep_rows : nullptr;
    p.keep_keys = h->keep_keys ? words + h->keep_keys : nullptr;
    p.tile_first = h->tile_first ? words + h->tile_first : nullptr;
    p.tile_last = h->tile_last ? words + h->tile_last : nullptr;
    p.row_blocks = h->row_blocks ? words + h->row_blocks : nullptr;
    p.window = h->window;
    p.window_in_blocks = h->window_in_blocks;
    return p;
}

AVFLOW_HD Row row_of(const Problem& p, int32_t index) {
    return {p.rows[index], p.row_blocks ? p.row_blocks[index] : kNoBlock};
}

}  // namespace avflow
