// Scores of a row or a few by dot products along the keys, which are read where they lie: a tile that few rows read is
// not worth transposing. Included by attention_isa.cpp only, inside its per-instruction-set namespace.

// Rows of a block; with 4 keys across, 16 sums and what they are made of fit 32 registers, 8 fit the 16 of AVX2 and
// SSE.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDotRows = 4;
#else
constexpr int kDotRows = 2;
#endif
constexpr int kDotKeys = 4;

// From here on a transposed tile, which every row of a block shares, is the faster one.
constexpr int kFewRows = 16;

// a0 b0 a1 b1 of every four lanes, a2 b2 a3 b3 of every four, and a0 a1 b0 b1, a2 a3 b2 b3.
#if defined(__AVX512F__)
AVFLOW_INLINE Vec low_ones(Vec a, Vec b) { return _mm512_unpacklo_ps(a, b); }
AVFLOW_INLINE Vec high_ones(Vec a, Vec b) { return _mm512_unpackhi_ps(a, b); }
AVFLOW_INLINE Vec low_twos(Vec a, Vec b) { return (Vec)_mm512_unpacklo_pd((__m512d)a, (__m512d)b); }
AVFLOW_INLINE Vec high_twos(Vec a, Vec b) { return (Vec)_mm512_unpackhi_pd((__m512d)a, (__m512d)b); }
#elif defined(__AVX2__)
AVFLOW_INLINE Vec low_ones(Vec a, Vec b) { return _mm256_unpacklo_ps(a, b); }
AVFLOW_INLINE Vec high_ones(Vec a, Vec b) { return _mm256_unpackhi_ps(a, b); }
AVFLOW_INLINE Vec low_twos(Vec a, Vec b) { return (Vec)_mm256_unpacklo_pd((__m256d)a, (__m256d)b); }
AVFLOW_INLINE Vec high_twos(Vec a, Vec b) { return (Vec)_mm256_unpackhi_pd((__m256d)a, (__m256d)b); }
#else
AVFLOW_INLINE Vec low_ones(Vec a, Vec b) { return AVFLOW_SHUFFLE4(a, b, 0, 4, 1, 5); }
AVFLOW_INLINE Vec high_ones(Vec a, Vec b) { return AVFLOW_SHUFFLE4(a, b, 2, 6, 3, 7); }
AVFLOW_INLINE Vec low_twos(Vec a, Vec b) { return AVFLOW_SHUFFLE4(a, b, 0, 1, 4, 5); }
AVFLOW_INLINE Vec high_twos(Vec a, Vec b) { return AVFLOW_SHUFFLE4(a, b, 2, 3, 6, 7); }
#endif

// to[n] = the sum of sums[n]'s lanes.
AVFLOW_INLINE void store_sums(const Vec (&sums)[kDotKeys], float* to) {
    const Vec a = low_ones(sums[0], sums[1]) + high_ones(sums[0], sums[1]);
    const Vec b = low_ones(sums[2], sums[3]) + high_ones(sums[2], sums[3]);
    const Vec fours = low_twos(a, b) + high_twos(a, b);  // [W / 4, 4]
#if defined(__AVX512F__)
    const __m256 half = _mm512_castps512_ps256(fours) + _mm512_extractf32x8_ps(fours, 1);
    _mm_storeu_ps(to, _mm256_castps256_ps128(half) + _mm256_extractf128_ps(half, 1));
#elif defined(__AVX2__)
    _mm_storeu_ps(to, _mm256_castps256_ps128(fours) + _mm256_extractf128_ps(fours, 1));
#else
    store(to, fours);
#endif
}

// s[i, 0:4] = q[i, 0:depth] . keys[0:4][0:depth] for ROWS rows.
template <int ROWS>
AVFLOW_INLINE void dot_block(const float* q, const float* const* keys, int depth, float* s, int lds) {
    Vec sums[ROWS][kDotKeys];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
        for (int n = 0; n < kDotKeys; ++n) sums[i][n] = Vec{};
    }
    for (int c = 0; c < depth; c += W) {
        Vec lanes[kDotKeys];
#pragma GCC unroll 4
        for (int n = 0; n < kDotKeys; ++n) lanes[n] = load(keys[n] + c);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) {
            const Vec row = load(q + i * depth + c);
#pragma GCC unroll 4
            for (int n = 0; n < kDotKeys; ++n) sums[i][n] += row * lanes[n];
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) store_sums(sums[i], s + i * lds);
}

AVFLOW_INLINE void dot_rows(const float* q, int rows, const float* const* keys, int depth, float* s, int lds) {
    int i = 0;
    for (; i + kDotRows <= rows; i += kDotRows) dot_block<kDotRows>(q + i * depth, keys, depth, s + i * lds, lds);
    q += i * depth;
    s += i * lds;
    switch (rows - i) {
        case 3: return dot_block<3>(q, keys, depth, s, lds);
        case 2: return dot_block<2>(q, keys, depth, s, lds);
        case 1: return dot_block<1>(q, keys, depth, s, lds);
        default: return;
    }
}

// Are scores of `rows` rows taken so? What is left of a head beyond whole vectors is not worth a second form.
bool by_dots(const TaskPlan& plan, int rows) { return !plan.packed && rows <= kFewRows && plan.depth % W == 0; }

// s [rows, lds] = q [rows, depth] x one tile's keys; those of absent keys are zero. `ahead`: what is fetched meanwhile.
static void scores_by_dots(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, const float* q, int rows,
                           float* s, int lds) {
    const AvflowAttention& a = plan.a;
    alignas(64) float staging[kDotKeys][256];
    alignas(64) static const float nothing[256] = {};
    const float* const first = keys_in_place(plan, tile, kv_head);
    for (int j = 0; j < kKeyTile; j += kDotKeys) {
        const float* keys[kDotKeys];
        for (int n = 0; n < kDotKeys; ++n) {
            ahead.fetch(j + n);
            if (first) {
                keys[n] = first + (j + n) * a.k_row;
                continue;
            }
            const Place at = plan.place_in(tile, j + n);
            if (at.slot < 0) {
                keys[n] = nothing;
            } else if (a.dtype == AVFLOW_FLOAT32) {
                keys[n] = static_cast<const float*>(a.k) + plan.key_offset(at, kv_head);
            } else {
                load_row(a.k, plan.key_offset(at, kv_head), a.dtype, plan.depth, 1.0f, staging[n]);
                keys[n] = staging[n];
            }
        }
        dot_rows(q, rows, keys, plan.depth, s + j, lds);
    }
}
