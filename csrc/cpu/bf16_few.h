// A row or a few against keys and values in bfloat16 that are read where they lie, by AVX-512's products of pairs: a
// tile that few rows read is not worth packing. Included by bf16_batch.h only.
#include "cpu/stored.h"
// (order matters: what comes next uses stored.h)
#include "cpu/in_place.h"
// (and in_place.h)
#include "cpu/dots.h"

// o[0:ROWS, column : column + 32 * VECS] += weights x values; two keys' numbers are paired in registers.
template <int ROWS, int VECS>
AVFLOW_INLINE void value_block(const uint16_t* p, int ldp, const TileValues<Bfloat16>* values, int tiles, int width,
                               int column, float* o) {
    const __m512i low = _mm512_load_si512(kPairs[0]), high = _mm512_load_si512(kPairs[1]);
    o += column;
    __m512 sum[ROWS][2 * VECS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 8
        for (int n = 0; n < 2 * VECS; ++n) sum[i][n] = _mm512_loadu_ps(o + i * width + n * 16);
    }
    for (int t = 0; t < tiles; ++t) {
        const uint16_t* weights = p + values[t].slot * kKeyTile;
        const Bfloat16* at = values[t].at + column;
        for (int j = 0; j < kKeyTile; j += 2, at += 2 * values[t].stride) {
            __m512bh lanes[2 * VECS];
#pragma GCC unroll 4
            for (int n = 0; n < VECS; ++n) {
                const __m512i one = _mm512_loadu_si512(at + n * 32);
                const __m512i next = _mm512_loadu_si512(at + values[t].stride + n * 32);
                lanes[2 * n] = pairs(_mm512_permutex2var_epi16(one, low, next));
                lanes[2 * n + 1] = pairs(_mm512_permutex2var_epi16(one, high, next));
            }
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) {
                const __m512bh weight = pair(weights + i * ldp + j);
#pragma GCC unroll 8
                for (int n = 0; n < 2 * VECS; ++n) sum[i][n] = _mm512_dpbf16_ps(sum[i][n], weight, lanes[n]);
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 8
        for (int n = 0; n < 2 * VECS; ++n) _mm512_storeu_ps(o + i * width + n * 16, sum[i][n]);
    }
}

// With VECS across, 16 sums are under way (8 with one row).
template <int ROWS, int VECS>
AVFLOW_INLINE void value_rows(const uint16_t* p, int ldp, const TileValues<Bfloat16>* values, int tiles, int width,
                              float* o) {
    int column = 0;
    for (; column + 32 * VECS <= width; column += 32 * VECS) {
        value_block<ROWS, VECS>(p, ldp, values, tiles, width, column, o);
    }
    if constexpr (VECS > 1) {
        for (; column < width; column += 32) value_block<ROWS, 1>(p, ldp, values, tiles, width, column, o);
    }
}

// o [rows, width] += p [rows, tiles * 64] x values [tiles][64, width], width a multiple of 32.
static __attribute__((noinline)) void accumulate(const uint16_t* p, int ldp, int rows,
                                                 const TileValues<Bfloat16>* values, int tiles, int width, float* o) {
    int i = 0;
    for (; i + 8 <= rows; i += 8) value_rows<8, 1>(p + i * ldp, ldp, values, tiles, width, o + i * width);
    for (; i + 4 <= rows; i += 4) value_rows<4, 2>(p + i * ldp, ldp, values, tiles, width, o + i * width);
    for (; i + 2 <= rows; i += 2) value_rows<2, 4>(p + i * ldp, ldp, values, tiles, width, o + i * width);
    if (i < rows) value_rows<1, 4>(p + i * ldp, ldp, values, tiles, width, o + i * width);
}

void process_few(const TaskPlan& plan, const Tile& tile, const Batch& batch, Scratch& w) {
    constexpr int kLine = kBatch * kKeyTile;
    const int first = batch.first, count = batch.last - first, width = plan.width;
    const auto* const q = static_cast<const Bfloat16*>(w.q) + static_cast<int64_t>(first) * plan.deep;
    float* const o = w.o + static_cast<int64_t>(first) * width;
    TileValues<Bfloat16> finite[kBatch], nonfinite[kBatch];
    int n_finite = 0, n_nonfinite = 0;
    for (int t = 0; t < batch.count; ++t) {
        // Memory is what takes the time: the values are on their way while the keys are read, and the next tile's keys
        // while the values are looked at.
        const int key_tile = batch.tiles[t], head = tile.kv_head;
        const Ahead soon = ahead(values_in_place<Bfloat16>(plan, key_tile, head), plan.a.v_row, width);
        scores_by_dots<Bfloat16, Bfloat16>(plan, key_tile, head, soon, q, count, w.s + t * kKeyTile, kLine);
        auto* const packed = reinterpret_cast<Bfloat16*>(w.panels + t * plan.panel_floats());
        bool is_finite;
        TileValues<Bfloat16> values = values_here(plan, key_tile, head, packed, is_finite);
        values.slot = t;
        (is_finite ? finite[n_finite++] : nonfinite[n_nonfinite++]) = values;
    }
    weigh(plan, batch, first, batch.last, plan.a.group_mass || n_nonfinite, w);
    if (n_finite) accumulate(w.p, kLine, count, finite, n_finite, width, o);
    for (int t = 0; t < n_nonfinite; ++t) {
        add_nonfinite_values(w.s + nonfinite[t].slot * kKeyTile, nonfinite[t], count, width, o);
    }
}
