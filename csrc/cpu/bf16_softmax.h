// The softmax of one row of scores whose weights are multiplied as bfloat16. Needs AVX-512 with bfloat16.
// Included by bf16_batch.h only.

// 2^x for x <= 0, to 2 units in the last place or so; exactly 0 below 2^-126, NaN for NaN. Polynomial of degree 5 in
// x - floor(x), which is 1 at 0; the instructions that take x apart and put the exponent in do what vec.h does by hand.
AVFLOW_INLINE __m512 exp2_nonpositive_avx512(__m512 x) {
    const __m512 f = _mm512_reduce_ps(x, 0x09);  // x - floor(x)
    __m512 p = _mm512_set1_ps(0.00186713005f);
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.00901703071f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.0557999127f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.240164444f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.693151295f));
    p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(1.0f));
    return _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(-126.0f), _CMP_NLT_UQ), p, x);
}

// Weights of one row's scores s [TILES * 64], times factor: p as bfloat16, rounded to nearest, and in place of s if
// `keep`. The running maximum, and the running sum of the weights before they are rounded, move on.
// scored[t]: which keys have a score; kept[t]: which of them keep their weight (they differ in "zero" semantics only).
template <int TILES>
AVFLOW_INLINE void softmax_tiles(float* s, const uint64_t* scored, const uint64_t* kept, bool zero, bool keep,
                                 float factor, float& top, float& sum, float& alpha, uint16_t* p) {
    constexpr int N = TILES * kKeyTile / 16;
    __m512 x[N];  // the row stays in registers
    __m512 most = _mm512_set1_ps(kMinusInfinity);
    uint64_t any = 0;
#pragma GCC unroll 4
    for (int t = 0; t < TILES; ++t) {
        any |= scored[t];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const int n = t * 4 + i;
            x[n] = _mm512_mask_mul_ps(_mm512_set1_ps(kMinusInfinity), static_cast<__mmask16>(scored[t] >> i * 16),
                                      _mm512_loadu_ps(s + n * 16), _mm512_set1_ps(factor));
            most = _mm512_max_ps(most, x[n]);
        }
    }
    if (!any) {  // nothing seen in this batch; -inf - -inf below would be NaN
        std::memset(p, 0, 2 * TILES * kKeyTile);
        if (keep) std::memset(s, 0, 4 * TILES * kKeyTile);
        alpha = 1.0f;
        return;
    }
    const float now = std::max(top, _mm512_reduce_max_ps(most));
    alpha = top == now ? 1.0f : top == kMinusInfinity ? 0.0f : std::exp2(top - now);
    const __m512 base = _mm512_set1_ps(now);
    __m512 total[2] = {_mm512_setzero_ps(), _mm512_setzero_ps()};
#pragma GCC unroll 16
    for (int n = 0; n < N; n += 2) {
        __m512 weight[2];
#pragma GCC unroll 2
        for (int i = 0; i < 2; ++i) {
            weight[i] = exp2_nonpositive_avx512(_mm512_sub_ps(x[n + i], base));
            total[i] = _mm512_add_ps(total[i], weight[i]);
            if (zero) {
                const auto open = static_cast<__mmask16>(kept[n / 4] >> (n % 4 + i) * 16);
                weight[i] = _mm512_maskz_mov_ps(open, weight[i]);
            }
            if (keep) _mm512_storeu_ps(s + (n + i) * 16, weight[i]);
        }
        const __m512bh both = _mm512_cvtne2ps_pbh(weight[1], weight[0]);
        std::memcpy(p + n * 16, &both, sizeof(both));
    }
    sum = sum * alpha + _mm512_reduce_add_ps(_mm512_add_ps(total[0], total[1]));
    top = now;
}

static __attribute__((noinline)) void softmax_row(float* s, int tiles, const uint64_t* scored, const uint64_t* kept,
                                                  bool zero, bool keep, float factor, float& top, float& sum,
                                                  float& alpha, uint16_t* p) {
    switch (tiles) {
        case 1: return softmax_tiles<1>(s, scored, kept, zero, keep, factor, top, sum, alpha, p);
        case 2: return softmax_tiles<2>(s, scored, kept, zero, keep, factor, top, sum, alpha, p);
        case 3: return softmax_tiles<3>(s, scored, kept, zero, keep, factor, top, sum, alpha, p);
        default: return softmax_tiles<4>(s, scored, kept, zero, keep, factor, top, sum, alpha, p);
    }
}
