// Vectors of W floats in the compiler's own vector types, so that one source serves every instruction set.
// Included by attention_isa.cpp only, inside its per-instruction-set namespace.
#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;  // SSE2, NEON
#endif

typedef float Vec __attribute__((vector_size(W * 4)));
typedef int32_t IVec __attribute__((vector_size(W * 4)));
typedef float Vec8 __attribute__((vector_size(32)));

// Elements of two vectors of 8, or of 4, by number.
#if defined(__clang__) || __GNUC__ >= 12
#define AVFLOW_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#define AVFLOW_SHUFFLE4(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
typedef int32_t IVec8 __attribute__((vector_size(32)));
#define AVFLOW_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, IVec8{__VA_ARGS__})
#define AVFLOW_SHUFFLE4(a, b, ...) __builtin_shuffle(a, b, IVec{__VA_ARGS__})
#endif

#define AVFLOW_INLINE static inline __attribute__((always_inline))

AVFLOW_INLINE Vec load(const float* from) {
    Vec v;
    std::memcpy(&v, from, sizeof(v));
    return v;
}

AVFLOW_INLINE void store(float* to, Vec v) { std::memcpy(to, &v, sizeof(v)); }

// Not Vec{} + x: that is an addition before every broadcast (0 + -0 is 0), and cost a third of the AVX2 path's rate.
AVFLOW_INLINE Vec splat(float x) {
#if defined(__AVX512F__)
    return _mm512_set1_ps(x);
#elif defined(__AVX2__)
    return _mm256_set1_ps(x);
#else
    return Vec{x, x, x, x};
#endif
}

AVFLOW_INLINE Vec maximum(Vec a, Vec b) {
#if defined(__AVX512F__)
    return _mm512_max_ps(a, b);
#elif defined(__AVX2__)
    return _mm256_max_ps(a, b);
#else
    return a > b ? a : b;
#endif
}

AVFLOW_INLINE float horizontal_max(Vec v) {
    float most = v[0];
    for (int i = 1; i < W; ++i) most = v[i] > most ? v[i] : most;
    return most;
}

AVFLOW_INLINE float horizontal_sum(Vec v) {
    for (int half = W / 2; half; half /= 2) {
        for (int i = 0; i < half; ++i) v[i] += v[i + half];
    }
    return v[0];
}

// Keeps the lanes whose bit is set in `bits`, puts `other` into the rest.
AVFLOW_INLINE Vec select(uint32_t bits, Vec v, float other) {
#if defined(__AVX512F__)
    return _mm512_mask_mov_ps(splat(other), static_cast<__mmask16>(bits), v);
#else
    IVec lane;
    for (int i = 0; i < W; ++i) lane[i] = 1 << i;
    return ((IVec{} + static_cast<int32_t>(bits)) & lane) != 0 ? v : splat(other);
#endif
}

// 2^x for x <= 0, to 1 ulp or so; exactly 0 below 2^-126, NaN for NaN. Degree-6 Chebyshev interpolant of 2^f on
// [-1/2, 1/2] (relative error 3e-9, so that rounding decides), scaled by the integer part through the exponent bits.
AVFLOW_INLINE Vec exp2_nonpositive(Vec x) {
    const Vec magic = splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to the nearest integer
    const Vec shifted = x + magic;
    const Vec f = x - (shifted - magic);
    Vec p = splat(0.000154614449f);
    p = p * f + splat(0.0013400428f);
    p = p * f + splat(0.00961805694f);
    p = p * f + splat(0.0555032715f);
    p = p * f + splat(0.240226507f);
    p = p * f + splat(0.693147182f);
    p = p * f + splat(1.0f);
    const IVec exponent = ((IVec)shifted - 0x4B400000 + 127) << 23;
    const Vec y = p * (Vec)exponent;
    return x < splat(-126.0f) ? splat(0.0f) : y;
}
