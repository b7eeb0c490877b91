// How one attention call is cut into tasks, and where each finds its memory. Filled by attention.cpp, read by every
// instruction set's kernels.
#pragma once

#include <cstdint>
#include <type_traits>
#include <vector>

#include "core/problem.h"
#include "core/slots.h"
#include "kernels.h"

namespace avflow::cpu {

constexpr int kBatch = 4;       // key tiles between two updates of the running maximum
constexpr int kTileHeads = 96;  // rows x query heads of a row tile: 16 register blocks of 6
constexpr int kBf16Rows = 32;   // of a row tile that bf16_batch.h takes at a time: two matrix tiles of AMX

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
    bool bf16;           // products of pairs of bfloat16 (bf16_batch.h); else of floats (float_batch.h)
    int deep;            // columns of a query and of a key panel: head_dim, with bf16 rounded up to 32
    bool packed;         // keys and values are packed beforehand, since several row tiles read them
    char* scratch;
    int64_t scratch_bytes;      // of one worker
    float* panels;              // [key_tiles, kv_heads, panel_floats()]
    uint8_t* finite;            // [key_tiles, kv_heads] values hold no NaN and no infinity
    float* parts;               // [parts, part_floats()]
    std::vector<int32_t> live;  // key tiles that some row tile reads
    std::vector<Task> tasks;
    std::vector<Merge> merges;

    Slots slots() const { return {a.capacity, a.slots}; }
    // Where key j of a tile lies; slot -1 for a key beyond the last, or one that is not held.
    Place place_in(int tile, int j) const {
        const int index = tile * kKeyTile + j;
        if (index >= p.header->keys) return {0, -1};
        const Place at = place_of(slots(), p.keep_keys ? p.keep_keys[index] : index);
        return at.slot < a.slots ? at : Place{0, -1};
    }
    // Where one kv head's keys begin, in elements; `row` counts slots.
    int64_t key_offset(Place at, int kv_head) const {
        return at.batch * a.k_batch + at.slot * a.k_row + kv_head * a.k_head;
    }
    int64_t value_offset(Place at, int kv_head) const {
        return at.batch * a.v_batch + at.slot * a.v_row + kv_head * a.v_head;
    }
    // A panel of keys, then one of values; of bf16 there are two numbers in the place of a float.
    int64_t key_floats() const { return static_cast<int64_t>(kKeyTile) * deep / (bf16 ? 2 : 1); }
    int64_t panel_floats() const { return key_floats() + static_cast<int64_t>(kKeyTile) * width / (bf16 ? 2 : 1); }
    int64_t part_floats() const { return tile_heads * (2 + width + groups); }
    float* key_panel(int tile, int kv_head) const {
        return panels + (static_cast<int64_t>(tile) * a.kv_heads + kv_head) * panel_floats();
    }
    float* value_panel(int tile, int kv_head) const { return key_panel(tile, kv_head) + key_floats(); }
    float* part(int index) const { return parts + index * part_floats(); }

    TileExtent tile(int row_tile, int kv_head) const {
        const int first = row_tile * p.header->tile_rows;
        const int left = p.header->rows - first;
        return {first, left < p.header->tile_rows ? left : p.header->tile_rows, a.heads / a.kv_heads, kv_head};
    }
};

// One worker's share of the workspace.
struct Scratch {
    void* q;         // [rows, deep] floats times scale * log2(e), or bf16 as they came
    float* s;        // [rows, batch * 64] scores, then weights; with bf16 those of kBf16Rows rows at a time
    uint16_t* p;     // [kBf16Rows, batch * 64] with bf16: its weights
    float* o;        // [rows, width]
    float* top;      // [rows] running maximum, base-2
    float* sum;      // [rows] running sum
    float* alpha;    // [rows]
    float* mass;     // [rows, groups]
    uint64_t* seen;  // [rows, batch]
    uint64_t* open;  // [rows, batch]
    float* panels;   // [batch, panel_floats()] where nothing is packed beforehand
    int64_t bytes;   // of all

    Scratch(const TaskPlan& plan, int64_t worker) {
        uintptr_t at = reinterpret_cast<uintptr_t>(plan.scratch) + worker * plan.scratch_bytes;
        const uintptr_t begin = at;
        const auto take = [&](auto*& pointer, int64_t bytes_each, int64_t count) {
            pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
            at += round_up(count * bytes_each, 64);
        };
        const int64_t rows = plan.bf16 ? round_up(plan.tile_heads, kBf16Rows) : plan.tile_heads;
        take(q, plan.bf16 ? 2 : 4, rows * plan.deep);
        take(s, 4, (plan.bf16 ? kBf16Rows : rows) * kBatch * kKeyTile);
        take(p, 2, plan.bf16 ? kBf16Rows * kBatch * kKeyTile : 0);
        take(o, 4, rows * plan.width);
        take(top, 4, rows);
        take(sum, 4, rows);
        take(alpha, 4, rows);
        take(mass, 4, rows * plan.groups);
        take(seen, 8, rows * kBatch);
        take(open, 8, rows * kBatch);
        take(panels, 4, plan.packed ? 0 : kBatch * plan.panel_floats());
        bytes = static_cast<int64_t>(at - begin);
    }
};

}  // namespace avflow::cpu
