// Attention on the CPU, compiled once per instruction set with AVFLOW_ISA = portable, avx2 or avx512.
//
// Blocks as in FlashAttention-2 (Dao 2023, arXiv 2307.08691): a tile of rows x query heads of one kv head walks its
// live key tiles with a running maximum and sum. Keys and values are packed to fp32 panels once per call and shared by
// all row tiles.
#include <algorithm>
#include <cmath>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#endif

#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // gcc 12's own _mm512_max_ps warns (GCC bug 105593)
#endif

#include "core/mask.h"
#include "cpu/tasks.h"
#include "kernels.h"

namespace avflow::cpu::AVFLOW_ISA {
namespace {

#include "cpu/vec.h"
// (order matters: the next three use vec.h)
#include "cpu/convert.h"
#include "cpu/gemm.h"
#include "cpu/pack.h"

constexpr float kLn2 = 0.693147180559945309f;
constexpr float kMinusInfinity = -__builtin_inff();

// One worker's share of the workspace.
struct Scratch {
    float* q;        // [rows, d], times scale * log2(e)
    float* s;        // [rows, batch * 64] scores, then weights
    float* o;        // [rows, width]
    float* top;      // [rows] running maximum, base-2
    float* sum;      // [rows] running sum
    float* alpha;    // [rows]
    float* mass;     // [rows, groups]
    uint64_t* seen;  // [rows, batch]
    uint64_t* open;  // [rows, batch]
    float* panels;   // [batch, 64 * (d + width)] where nothing is packed beforehand

    Scratch(const TaskPlan& plan, int64_t worker) {
        char* at = plan.scratch + worker * plan.scratch_bytes;
        const auto take = [&](auto*& pointer, int64_t count) {
            pointer = reinterpret_cast<std::remove_reference_t<decltype(pointer)>>(at);
            at += round_up(count * static_cast<int64_t>(sizeof(*pointer)), 64);
        };
        take(q, plan.tile_heads * plan.depth);
        take(s, plan.tile_heads * kBatch * kKeyTile);
        take(o, plan.tile_heads * plan.width);
        take(top, plan.tile_heads);
        take(sum, plan.tile_heads);
        take(alpha, plan.tile_heads);
        take(mass, plan.tile_heads * plan.groups);
        take(seen, plan.tile_heads * kBatch);
        take(open, plan.tile_heads * kBatch);
        take(panels, plan.packed ? 0 : kBatch * plan.panel_floats());
    }
};

using Tile = TileExtent;

void load_queries(const TaskPlan& plan, const Tile& tile, float* q) {
    const AvflowAttention& a = plan.a;
    const float factor = a.scale / kLn2;  // scores in base 2, so that the softmax is an exp2
    for (int r = 0; r < tile.rows; ++r) {
        const int row = tile.first_row + r;
        const int64_t from = plan.p.keep_rows ? plan.p.keep_rows[row] : row;
        for (int h = 0; h < tile.heads; ++h) {
            const int64_t head = tile.kv_head * tile.heads + h;
            load_row(a.q, from * a.q_row + head * a.q_head, a.dtype, plan.depth, factor,
                     q + (r * tile.heads + h) * plan.depth);
        }
    }
}

// Which keys of the tile are held.
uint64_t held_bits(const TaskPlan& plan, int key_tile) {
    if (all_held(plan.p, plan.slots(), key_tile)) return ~uint64_t{0};
    uint64_t bits = 0;
    for (int j = 0; j < keys_in_tile(plan.p, key_tile); ++j) {
        bits |= uint64_t{is_held(plan.p, plan.slots(), key_tile * kKeyTile + j)} << j;
    }
    return bits;
}

void fill_words(const TaskPlan& plan, const Tile& tile, int key_tile, int slot, Scratch& w) {
    const uint64_t held = held_bits(plan, key_tile);
    for (int r = 0; r < tile.rows; ++r) {
        Row row = row_of(plan.p, tile.first_row + r);
        if (plan.a.row_order) row.order = plan.a.row_order[tile.first_row + r];
        Words words = {0, 0};
        for (int h = 0; h < tile.heads; ++h) {
            if (h == 0 || plan.p.header->head_cuts) {
                words = row_words(plan.p, row, key_tile, tile.kv_head * tile.heads + h);
            }
            const int at = (r * tile.heads + h) * kBatch + slot;
            w.seen[at] = words.seen & held;
            w.open[at] = words.open & held;
        }
    }
}

// Turns one row's scores s [tiles * 64] into weights and moves its running maximum and sum on.
// scored[t]: which keys have a score; kept[t]: which of them keep their weight (they differ in "zero" semantics only).
AVFLOW_INLINE void softmax_row(float* s, int tiles, const uint64_t* scored, const uint64_t* kept, bool zero, float& top,
                               float& sum, float& alpha) {
    Vec most = splat(kMinusInfinity);
    uint64_t any = 0;
    for (int t = 0; t < tiles; ++t) {
        float* at = s + t * kKeyTile;
        any |= scored[t];
        if (scored[t] == ~uint64_t{0}) {
            for (int j = 0; j < kKeyTile; j += W) most = maximum(most, load(at + j));
        } else {
            for (int j = 0; j < kKeyTile; j += W) {
                const Vec x = select(static_cast<uint32_t>(scored[t] >> j), load(at + j), kMinusInfinity);
                store(at + j, x);
                most = maximum(most, x);
            }
        }
    }
    if (!any) {  // nothing seen in this batch; -inf - -inf below would be NaN
        std::memset(s, 0, sizeof(float) * tiles * kKeyTile);
        alpha = 1.0f;
        return;
    }
    const float now = std::max(top, horizontal_max(most));
    alpha = top == kMinusInfinity ? 0.0f : std::exp2(top - now);
    const Vec base = splat(now);
    Vec total = Vec{};
    for (int j = 0; j < tiles * kKeyTile; j += W) {
        const Vec weight = exp2_nonpositive(load(s + j) - base);
        store(s + j, weight);
        total += weight;
    }
    sum = sum * alpha + horizontal_sum(total);
    top = now;
    if (!zero) return;
    for (int t = 0; t < tiles; ++t) {
        if (kept[t] == scored[t]) continue;
        float* at = s + t * kKeyTile;
        for (int j = 0; j < kKeyTile; j += W) {
            store(at + j, select(static_cast<uint32_t>(kept[t] >> j), load(at + j), 0.0f));
        }
    }
}

// o += weights x values of a tile with NaN or infinite values: only where the weight is not exactly 0.
void add_nonfinite_values(const float* s, const Values& values, int count, int width, float* o) {
    for (int m = 0; m < count; ++m) {
        for (int j = 0; j < kKeyTile; ++j) {
            const float weight = s[static_cast<int64_t>(m) * kBatch * kKeyTile + j];
            if (weight == 0.0f) continue;
            for (int c = 0; c < width; ++c) o[m * width + c] += weight * values.at[j * values.stride + c];
        }
    }
}

// Key tiles that are multiplied together, and the packed rows first .. last - 1 that have a score in one of them.
struct Batch {
    int count = 0, first = 0, last = 0;
    int tiles[kBatch];
};

// Takes the tile in, unless no row has a score there (its order, or slots that are not held, may close it).
void add_tile(const TaskPlan& plan, const Tile& tile, int key_tile, bool full, Batch& batch, Scratch& w) {
    const int count = tile.count(), slot = batch.count;
    int first = 0, last = count;
    if (none_held(plan.p, plan.slots(), key_tile)) return;
    if (full && all_held(plan.p, plan.slots(), key_tile)) {
        for (int m = 0; m < count; ++m) w.seen[m * kBatch + slot] = w.open[m * kBatch + slot] = ~uint64_t{0};
    } else {
        fill_words(plan, tile, key_tile, slot, w);
        const uint64_t* scored = plan.p.header->zero ? w.seen : w.open;
        while (first < last && !scored[first * kBatch + slot]) ++first;
        while (first < last && !scored[(last - 1) * kBatch + slot]) --last;
        if (first == last) return;
    }
    batch.first = slot ? std::min(batch.first, first) : first;
    batch.last = slot ? std::max(batch.last, last) : last;
    batch.tiles[batch.count++] = key_tile;
}

// mass [rows, groups] += weights of each run of keys in each tile of the batch.
void add_mass(const TaskPlan& plan, const Batch& batch, Scratch& w) {
    const int groups = plan.groups;
    for (int m = batch.first; m < batch.last; ++m) {
        float* mass = w.mass + static_cast<int64_t>(m) * groups;
        for (int g = 0; g < groups; ++g) mass[g] *= w.alpha[m];
        for (int t = 0; t < batch.count; ++t) {
            const float* weights = w.s + (static_cast<int64_t>(m) * kBatch + t) * kKeyTile;
            for (int r = plan.p.run_begin[batch.tiles[t]]; r < plan.p.run_begin[batch.tiles[t] + 1]; ++r) {
                const Run& run = plan.p.runs[r];
                float share = 0.0f;
                for (int j = run.begin; j < run.begin + run.count; ++j) share += weights[j];
                mass[run.group] += share;
            }
        }
    }
}

// Can the kernel read the tile's keys and values where they lie: 64 rows of floats in one batch?
bool in_place(const TaskPlan& plan, int tile) {
    const bool whole = (tile + 1) * kKeyTile <= plan.p.header->keys;
    if (plan.a.dtype != AVFLOW_FLOAT32 || !whole || plan.p.keep_keys || plan.width != plan.depth) return false;
    return place_of(plan.slots(), tile * kKeyTile).slot + kKeyTile <= plan.a.slots;
}

// One tile's keys or values, or null where they are not in place.
const float* keys_in_place(const TaskPlan& plan, int tile, int kv_head) {
    if (!in_place(plan, tile)) return nullptr;
    return static_cast<const float*>(plan.a.k) + plan.key_offset(place_of(plan.slots(), tile * kKeyTile), kv_head);
}
const float* values_in_place(const TaskPlan& plan, int tile, int kv_head) {
    if (!in_place(plan, tile)) return nullptr;
    return static_cast<const float*>(plan.a.v) + plan.value_offset(place_of(plan.slots(), tile * kKeyTile), kv_head);
}

void prefetch(const float* at, int64_t stride, int width) {
    for (int j = 0; at && j < kKeyTile; ++j) {
        for (int c = 0; c < width; c += 16) __builtin_prefetch(at + j * stride + c, 0, 2);
    }
}

// Packs one tile that nobody packed beforehand. With a row or two against many keys, memory is what takes the time: the
// values are on their way while the keys are packed, and the next tile's keys while these are multiplied.
Values pack_here(const TaskPlan& plan, int tile, int kv_head, float* panel) {
    Values values{values_in_place(plan, tile, kv_head), plan.a.v_row, 0};
    prefetch(values.at, values.stride, plan.width);
    pack_keys(plan, tile, kv_head, panel);
    prefetch(keys_in_place(plan, tile + 1, kv_head), plan.a.k_row, plan.width);
    if (!values.at) {
        float* packed = panel + kKeyTile * plan.depth;
        pack_values(plan, tile, kv_head, plan.width, packed);
        values = {packed, plan.width, 0};
    }
    return values;
}

void process_batch(const TaskPlan& plan, const Tile& tile, const Batch& batch, Scratch& w) {
    const int begin = batch.first, count = batch.last - begin, width = plan.width;
    float* const o = w.o + static_cast<int64_t>(begin) * width;
    float* const s = w.s + static_cast<int64_t>(begin) * kBatch * kKeyTile;
    Values finite[kBatch], nonfinite[kBatch];
    int n_finite = 0, n_nonfinite = 0;
    for (int t = 0; t < batch.count; ++t) {
        const float* keys;
        Values values;
        bool is_finite;
        if (plan.packed) {
            keys = plan.key_panel(batch.tiles[t], tile.kv_head);
            values = {plan.value_panel(batch.tiles[t], tile.kv_head), width, t};
            is_finite = plan.finite[batch.tiles[t] * plan.a.kv_heads + tile.kv_head];
        } else {
            float* panel = w.panels + t * plan.panel_floats();
            values = pack_here(plan, batch.tiles[t], tile.kv_head, panel);
            values.slot = t;
            keys = panel;
            is_finite = all_finite(values.at, values.stride, width);
        }
        (is_finite ? finite[n_finite++] : nonfinite[n_nonfinite++]) = values;
        scores(w.q + static_cast<int64_t>(begin) * plan.depth, count, keys, plan.depth, s + t * kKeyTile,
               kBatch * kKeyTile);
    }
    const bool zero = plan.p.header->zero;
    for (int m = begin; m < batch.last; ++m) {
        const uint64_t* open = w.open + m * kBatch;
        softmax_row(w.s + static_cast<int64_t>(m) * kBatch * kKeyTile, batch.count, zero ? w.seen + m * kBatch : open,
                    open, zero, w.top[m], w.sum[m], w.alpha[m]);
    }
    if (plan.a.group_mass) add_mass(plan, batch, w);
    accumulate(s, kBatch * kKeyTile, count, finite, n_finite, width, o, w.alpha + begin);
    for (int t = 0; t < n_nonfinite; ++t)
        add_nonfinite_values(s + nonfinite[t].slot * kKeyTile, nonfinite[t], count, width, o);
}

// Writes a finished tile: out = o / sum, lse and mass beside it.
void finish(const TaskPlan& plan, const Tile& tile, const float* o, const float* top, const float* sum,
            const float* mass) {
    const AvflowAttention& a = plan.a;
    for (int r = 0; r < tile.rows; ++r) {
        for (int h = 0; h < tile.heads; ++h) {
            const int m = r * tile.heads + h;
            const int64_t at = static_cast<int64_t>(tile.first_row + r) * a.heads + tile.kv_head * tile.heads + h;
            const float share = sum[m] == 0.0f ? 0.0f : 1.0f / sum[m];  // NaN stays NaN
            store_row(a.out, at * plan.depth, a.dtype, plan.depth, o + static_cast<int64_t>(m) * plan.width, share);
            if (a.lse) a.lse[at] = sum[m] == 0.0f ? kMinusInfinity : (top[m] + std::log2(sum[m])) * kLn2;
            if (!a.group_mass) continue;
            for (int g = 0; g < plan.groups; ++g) {
                a.group_mass[at * plan.groups + g] = mass[static_cast<int64_t>(m) * plan.groups + g] * share;
            }
        }
    }
}

void run_task(const TaskPlan& plan, const Task& task, Scratch& w) {
    const Tile tile = plan.tile(task.row_tile, task.kv_head);
    const int count = tile.count();
    load_queries(plan, tile, w.q);
    std::memset(w.o, 0, sizeof(float) * count * plan.width);
    std::fill(w.top, w.top + count, kMinusInfinity);
    std::fill(w.sum, w.sum + count, 0.0f);
    if (plan.a.group_mass) std::memset(w.mass, 0, sizeof(float) * count * plan.groups);

    Batch batch;
    int at = 0;  // live tiles of this row tile so far
    for (int s = plan.p.span_begin[task.row_tile]; s < plan.p.span_begin[task.row_tile + 1] && at < task.end; ++s) {
        const Span& span = plan.p.spans[s];
        const int first = std::max(task.begin - at, 0), last = std::min(task.end - at, span.count);
        for (int i = first; i < last; ++i) {
            add_tile(plan, tile, span.first + i, span.kind == kFull, batch, w);
            if (batch.count == kBatch) {
                process_batch(plan, tile, batch, w);
                batch.count = 0;
            }
        }
        at += span.count;
    }
    if (batch.count) process_batch(plan, tile, batch, w);

    if (task.part < 0) return finish(plan, tile, w.o, w.top, w.sum, w.mass);
    float* part = plan.part(task.part);
    std::memcpy(part, w.top, sizeof(float) * count);
    std::memcpy(part + plan.tile_heads, w.sum, sizeof(float) * count);
    std::memcpy(part + 2 * plan.tile_heads, w.o, sizeof(float) * count * plan.width);
    if (plan.a.group_mass) {
        std::memcpy(part + plan.tile_heads * (2 + plan.width), w.mass, sizeof(float) * count * plan.groups);
    }
}

// Merges the parts of a row tile whose keys were split, always in the order of the keys: the result does not depend on
// the number of workers.
void run_merge(const TaskPlan& plan, const Merge& merge, Scratch& w) {
    const Tile tile = plan.tile(merge.row_tile, merge.kv_head);
    const int count = tile.count(), width = plan.width, groups = plan.groups;
    for (int m = 0; m < count; ++m) {
        float top = kMinusInfinity, sum = 0.0f;
        for (int i = 0; i < merge.parts; ++i) {
            const float* part = plan.part(merge.first_part + i);
            if (part[plan.tile_heads + m] != 0.0f) top = std::max(top, part[m]);
        }
        float* o = w.o + static_cast<int64_t>(m) * width;
        float* mass = w.mass + static_cast<int64_t>(m) * groups;
        std::fill(o, o + width, 0.0f);
        if (plan.a.group_mass) std::fill(mass, mass + groups, 0.0f);
        for (int i = 0; i < merge.parts; ++i) {
            const float* part = plan.part(merge.first_part + i);
            const float part_sum = part[plan.tile_heads + m];
            if (part_sum == 0.0f) continue;  // this part saw nothing
            const float factor = std::exp2(part[m] - top);
            sum += part_sum * factor;
            const float* from = part + plan.tile_heads * 2 + static_cast<int64_t>(m) * width;
            for (int c = 0; c < width; ++c) o[c] += from[c] * factor;
            if (!plan.a.group_mass) continue;
            const float* from_mass = part + plan.tile_heads * (2 + width) + static_cast<int64_t>(m) * groups;
            for (int g = 0; g < groups; ++g) mass[g] += from_mass[g] * factor;
        }
        w.top[m] = top;
        w.sum[m] = sum;
    }
    finish(plan, tile, w.o, w.top, w.sum, w.mass);
}

}  // namespace

void pack_tile(const TaskPlan& plan, int64_t index) {
    const int tile = static_cast<int>(index / plan.a.kv_heads), kv_head = static_cast<int>(index % plan.a.kv_heads);
    pack_keys(plan, tile, kv_head, plan.key_panel(tile, kv_head));
    float* values = plan.value_panel(tile, kv_head);
    pack_values(plan, tile, kv_head, plan.width, values);
    plan.finite[index] = all_finite(values, plan.width, plan.width);
}

void attend(const TaskPlan& plan, int64_t task, int64_t worker) {
    Scratch scratch(plan, worker);
    run_task(plan, plan.tasks[task], scratch);
}

void merge(const TaskPlan& plan, int64_t index, int64_t worker) {
    Scratch scratch(plan, worker);
    run_merge(plan, plan.merges[index], scratch);
}

}  // namespace avflow::cpu::AVFLOW_ISA
