// What one launch hands to the kernels, and how it is cut into blocks. Host code without CUDA types.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "core/mask.h"
#include "core/slots.h"
#include "cuda/wide_splits.h"
#include "kernels.h"

namespace avflow::cuda {

// Which forms of the kernels are built; benchmarks/cuda/forms.py times them side by side.
//   0  as they were measured last: one loop for tiles with masks and without, parts merged one after the other
//   1  a branch-free body for tiles without a mask, in the Hopper kernel and in attend; 16 parts at a
//      time; few_rows_kernel.cuh for tiles of few rows
//   2  as 3, and pairs_kernel.cuh where the copy engine brings the keys; has not run on a device yet
//   3  as 1, words by warps that fetch nothing, and the Hopper kernel's keys are split where its row tiles are few
#ifndef AVFLOW_FORM
#define AVFLOW_FORM 3
#endif
constexpr bool kWordsApart = AVFLOW_FORM >= 2, kWideSplits = AVFLOW_FORM >= 2;

constexpr int kWarps = 4;
constexpr int kThreads = 32 * kWarps;
constexpr int kTileHeads = 16 * kWarps;  // packed rows (rows x query heads of a kv head) of a tile: 16 a warp

constexpr int kFewHeads = 16;    // packed rows of a tile, at most, where the warps share out its keys instead
constexpr int kWideHeads = 128;  // packed rows of a tile of the Hopper kernel
constexpr int kStages = 4;       // tiles of keys and values that its ring holds

inline int32_t tile_rows(int32_t heads_per_kv_head) { return std::max(1, kTileHeads / heads_per_kv_head); }
inline int32_t wide_tile_rows(int32_t heads_per_kv_head) { return std::max(1, kWideHeads / heads_per_kv_head); }

struct Call {
    const uint16_t* q;
    const uint16_t* k;
    const uint16_t* v;
    uint16_t* out;
    float* lse;
    float* group_mass;
    float* parts;  // [row_tiles, kv_heads, splits, part_floats()] where splits > 1
    const int32_t* problem;
    const int32_t* row_order;  // [rows] or null
    int64_t q_row, q_head, k_batch, k_row, k_head, v_batch, v_row, v_head;
    Slots slots;
    int32_t heads, kv_heads, group;  // group: query heads of a kv head
    int32_t depth, mass_groups;      // mass_groups: 0 where no mass is asked for
    int32_t tile_heads;              // packed rows of a tile and its parts: kFewHeads, kTileHeads or kWideHeads
    int32_t splits, split_tiles;     // a row tile's live key tiles are cut into stretches of split_tiles
    float factor;                    // of the scores, > 0, to base 2
    bool mapped;                     // neighbouring keys are neighbours in memory: Hopper's copy engine brings them
    uint32_t flip;                   // sign bits of two queries, for a negative scale
};

// Of one part: running maximum [tile_heads] to base 2, sum [tile_heads], values [tile_heads, depth], mass [tile_heads,
// mass_groups].
AVFLOW_HD int64_t part_floats(const Call& c) {
    return static_cast<int64_t>(c.tile_heads) * (2 + c.depth + c.mass_groups);
}

// Below kFewBlocks blocks the keys are split, into about kSplitBlocks (two for each of an H200's 132 multiprocessors).
// Constants, not the device's own numbers: the split decides how sums round, and results should not depend on the
// device.
constexpr int64_t kFewBlocks = 128;
constexpr int64_t kSplitBlocks = 264;
constexpr int64_t kMinTilesPerSplit = 4;  // merging a part costs about as much as half a tile

// Tiles of a part where row tiles have few rows. Their blocks wait for memory alone, and sequences of a batch differ in
// length, so however many blocks there are, one that has more than its share of the tiles is cut. blocks: row tiles x
// kv heads; max_tiles: live key tiles of a row tile, at most; total_tiles: of all blocks.
constexpr int64_t few_split_tiles(int64_t blocks, int64_t max_tiles, int64_t total_tiles) {
    constexpr int64_t kMostParts = 16 * kSplitBlocks;  // of 9 KB each at head_dim 128
    const int64_t share = std::max((total_tiles + kSplitBlocks - 1) / kSplitBlocks, kMinTilesPerSplit);
    const int64_t most = std::max<int64_t>(kMostParts / std::max<int64_t>(blocks, 1), 1);
    // Rounded, so that 128 blocks of one length are cut in two and leave no stub.
    const int64_t parts = std::clamp<int64_t>((2 * max_tiles + share) / (2 * share), 1, most);
    return (max_tiles + parts - 1) / parts;
}

// Is the problem planned for the Hopper kernel or the tall one? Its tiles are too large for attend.
inline bool is_wide(const AvflowAttention& a, const Header& header) {
    return a.kv_heads > 0 && int64_t{header.tile_rows} * (a.heads / a.kv_heads) > kTileHeads;
}

// Has no tile more packed rows than a product of one warp takes?
inline bool has_few(const AvflowAttention& a, const Header& header) {
    const int64_t rows = std::min(header.tile_rows, header.rows);
    return AVFLOW_FORM != 0 && !is_wide(a, header) && a.kv_heads > 0 && rows * (a.heads / a.kv_heads) <= kFewHeads;
}
inline bool has_few(const Call& c) { return c.tile_heads == kFewHeads; }

// Whether the kernels take this call. Copies move 16 bytes at a time, so every row must begin at a multiple of that.
inline bool accepts(const AvflowAttention& a, const Header& header) {
    const bool dtype = a.dtype == AVFLOW_BFLOAT16 || a.dtype == AVFLOW_FLOAT16;
    const bool heads =
        a.kv_heads > 0 && a.heads % a.kv_heads == 0 && int64_t{header.tile_rows} * (a.heads / a.kv_heads) <= kWideHeads;
    int64_t misplaced = a.q_row | a.q_head | a.k_batch | a.k_row | a.k_head | a.v_batch | a.v_row | a.v_head;
    for (const void* at : {a.q, a.k, a.v, static_cast<const void*>(a.out)}) {
        misplaced |= static_cast<int64_t>(reinterpret_cast<uintptr_t>(at)) / 2;
    }
    return header.magic == kMagic && dtype && heads && (a.head_dim == 64 || a.head_dim == 128) && misplaced % 8 == 0;
}

// `header` is read on the host; a.problem is only passed on.
inline Call make_call(const AvflowAttention& a, const Header& header) {
    Call c{};
    c.q = static_cast<const uint16_t*>(a.q);
    c.k = static_cast<const uint16_t*>(a.k);
    c.v = static_cast<const uint16_t*>(a.v);
    c.out = static_cast<uint16_t*>(a.out);
    c.lse = a.lse;
    c.group_mass = a.group_mass;
    c.parts = static_cast<float*>(a.workspace);
    c.problem = a.problem;
    c.row_order = a.row_order;
    c.q_row = a.q_row, c.q_head = a.q_head;
    c.k_batch = a.k_batch, c.k_row = a.k_row, c.k_head = a.k_head;
    c.v_batch = a.v_batch, c.v_row = a.v_row, c.v_head = a.v_head;
    c.slots = {a.capacity, a.slots};
    c.heads = a.heads;
    c.kv_heads = a.kv_heads;
    c.group = a.heads / a.kv_heads;
    c.depth = a.head_dim;
    c.mass_groups = a.group_mass ? header.groups : 0;
    // The running maximum is taken before scaling, so the factor must be positive. For a scale of 0 a tiny one gives
    // the same weights, and -inf times it is still -inf.
    c.factor = std::max(std::fabs(a.scale) * 1.44269504088896341f, 1e-30f);
    // Neighbouring keys of the problem must be neighbours in memory, and there must be one.
    c.mapped = !header.keep_keys && header.keys <= a.capacity && a.slots > 0;
    c.flip = a.scale < 0 ? 0x80008000u : 0;
    c.tile_heads = is_wide(a, header) ? kWideHeads : has_few(a, header) ? kFewHeads : kTileHeads;
    const int64_t blocks = static_cast<int64_t>(header.row_tiles) * a.kv_heads;
    int64_t tiles = std::max(header.max_tiles, 1);
    if (is_wide(a, header)) {
        if (kWideSplits) tiles = wide_split_tiles(blocks, tiles, header.total_tiles * a.kv_heads);
    } else if (has_few(c)) {
        tiles = few_split_tiles(blocks, tiles, header.total_tiles * a.kv_heads);
    } else if (blocks < kFewBlocks) {
        const int64_t even = (header.total_tiles * a.kv_heads + kSplitBlocks - 1) / kSplitBlocks;
        tiles = std::min(tiles, std::max(even, kMinTilesPerSplit));
    }
    c.split_tiles = static_cast<int32_t>(tiles);
    c.splits = static_cast<int32_t>((std::max(header.max_tiles, 1) + tiles - 1) / tiles);
    return c;
}

inline int64_t blocks_of(const Call& c, const Header& header) {
    return static_cast<int64_t>(header.row_tiles) * c.kv_heads * c.splits;
}

inline int64_t workspace_bytes(const Call& c, const Header& header) {
    return c.splits > 1 ? blocks_of(c, header) * part_floats(c) * static_cast<int64_t>(sizeof(float)) : 0;
}

// Values of a tile that are +infinity or NaN, and -infinity or NaN: a bit a key, 32 keys a word, for each column.
struct Nonfinite {
    uint32_t up[2][128], down[2][128];
};

// Of the merge kernel: a share and a sum of each part. There are about kSplitBlocks parts at most.
inline size_t merge_shared_bytes(const Call& c) { return 2 * sizeof(float) * static_cast<size_t>(c.splits); }

// What a block shares besides keys and values.
struct alignas(16) Shared {
    Words words[2][kTileHeads];  // of the partial tile in each stage, by row or by packed row
    uint64_t used[kTileHeads];
    Nonfinite nonfinite;
    Problem problem;
};

// What a block shares besides keys and values where its warps share out the keys.
struct alignas(16) FewShared {
    uint32_t words[kWarps][kFewHeads];  // of a warp's 16 keys of a partial tile: seen, and from bit 16 on open
    uint16_t queries[kFewHeads * 128];  // laid out by chunk_at
    uint32_t nonfinite[kWarps][128];    // of a column: keys whose value is +infinity or NaN; from bit 16 on, -infinity
    float top[kWarps][kFewHeads], sum[kWarps][kFewHeads];
    Problem problem;
};

// What the Hopper kernel tells of a tile in its ring; -1: there are no more.
struct alignas(16) KeyTile {
    int32_t key_tile, whole, has_nonfinite;
};

// What a block works on: all live key tiles of a row tile, or a stretch of them.
struct Part {
    int32_t row_tile, kv_head;
    int32_t begin, tiles;  // the stretch, in live tiles
    bool whole, none;      // whole: it is all of them; none: another block has them all
    int64_t index;         // of the part, where not whole
};

// What a block of the Hopper kernel shares besides keys, values and queries.
struct alignas(16) WideShared {
    uint64_t landed[kStages], ready[kStages], free[kStages];  // barriers: bytes of the copy engine, the rest, the end
    KeyTile tile[kStages];
    Words words[kStages][kWideHeads];
    uint64_t used[kWideHeads];
    Nonfinite nonfinite[kStages];
    Problem problem;
    Part part;  // there and not in registers, as the problem: others would spill
};

inline int64_t wide_shared_bytes(const Call& c) {
    return (kStages * 2 * kKeyTile + kWideHeads) * c.depth * 2 + static_cast<int64_t>(sizeof(WideShared)) +
           kWideHeads * c.mass_groups * 4;
}

// Dynamic shared memory of a block of the other kernel: two stages of keys and values, what else it shares, then the
// mass.
inline int64_t shared_bytes(const Call& c) {
    return 2 * 2 * kKeyTile * c.depth * 2 + static_cast<int64_t>(sizeof(Shared)) + kTileHeads * c.mass_groups * 4;
}

// The same where warps share out the keys: the mass of each.
inline int64_t few_shared_bytes(const Call& c) {
    return 2 * 2 * kKeyTile * c.depth * 2 + static_cast<int64_t>(sizeof(FewShared)) +
           kWarps * kFewHeads * c.mass_groups * 4;
}

// What a map of keys or values covers: those of the problem that the tensors hold.
AVFLOW_HD int32_t mapped_keys(const Call& c, const Header& header) {
    return header.keys < c.slots.held ? header.keys : c.slots.held;
}

// Of hopper.cu, where AVFLOW_HAVE_HOPPER is defined, and of tall.cu. Both return a cudaError_t.
int32_t launch_wide(const Call& c, const Header& h, bool bf16, void* stream);
int32_t launch_tall(const Call& c, const Header& h, bool bf16, void* stream);

}  // namespace avflow::cuda
