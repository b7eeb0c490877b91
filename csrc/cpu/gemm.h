// The two matrix products of a tile. Both read one operand by broadcast (rows) and the other in packed panels (lanes).
// Included by attention_isa.cpp only, inside its per-instruction-set namespace.

// Rows of the register block; with VECS vectors across, 6 x 4 accumulators fill the 32 registers of AVX-512 and NEON,
// 6 x 2 the 16 of AVX2 and SSE.
constexpr int kBlockRows = 6;
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kBlockVecs = 4;
#else
constexpr int kBlockVecs = 2;
#endif

// Vectors across for fewer rows: a multiply-add takes the time of 8, so that many sums must be under way.
constexpr int vecs_across(int rows) {
    if (kBlockVecs == 4) return rows <= 2 ? 8 : 4;
    return rows == 1 ? 8 : rows <= 3 ? 4 : 2;
}

// s[i, 0:64] = sum_k a[i, k] * panel[k, 0:64] for ROWS rows; panel is a key tile, transposed: [depth, 64].
template <int ROWS>
AVFLOW_INLINE void score_block(const float* a, int lda, const float* panel, int depth, float* s, int lds) {
    for (int column = 0; column < kKeyTile; column += kBlockVecs * W) {
        Vec sum[ROWS][kBlockVecs];
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
            for (int n = 0; n < kBlockVecs; ++n) sum[i][n] = Vec{};
        }
        const float* b = panel + column;
        for (int k = 0; k < depth; ++k, b += kKeyTile) {
            Vec lanes[kBlockVecs];
#pragma GCC unroll 4
            for (int n = 0; n < kBlockVecs; ++n) lanes[n] = load(b + n * W);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) {
                const Vec row = splat(a[i * lda + k]);
#pragma GCC unroll 4
                for (int n = 0; n < kBlockVecs; ++n) sum[i][n] += row * lanes[n];
            }
        }
#pragma GCC unroll 8
        for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
            for (int n = 0; n < kBlockVecs; ++n) store(s + i * lds + column + n * W, sum[i][n]);
        }
    }
}

// o[i, column : column + VECS * W] = alpha[i] * o[i, ...] + sum over tiles and keys of p[i, slot * 64 + key] * at[key,
// ...].
template <int ROWS, int VECS, typename Number>
AVFLOW_INLINE void value_block(const float* p, int ldp, const TileValues<Number>* values, int tiles, int width,
                               int column, float* o, const float* alpha) {
    Vec sum[ROWS][VECS];
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
        const Vec factor = splat(alpha[i]);
#pragma GCC unroll 8
        for (int n = 0; n < VECS; ++n) sum[i][n] = factor * load(o + i * width + column + n * W);
    }
    for (int t = 0; t < tiles; ++t) {
        const Number* b = values[t].at + column;
        const float* weights = p + values[t].slot * kKeyTile;
        for (int j = 0; j < kKeyTile; ++j, b += values[t].stride) {
            Vec lanes[VECS];
#pragma GCC unroll 8
            for (int n = 0; n < VECS; ++n) lanes[n] = load(b + n * W);
#pragma GCC unroll 8
            for (int i = 0; i < ROWS; ++i) {
                const Vec weight = splat(weights[i * ldp + j]);
#pragma GCC unroll 8
                for (int n = 0; n < VECS; ++n) sum[i][n] += weight * lanes[n];
            }
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 8
        for (int n = 0; n < VECS; ++n) store(o + i * width + column + n * W, sum[i][n]);
    }
}

template <int ROWS, typename Number>
AVFLOW_INLINE void value_rows(const float* p, int ldp, const TileValues<Number>* values, int tiles, int width, float* o,
                              const float* alpha) {
    constexpr int kAcross = vecs_across(ROWS);
    int column = 0;
    for (; column + kAcross * W <= width; column += kAcross * W) {
        value_block<ROWS, kAcross>(p, ldp, values, tiles, width, column, o, alpha);
    }
    if constexpr (kAcross > 4) {
        for (; column + 4 * W <= width; column += 4 * W) {
            value_block<ROWS, 4>(p, ldp, values, tiles, width, column, o, alpha);
        }
    }
    if constexpr (kAcross > 2) {
        for (; column + 2 * W <= width; column += 2 * W) {
            value_block<ROWS, 2>(p, ldp, values, tiles, width, column, o, alpha);
        }
    }
    for (; column + W <= width; column += W) {
        value_block<ROWS, 1>(p, ldp, values, tiles, width, column, o, alpha);
    }
}

// s [rows, lds] = a [rows, depth] x panel [depth, 64].
static __attribute__((noinline)) void scores(const float* a, int rows, const float* panel, int depth, float* s,
                                             int lds) {
    int i = 0;
    for (; i + kBlockRows <= rows; i += kBlockRows) {
        score_block<kBlockRows>(a + i * depth, depth, panel, depth, s + i * lds, lds);
    }
    a += i * depth;
    s += i * lds;
    switch (rows - i) {
        case 5: return score_block<5>(a, depth, panel, depth, s, lds);
        case 4: return score_block<4>(a, depth, panel, depth, s, lds);
        case 3: return score_block<3>(a, depth, panel, depth, s, lds);
        case 2: return score_block<2>(a, depth, panel, depth, s, lds);
        case 1: return score_block<1>(a, depth, panel, depth, s, lds);
        default: return;
    }
}

// o [rows, width] = alpha [rows] * o + p [rows, tiles * 64] x values [tiles][64, width].
template <typename Number>
static __attribute__((noinline)) void accumulate(const float* p, int ldp, int rows, const TileValues<Number>* values,
                                                 int tiles, int width, float* o, const float* alpha) {
    int i = 0;
    for (; i + kBlockRows <= rows; i += kBlockRows) {
        value_rows<kBlockRows>(p + i * ldp, ldp, values, tiles, width, o + i * width, alpha + i);
    }
    p += i * ldp;
    o += i * width;
    alpha += i;
    switch (rows - i) {
        case 5: return value_rows<5>(p, ldp, values, tiles, width, o, alpha);
        case 4: return value_rows<4>(p, ldp, values, tiles, width, o, alpha);
        case 3: return value_rows<3>(p, ldp, values, tiles, width, o, alpha);
        case 2: return value_rows<2>(p, ldp, values, tiles, width, o, alpha);
        case 1: return value_rows<1>(p, ldp, values, tiles, width, o, alpha);
        default: return;
    }
}
