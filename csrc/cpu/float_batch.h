// The steps of attention in fp32, whatever q, k and v are stored in: queries, panels, scores, softmax, values.
// Included by attention_isa.cpp only, inside its per-instruction-set namespace, which chooses this or bf16_batch.h.
#include "cpu/stored.h"
// (order matters: what comes next uses stored.h)
#include "cpu/in_place.h"
// (and in_place.h)
#include "cpu/dots.h"
#include "cpu/gemm.h"
#include "cpu/pack.h"
#include "cpu/softmax.h"

void load_queries(const TaskPlan& plan, const Tile& tile, Scratch& w) {
    float* const q = static_cast<float*>(w.q);
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

// Number: what keys and values are read as; float, or what they are stored in where a row or a few read them.
template <typename Number>
void process_batch_as(const TaskPlan& plan, const Tile& tile, const Batch& batch, Scratch& w) {
    const int begin = batch.first, count = batch.last - begin, width = plan.width;
    float* const o = w.o + static_cast<int64_t>(begin) * width;
    float* const s = w.s + static_cast<int64_t>(begin) * kBatch * kKeyTile;
    const float* const q = static_cast<const float*>(w.q) + static_cast<int64_t>(begin) * plan.depth;
    TileValues<Number> finite[kBatch], nonfinite[kBatch];
    int n_finite = 0, n_nonfinite = 0;
    for (int t = 0; t < batch.count; ++t) {
        const float* keys = nullptr;  // their panel, where scores are still to be taken
        TileValues<Number> values;
        bool is_finite;
        if (plan.packed) {
            keys = plan.key_panel(batch.tiles[t], tile.kv_head);
            values = {reinterpret_cast<const Number*>(plan.value_panel(batch.tiles[t], tile.kv_head)), width, t};
            is_finite = plan.finite[batch.tiles[t] * plan.a.kv_heads + tile.kv_head];
        } else {
            // With a row or two against many keys, memory is what takes the time: the values are on their way while the
            // keys are read, and the next tile's keys while the values are looked at.
            const int key_tile = batch.tiles[t], head = tile.kv_head;
            const Ahead soon = ahead(values_in_place<Number>(plan, key_tile, head), plan.a.v_row, width);
            float* const panel = w.panels + t * plan.panel_floats();
            if (by_dots(plan, tile.count())) {
                scores_by_dots<float, Number>(plan, key_tile, head, soon, q, count, s + t * kKeyTile,
                                              kBatch * kKeyTile);
            } else {
                pack_keys(plan, key_tile, head, soon, panel);
                keys = panel;
            }
            auto* const packed = reinterpret_cast<Number*>(panel + plan.key_floats());
            values = values_here(plan, key_tile, head, packed, is_finite);
            values.slot = t;
        }
        (is_finite ? finite[n_finite++] : nonfinite[n_nonfinite++]) = values;
        if (keys) scores(q, count, keys, plan.depth, s + t * kKeyTile, kBatch * kKeyTile);
    }
    const bool zero = plan.p.header->zero;
    for (int m = begin; m < batch.last; ++m) {
        const uint64_t* open = w.open + m * kBatch;
        softmax_row(w.s + static_cast<int64_t>(m) * kBatch * kKeyTile, batch.count, zero ? w.seen + m * kBatch : open,
                    open, zero, w.top[m], w.sum[m], w.alpha[m]);
    }
    if (plan.a.group_mass) add_mass(plan, batch, begin, batch.last, s, w);
    accumulate(s, kBatch * kKeyTile, count, finite, n_finite, width, o, w.alpha + begin);
    for (int t = 0; t < n_nonfinite; ++t)
        add_nonfinite_values(s + nonfinite[t].slot * kKeyTile, nonfinite[t], count, width, o);
}

// A row or a few read numbers of 16 bits as they are: to write each as a float, and to read that, costs as much as the
// products. More rows share what was converted.
void process_batch(const TaskPlan& plan, const Tile& tile, const Batch& batch, Scratch& w) {
    const bool few = by_dots(plan, tile.count()) && tile.count() <= kFewRowsAsStored;
    if (few && plan.a.dtype == AVFLOW_BFLOAT16) return process_batch_as<Bfloat16>(plan, tile, batch, w);
    if constexpr (kLoadsHalves) {
        if (few && plan.a.dtype == AVFLOW_FLOAT16) return process_batch_as<Half>(plan, tile, batch, w);
    }
    process_batch_as<float>(plan, tile, batch, w);
}

// Packs keys and values of a tile for all who read them.
void pack_panels(const TaskPlan& plan, int tile, int kv_head) {
    pack_keys(plan, tile, kv_head, {}, plan.key_panel(tile, kv_head));
    float* values = plan.value_panel(tile, kv_head);
    gather_values(plan, tile, kv_head, plan.width, values);
    plan.finite[static_cast<int64_t>(tile) * plan.a.kv_heads + kv_head] =
        all_finite(values, plan.width, plan.width, {});
}

// Before the first batch of a task, and after its last.
void begin_products() {}
void end_products() {}
