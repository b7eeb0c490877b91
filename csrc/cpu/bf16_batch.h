// The steps of attention in bfloat16 where the processor multiplies it: queries, panels, scores, softmax, values.
// Included by attention_isa.cpp only, inside its per-instruction-set namespace, which chooses this or float_batch.h.
//
// Products of bfloat16 are exact and summed in fp32, and so are maximum, sum and group mass. Only the weights are
// rounded (to nearest) before they are multiplied with the values, as torch's sdpa and FlashAttention do; the sum that
// divides has them unrounded. Numbers below 2^-126 count as 0.

// The values of one key tile.
struct Values {
    const uint32_t* at;  // panel of 64 x width numbers
    int slot;            // the tile's place in the weights
};

#if defined(__aarch64__)
#include "cpu/softmax.h"
// (order matters: what comes next uses softmax.h)
#include "cpu/bf16_neon.h"
#else
#include "cpu/bf16_panels.h"
#include "cpu/bf16_softmax.h"
#if defined(AVFLOW_AMX)
#include "cpu/bf16_amx.h"
#else
#include "cpu/bf16_dot.h"
#endif
#endif

#if defined(AVFLOW_AMX)
// Are keys read where they lie, if they can be?
bool few_rows(const TaskPlan& plan, const Tile& tile) { return !plan.packed && tile.count() <= 16; }

// Of those few rows, [deep / 2, 16] words, behind the 16 rows as they are.
uint32_t* turned_queries(const TaskPlan& plan, const Scratch& w) { return static_cast<uint32_t*>(w.q) + 8 * plan.deep; }

// Can a tile's keys be read where they lie: 64 whole rows of one batch?
bool in_place(const TaskPlan& plan, int tile) {
    const bool whole = (tile + 1) * kKeyTile <= plan.p.header->keys;
    if (!whole || plan.p.keep_keys || plan.deep != plan.depth) return false;
    return place_of(plan.slots(), tile * kKeyTile).slot + kKeyTile <= plan.a.slots;
}
#endif

// Products take 16 rows at a time: those beyond the tile's are zeros.
void load_queries(const TaskPlan& plan, const Tile& tile, Scratch& w) {
    const AvflowAttention& a = plan.a;
    auto* to = static_cast<uint16_t*>(w.q);
    const size_t filled = sizeof(uint16_t) * plan.depth, all = sizeof(uint16_t) * plan.deep;
    for (int r = 0; r < tile.rows; ++r) {
        const int row = tile.first_row + r;
        const int64_t from = plan.p.keep_rows ? plan.p.keep_rows[row] : row;
        for (int h = 0; h < tile.heads; ++h, to += plan.deep) {
            const int64_t head = tile.kv_head * tile.heads + h;
            std::memcpy(to, static_cast<const uint16_t*>(a.q) + from * a.q_row + head * a.q_head, filled);
            std::memset(reinterpret_cast<char*>(to) + filled, 0, all - filled);
        }
    }
    const int count = tile.count(), padded = static_cast<int>(round_up(count, 16));
    std::memset(to, 0, all * (padded - count));
    std::memset(w.o + static_cast<int64_t>(count) * plan.width, 0, sizeof(float) * (padded - count) * plan.width);
#if defined(AVFLOW_AMX)
    if (few_rows(plan, tile)) {
        for (int word = 0; word < plan.deep / 2; word += 16) {
            __m512i r[16];
            for (int m = 0; m < 16; ++m)
                r[m] = _mm512_loadu_si512(static_cast<uint32_t*>(w.q) + m * plan.deep / 2 + word);
            transpose16(r, turned_queries(plan, w) + word * 16, 16);
        }
    }
#endif
}

// o += weights x values of a tile with NaN or infinite values: only where the weight is not exactly 0.
void add_nonfinite_values(const float* s, const Values& values, int count, int width, float* o) {
    for (int m = 0; m < count; ++m) {
        for (int j = 0; j < kKeyTile; ++j) {
            const float weight = s[static_cast<int64_t>(m) * kBatch * kKeyTile + j];
            if (weight == 0.0f) continue;
            for (int c = 0; c < width; ++c) {
                o[m * width + c] += weight * float_of_bits(value_bits(values.at, width, j, c));
            }
        }
    }
}

Ahead ahead(const void* base, int64_t first, int64_t stride, int width) {
    return {static_cast<const char*>(base) + first * 2, stride * 2, int64_t{width} * 2};
}

// Packs one tile that nobody packed beforehand, and returns whether its values are finite. Few rows have their scores
// then already, from keys where they lie. With a row or two against many keys, memory is what takes the time: the
// values are on their way while the keys are read, and the next tile's keys while the values are packed.
bool pack_here(const TaskPlan& plan, const Tile& tile, int key_tile, [[maybe_unused]] int slot, uint32_t* panel,
               bool& scored, [[maybe_unused]] Scratch& w) {
    const AvflowAttention& a = plan.a;
    const int head = tile.kv_head;
    const Place here = plan.place_in(key_tile, 0), next = plan.place_in(key_tile + 1, 0);
    Ahead values, keys;
    if (!plan.p.keep_keys && here.slot >= 0) values = ahead(a.v, plan.value_offset(here, head), a.v_row, plan.depth);
    if (!plan.p.keep_keys && next.slot >= 0) keys = ahead(a.k, plan.key_offset(next, head), a.k_row, plan.depth);
#if defined(AVFLOW_AMX)
    scored = few_rows(plan, tile) && in_place(plan, key_tile);
    if (scored) {
        scores_in_place(turned_queries(plan, w), plan.deep,
                        static_cast<const uint16_t*>(a.k) + plan.key_offset(here, head), a.k_row, values,
                        w.s + slot * kKeyTile, kBatch * kKeyTile);
    }
#endif
    if (!scored) pack_keys(plan, key_tile, head, values, panel);
    return pack_values(plan, key_tile, head, keys, panel + plan.key_floats());
}

// Weights of rows first .. last - 1 of the batch from their scores in w.s, as bfloat16 in w.p, and in place of the
// scores if `keep`; sums, maxima, outputs and group mass move on with them.
void weigh(const TaskPlan& plan, const Batch& batch, int first, int last, bool keep, Scratch& w) {
    constexpr int kLine = kBatch * kKeyTile;
    const bool zero = plan.p.header->zero;
    const float factor = plan.a.scale / kLn2;  // scores in base 2, so that the softmax is an exp2
    for (int m = first; m < last; ++m) {
        const uint64_t* open = w.open + m * kBatch;
        softmax_row(w.s + (m - first) * kLine, batch.count, zero ? w.seen + m * kBatch : open, open, zero, keep, factor,
                    w.top[m], w.sum[m], w.alpha[m], w.p + (m - first) * kLine);
        if (w.alpha[m] == 1.0f) continue;
        const Vec alpha = splat(w.alpha[m]);
        float* const row = w.o + static_cast<int64_t>(m) * plan.width;
        for (int c = 0; c < plan.width; c += W) store(row + c, alpha * load(row + c));
    }
    if (plan.a.group_mass) add_mass(plan, batch, first, last, w.s, w);
}

#if defined(__AVX512BF16__) && !defined(AVFLOW_AMX)
// (order matters: it uses what is above)
#include "cpu/bf16_few.h"
#endif

// One block of rows first .. last - 1 of the batch, kBf16Rows at most. keys[t]: a panel, or null where w.s has the
// scores.
void process_rows(const TaskPlan& plan, const Batch& batch, int first, int last, const uint32_t* const* keys,
                  const Values* finite, int n_finite, const Values* nonfinite, int n_nonfinite, Scratch& w) {
    constexpr int kLine = kBatch * kKeyTile;
    const int width = plan.width, rows = last - first > 16 ? 32 : 16;
    const auto* const q = static_cast<const uint16_t*>(w.q) + static_cast<int64_t>(first) * plan.deep;
    float* const o = w.o + static_cast<int64_t>(first) * width;
    for (int t = 0; t < batch.count; ++t) {
        if (keys[t]) scores(q, rows, plan.deep, keys[t], w.s + t * kKeyTile, kLine);
    }
    weigh(plan, batch, first, last, plan.a.group_mass || n_nonfinite, w);
    std::memset(w.p + (last - first) * kLine, 0, sizeof(uint16_t) * (rows - (last - first)) * kLine);
    if (n_finite) accumulate(w.p, kLine, rows, finite, n_finite, width, o);
    for (int t = 0; t < n_nonfinite; ++t) {
        add_nonfinite_values(w.s + nonfinite[t].slot * kKeyTile, nonfinite[t], last - first, width, o);
    }
}

void process_batch(const TaskPlan& plan, const Tile& tile, const Batch& batch, Scratch& w) {
#if defined(__AVX512BF16__) && !defined(AVFLOW_AMX)
    if (by_dots(plan, tile.count())) return process_few(plan, tile, batch, w);
#endif
    const uint32_t* keys[kBatch];
    Values finite[kBatch], nonfinite[kBatch];
    int n_finite = 0, n_nonfinite = 0;
    for (int t = 0; t < batch.count; ++t) {
        bool is_finite, scored = false;
        float* panel;
        if (plan.packed) {
            panel = plan.key_panel(batch.tiles[t], tile.kv_head);
            is_finite = plan.finite[batch.tiles[t] * plan.a.kv_heads + tile.kv_head];
        } else {
            panel = w.panels + t * plan.panel_floats();
            is_finite = pack_here(plan, tile, batch.tiles[t], t, reinterpret_cast<uint32_t*>(panel), scored, w);
        }
        const auto* words = reinterpret_cast<const uint32_t*>(panel);
        keys[t] = scored ? nullptr : words;
        (is_finite ? finite[n_finite++] : nonfinite[n_nonfinite++]) = {words + plan.key_floats(), t};
    }
    // The rows before the block's and after them, of its 16, have no score in the batch: their weights are 0.
    const int begin = batch.first / 16 * 16, end = std::min(static_cast<int>(round_up(batch.last, 16)), tile.count());
    for (int first = begin; first < end; first += kBf16Rows) {
        process_rows(plan, batch, first, std::min(first + kBf16Rows, end), keys, finite, n_finite, nonfinite,
                     n_nonfinite, w);
    }
}

// Packs keys and values of a tile for all who read them.
void pack_panels(const TaskPlan& plan, int tile, int kv_head) {
    auto* panel = reinterpret_cast<uint32_t*>(plan.key_panel(tile, kv_head));
    pack_keys(plan, tile, kv_head, {}, panel);
    plan.finite[static_cast<int64_t>(tile) * plan.a.kv_heads + kv_head] =
        pack_values(plan, tile, kv_head, {}, panel + plan.key_floats());
}
