// Attention on the CPU, compiled once per instruction set with AVFLOW_ISA = portable, avx2 or avx512, and for bfloat16
// alone with avx512_bf16 and amx.
//
// Blocks as in FlashAttention-2 (Dao 2023, arXiv 2307.08691): a tile of rows x query heads of one kv head walks its
// live key tiles with a running maximum and sum. Keys and values are packed to panels once per call and shared by all
// row tiles.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AMX_BF16__) || defined(__AMXBF16__)  // the second is Clang's up to 16
#define AVFLOW_AMX
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
// (order matters: what comes next uses vec.h)
#include "cpu/ahead.h"
#include "cpu/convert.h"

constexpr float kLn2 = 0.693147180559945309f;
constexpr float kMinusInfinity = -__builtin_inff();

using Tile = TileExtent;

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

// mass [rows, groups] += weights of each run of keys in each tile of the batch, for rows first .. last - 1; their
// weights [last - first, batch * 64].
void add_mass(const TaskPlan& plan, const Batch& batch, int first, int last, const float* weights, Scratch& w) {
    const int groups = plan.groups;
    for (int m = first; m < last; ++m) {
        float* mass = w.mass + static_cast<int64_t>(m) * groups;
        for (int g = 0; g < groups; ++g) mass[g] *= w.alpha[m];
        for (int t = 0; t < batch.count; ++t, weights += kKeyTile) {
            for (int r = plan.p.run_begin[batch.tiles[t]]; r < plan.p.run_begin[batch.tiles[t] + 1]; ++r) {
                const Run& run = plan.p.runs[r];
                float share = 0.0f;
                for (int j = run.begin; j < run.begin + run.count; ++j) share += weights[j];
                mass[run.group] += share;
            }
        }
        weights += (kBatch - batch.count) * kKeyTile;
    }
}

#if defined(__AVX512BF16__) || defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include "cpu/bf16_batch.h"
#else
#include "cpu/float_batch.h"
#endif

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
    load_queries(plan, tile, w);
    std::memset(w.o, 0, sizeof(float) * count * plan.width);
    std::fill(w.top, w.top + count, kMinusInfinity);
    std::fill(w.sum, w.sum + count, 0.0f);
    if (plan.a.group_mass) std::memset(w.mass, 0, sizeof(float) * count * plan.groups);

    begin_products();
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
    end_products();

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
    pack_panels(plan, static_cast<int>(index / plan.a.kv_heads), static_cast<int>(index % plan.a.kv_heads));
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
