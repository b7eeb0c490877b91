// Numbers in the type that the caller stores them in, loaded as vectors of floats where they lie. Included by
// float_batch.h and bf16_few.h only, inside the per-instruction-set namespace.

struct Bfloat16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

// Is it one instruction? If not, halves are better converted once, row by row.
#if defined(__F16C__) || defined(__aarch64__)
constexpr bool kLoadsHalves = true;
#else
constexpr bool kLoadsHalves = false;
#endif

template <typename Number>
constexpr int kTypeOf = std::is_same_v<Number, float>      ? AVFLOW_FLOAT32
                        : std::is_same_v<Number, Bfloat16> ? AVFLOW_BFLOAT16
                                                           : AVFLOW_FLOAT16;

AVFLOW_INLINE Vec load(const Bfloat16* from) {
#if defined(__AVX512F__)
    const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return (Vec)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
#elif defined(__AVX2__)
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
    return (Vec)_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16);
#elif defined(__SSE2__)
    const __m128i bits = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
    return (Vec)_mm_unpacklo_epi16(_mm_setzero_si128(), bits);
#elif defined(__aarch64__)
    return (Vec)vshlq_n_u32(vmovl_u16(vld1_u16(&from->bits)), 16);
#else
    Vec v;
    for (int i = 0; i < W; ++i) v[i] = float_of_bits(static_cast<uint32_t>(from[i].bits) << 16);
    return v;
#endif
}

AVFLOW_INLINE Vec load(const Half* from) {
#if defined(__AVX512F__)
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(from)));
#elif defined(__F16C__)
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
#elif defined(__aarch64__)
    return (Vec)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&from->bits)));
#else
    Vec v;
    for (int i = 0; i < W; ++i) v[i] = float_of_half(from[i].bits);
    return v;
#endif
}

// The 64 values of one kv head hold no NaN and no infinity: a weight of exactly 0 must hide those, so tiles that hold
// some take a slower way.
template <typename Number>
bool all_finite(const Number* values, int64_t stride, int width, const Ahead& ahead) {
    typedef int16_t Words __attribute__((vector_size(32)));
    constexpr bool kFloats = std::is_same_v<Number, float>;
    constexpr int kStep = kFloats ? W : 16;
    constexpr int16_t kInfinity = std::is_same_v<Number, Half> ? 0x7C00 : 0x7F80;
    // Two chains each: of x - x, which is 0, or NaN for NaN and infinities; of the largest without their signs.
    [[maybe_unused]] Vec nonfinite[2] = {};
    [[maybe_unused]] Words most[2] = {};
    for (int j = 0; j < kKeyTile; j += 2) {
        ahead.fetch(j);
        ahead.fetch(j + 1);
        for (int c = 0; c < width; c += kStep) {
            for (int i = 0; i < 2; ++i) {
                const Number* const from = values + (j + i) * stride + c;
                if constexpr (kFloats) {
                    const Vec x = load(from);
                    nonfinite[i] += x - x;
                } else {
                    Words x;
                    std::memcpy(&x, from, sizeof(x));
                    x &= 0x7FFF;
                    most[i] = x > most[i] ? x : most[i];
                }
            }
        }
    }
    if constexpr (kFloats) return horizontal_sum(nonfinite[0] + nonfinite[1]) == 0.0f;
    bool finite = true;
    for (int i = 0; i < 16; ++i) finite &= most[0][i] < kInfinity && most[1][i] < kInfinity;
    return finite;
}
