// Scores of a row or a few by dot products along the keys, which are read where they lie: a tile that few rows read is
// not worth transposing. Included by float_batch.h and bf16_few.h only, inside the per-instruction-set namespace.

// Rows of a block; with 4 keys across, 16 sums and what they are made of fit 32 registers, 8 fit the 16 of AVX2 and
// SSE.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int kDotRows = 4;
#else
constexpr int kDotRows = 2;
#endif
constexpr int kDotKeys = 4;

// Beyond so many rows a transposed tile, which every row of a block shares, is the faster one.
constexpr int kFewRows = 16;
// Beyond so many it is faster to write numbers of 16 bits as floats once than to load them as floats for every block.
constexpr int kFewRowsAsStored = W == 4 ? 4 : kFewRows;

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

// What a vector takes of a row of a query, and of a key to multiply that with: W floats, or where the queries are
// bfloat16 still, 2 W numbers in pairs.
template <typename Query>
constexpr int kDotStep = std::is_same_v<Query, float> ? W : 2 * W;
template <typename Query, typename Number>
AVFLOW_INLINE auto dot_lanes(const Number* from) {
    if constexpr (std::is_same_v<Query, float>) {
        return load(from);
    } else {
        return pairs(_mm512_loadu_si512(from));
    }
}
AVFLOW_INLINE Vec add_products(Vec sum, Vec row, Vec key) { return sum + row * key; }
#if defined(__AVX512BF16__)
AVFLOW_INLINE Vec add_products(Vec sum, __m512bh row, __m512bh key) { return _mm512_dpbf16_ps(sum, row, key); }
#endif

// s[i, 0:4] = q[i, 0:depth] . keys[0:4][0:depth] for ROWS rows.
template <int ROWS, typename Query, typename Number>
AVFLOW_INLINE void dot_block(const Query* q, const Number* const* keys, int depth, float* s, int lds) {
    using Lanes = decltype(dot_lanes<Query>(*keys));
    Vec sums[ROWS][kDotKeys];
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) {
#pragma GCC unroll 4
        for (int n = 0; n < kDotKeys; ++n) sums[i][n] = Vec{};
    }
    for (int c = 0; c < depth; c += kDotStep<Query>) {
        Lanes lanes[kDotKeys];
#pragma GCC unroll 4
        for (int n = 0; n < kDotKeys; ++n) lanes[n] = dot_lanes<Query>(keys[n] + c);
#pragma GCC unroll 4
        for (int i = 0; i < ROWS; ++i) {
            const Lanes row = dot_lanes<Query>(q + i * depth + c);
#pragma GCC unroll 4
            for (int n = 0; n < kDotKeys; ++n) sums[i][n] = add_products(sums[i][n], row, lanes[n]);
        }
    }
#pragma GCC unroll 4
    for (int i = 0; i < ROWS; ++i) store_sums(sums[i], s + i * lds);
}

template <typename Query, typename Number>
AVFLOW_INLINE void dot_rows(const Query* q, int rows, const Number* const* keys, int depth, float* s, int lds) {
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
bool by_dots(const TaskPlan& plan, int rows) {
    return !plan.packed && rows <= kFewRows && plan.depth % W == 0 && plan.depth == plan.deep;
}

// s [rows, lds] = q [rows, depth] x one tile's keys; those of absent keys are zero. `ahead`: what is fetched meanwhile.
// Number: what keys are loaded as; where that is float and they are stored otherwise, they are converted before.
template <typename Query, typename Number>
static void scores_by_dots(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, const Query* q, int rows,
                           float* s, int lds) {
    const AvflowAttention& a = plan.a;
    [[maybe_unused]] alignas(64) Number staging[kDotKeys][256];
    alignas(64) static const Number nothing[256] = {};
    const Number* const first = keys_in_place<Number>(plan, tile, kv_head);
    for (int j = 0; j < kKeyTile; j += kDotKeys) {
        const Number* keys[kDotKeys];
        for (int n = 0; n < kDotKeys; ++n) {
            ahead.fetch(j + n);
            if (first) {
                keys[n] = first + (j + n) * a.k_row;
                continue;
            }
            const Place at = plan.place_in(tile, j + n);
            if (at.slot < 0) {
                keys[n] = nothing;
                continue;
            }
            const int64_t offset = plan.key_offset(at, kv_head);
            keys[n] = static_cast<const Number*>(a.k) + offset;
            if constexpr (std::is_same_v<Number, float>) {
                if (a.dtype != AVFLOW_FLOAT32) {
                    load_row(a.k, offset, a.dtype, plan.depth, 1.0f, staging[n]);
                    keys[n] = staging[n];
                }
            }
        }
        dot_rows(q, rows, keys, plan.depth, s + j, lds);
    }
}
