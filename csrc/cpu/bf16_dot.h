// The two products of a block of 16 or 32 rows by AVX-512's products of bfloat16 pairs (vdpbf16ps), fp32 sums.
// Included by bf16_batch.h only; bf16_amx.h is the same with matrix tiles.

static void begin_products() {}
static void end_products() {}

AVFLOW_INLINE __m512bh pairs(__m512i words) {
    __m512bh to;
    std::memcpy(&to, &words, sizeof(to));
    return to;
}

// One pair of the left operand in all lanes.
AVFLOW_INLINE __m512bh pair(const uint16_t* from) {
    int32_t word;
    std::memcpy(&word, from, sizeof(word));
    return pairs(_mm512_set1_epi32(word));
}

// sum [4, VECS * 16] += a [4, 2 * words] x panel [words, VECS * 16], a row of either lda numbers or `step` words long.
template <int VECS>
AVFLOW_INLINE void add_products(const uint16_t* a, int lda, const uint32_t* panel, int step, int words,
                                __m512 (&sum)[4][VECS]) {
    for (int k = 0; k < words; ++k, panel += step) {
        __m512bh lanes[VECS];
#pragma GCC unroll 4
        for (int n = 0; n < VECS; ++n) lanes[n] = pairs(_mm512_loadu_si512(panel + n * 16));
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const __m512bh row = pair(a + i * lda + 2 * k);
#pragma GCC unroll 4
            for (int n = 0; n < VECS; ++n) sum[i][n] = _mm512_dpbf16_ps(sum[i][n], row, lanes[n]);
        }
    }
}

// s [rows, 64] = q [rows, deep] x panel [deep / 2, 64]; rows is 16 or 32.
static __attribute__((noinline)) void scores(const uint16_t* q, int rows, int deep, const uint32_t* panel, float* s,
                                             int lds) {
    for (int m = 0; m < rows; m += 4) {
        __m512 sum[4][4] = {};
        add_products<4>(q + m * deep, deep, panel, kKeyTile, deep / 2, sum);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) _mm512_storeu_ps(s + (m + i) * lds + n * 16, sum[i][n]);
        }
    }
}

// 16 * VECS columns of o, from `column` on.
template <int VECS>
AVFLOW_INLINE void value_block(const uint16_t* p, int ldp, int rows, const Values* values, int tiles, int width,
                               int column, float* o) {
    for (int m = 0; m < rows; m += 4) {
        float* const to = o + m * width + column;
        __m512 sum[4][VECS];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
            for (int n = 0; n < VECS; ++n) sum[i][n] = _mm512_loadu_ps(to + i * width + n * 16);
        }
        for (int t = 0; t < tiles; ++t) {
            add_products<VECS>(p + m * ldp + values[t].slot * kKeyTile, ldp, values[t].at + column, width, kKeyTile / 2,
                               sum);
        }
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
            for (int n = 0; n < VECS; ++n) _mm512_storeu_ps(to + i * width + n * 16, sum[i][n]);
        }
    }
}

// o [rows, width] += p [rows, tiles * 64] x values [tiles][32, width].
static __attribute__((noinline)) void accumulate(const uint16_t* p, int ldp, int rows, const Values* values, int tiles,
                                                 int width, float* o) {
    int column = 0;
    for (; column + 64 <= width; column += 64) value_block<4>(p, ldp, rows, values, tiles, width, column, o);
    for (; column < width; column += 16) value_block<1>(p, ldp, rows, values, tiles, width, column, o);
}
