// The steps of attention in fp32, whatever q, k and v are stored in: queries, panels, scores, softmax, values.
// Included by attention_isa.cpp only, inside its per-instruction-set namespace, which chooses this or bf16_batch.h.
#include "cpu/gemm.h"
#include "cpu/pack.h"

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

Ahead ahead(const float* at, int64_t stride, int width) {
    return {reinterpret_cast<const char*>(at), stride * 4, int64_t{width} * 4};
}

// Packs one tile that nobody packed beforehand; `finite`: do its values hold no NaN and no infinity. With a row or two
// against many keys, memory is what takes the time: the values are on their way while the keys are packed, and the next
// tile's keys while the values are looked at.
Values pack_here(const TaskPlan& plan, int tile, int kv_head, float* panel, bool& finite) {
    Values values{values_in_place(plan, tile, kv_head), plan.a.v_row, 0};
    pack_keys(plan, tile, kv_head, ahead(values.at, values.stride, plan.width), panel);
    if (!values.at) {
        float* packed = panel + kKeyTile * plan.depth;
        pack_values(plan, tile, kv_head, plan.width, packed);
        values = {packed, plan.width, 0};
    }
    finite = all_finite(values.at, values.stride, plan.width,
                        ahead(keys_in_place(plan, tile + 1, kv_head), plan.a.k_row, plan.width));
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
            values = pack_here(plan, batch.tiles[t], tile.kv_head, panel, is_finite);
            values.slot = t;
            keys = panel;
        }
        (is_finite ? finite[n_finite++] : nonfinite[n_nonfinite++]) = values;
        scores(static_cast<const float*>(w.q) + static_cast<int64_t>(begin) * plan.depth, count, keys, plan.depth,
               s + t * kKeyTile, kBatch * kKeyTile);
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

// Packs keys and values of a tile for all who read them.
void pack_panels(const TaskPlan& plan, int tile, int kv_head) {
    pack_keys(plan, tile, kv_head, {}, plan.key_panel(tile, kv_head));
    float* values = plan.value_panel(tile, kv_head);
    pack_values(plan, tile, kv_head, plan.width, values);
    plan.finite[static_cast<int64_t>(tile) * plan.a.kv_heads + kv_head] =
        all_finite(values, plan.width, plan.width, {});
}

// Before the first batch of a task, and after its last.
void begin_products() {}
void end_products() {}
