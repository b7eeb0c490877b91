// How one attention call is cut into tasks, and where each finds its memory. Filled by attention.cpp, read by every
// instruction set's kernels.
#pragma once

#include <cstdint>
#include <vector>

#include "core/problem.h"
#include "core/slots.h"
#include "kernels.h"

namespace avflow::cpu {

constexpr int kBatch = 4;       // key tiles between two updates of the running maximum
constexpr int kTileHeads = 96;  // rows x query heads of a row tile: 16 register blocks of 6

static inline int64_t round_up(int64_t n, int64_t to) { return (n + to - 1) / to * to; }

// Live key tiles begin .. end - 1 (counted along the spans) of a row tile, for one kv head.
struct Task {
    int32_t row_tile, kv_head;
    int32_t begin, end;
    int32_t part;  // where its partial result goes, -1 if it is the whole
};

// A row tile under one kv head. Packed row m = row * heads + head: the heads of a row share its words.
struct TileExtent {
    int first_row, rows, heads, kv_head;
    int count() const { return rows * heads; }
};

struct Merge {
    int32_t row_tile, kv_head, first_part, parts;
};

struct TaskPlan {
    AvflowAttention a;
    Problem p;
    int depth;  // head_dim
    int width;  // head_dim rounded up to 16: columns of a value panel
    int groups;
    int64_t tile_heads;  // room for rows x query heads of a tile
    bool packed;         // keys and values are packed beforehand, since several row tiles read them
    char* scratch;
    int64_t scratch_bytes;      // of one worker
    float* panels;              // [key_tiles, kv_heads, 64 * (depth + width)]
    uint8_t* finite;            // [key_tiles, kv_heads] values hold no NaN and no infinity
    float* parts;               // [parts, part_floats()]
    std::vector<int32_t> live;  // key tiles that some row tile reads
    std::vector<Task> tasks;
    std::vector<Merge> merges;

    Slots slots() const { return {a.capacity, a.slots}; }
    // Where one kv head's keys begin, in elements; `row` counts slots.
    int64_t key_offset(Place at, int kv_head) const {
        return at.batch * a.k_batch + at.slot * a.k_row + kv_head * a.k_head;
    }
    int64_t value_offset(Place at, int kv_head) const {
        return at.batch * a.v_batch + at.slot * a.v_row + kv_head * a.v_head;
    }
    int64_t panel_floats() const { return static_cast<int64_t>(kKeyTile) * (depth + width); }
    int64_t part_floats() const { return tile_heads * (2 + width + groups); }
    float* key_panel(int tile, int kv_head) const {
        return panels + (static_cast<int64_t>(tile) * a.kv_heads + kv_head) * panel_floats();
    }
    float* value_panel(int tile, int kv_head) const { return key_panel(tile, kv_head) + kKeyTile * depth; }
    float* part(int index) const { return parts + index * part_floats(); }

    TileExtent tile(int row_tile, int kv_head) const {
        const int first = row_tile * p.header->tile_rows;
        const int left = p.header->rows - first;
        return {first, left < p.header->tile_rows ? left : p.header->tile_rows, a.heads / a.kv_heads, kv_head};
    }
};

}  // namespace avflow::cpu
