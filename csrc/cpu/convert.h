// Rows of a storage type to fp32 and back.
// Included by the *_isa.cpp files only, inside their per-instruction-set namespaces.
//
// Halves are converted here and not by the compiler's _Float16: GCC 11 has none, and later ones call a libgcc of GCC 12
// for it where the processor has no instruction.

[[maybe_unused]] static inline float float_of_bits(uint32_t bits) {
    float x;
    std::memcpy(&x, &bits, 4);
    return x;
}

[[maybe_unused]] static inline uint32_t bits_of_float(float x) {
    uint32_t bits;
    std::memcpy(&bits, &x, 4);
    return bits;
}

[[maybe_unused]] static inline float float_of_half(uint16_t half) {
    const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16, magnitude = half & 0x7FFF;
    uint32_t bits = (magnitude << 13) + (112u << 23);  // the exponent's bias is 15 in one, 127 in the other
    // 0.5 has a last place of 2^-24, the unit of halves below 2^-14; no number below 2^-126 takes part, so it does not
    // matter whether the processor flushes those.
    if (magnitude < 0x400) bits = bits_of_float(float_of_bits(0x3F000000 + magnitude) - 0.5f);
    if (magnitude >= 0x7C00) bits = 0x7F800000 | magnitude << 13 | (magnitude > 0x7C00 ? 0x400000 : 0);
    return float_of_bits(bits | sign);
}

[[maybe_unused]] static inline uint16_t half_of_float(float x) {  // to nearest, ties to even
    const uint32_t all = bits_of_float(x), sign = all >> 16 & 0x8000, bits = all & 0x7FFFFFFF;
    uint32_t half = (bits + 0xFFF + (bits >> 13 & 1) - (112u << 23)) >> 13;
    if (bits < 0x38800000) half = bits_of_float(float_of_bits(bits) + 0.5f) - 0x3F000000;  // below 2^-14
    if (bits >= 0x47800000) half = bits > 0x7F800000 ? 0x7E00 | (bits >> 13 & 0x3FF) : 0x7C00;
    return static_cast<uint16_t>(half | sign);
}

[[maybe_unused]] static void load_halves(const uint16_t* from, int n, float factor, float* to) {
    int i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        __m128i halves;
        std::memcpy(&halves, from + i, 16);
        _mm256_storeu_ps(to + i, _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(factor)));
    }
#elif defined(__aarch64__)
    for (; i + 4 <= n; i += 4) {
        vst1q_f32(to + i, vmulq_n_f32(vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(from + i))), factor));
    }
#endif
    for (; i < n; ++i) to[i] = float_of_half(from[i]) * factor;
}

[[maybe_unused]] static void store_halves(const float* from, int n, float factor, uint16_t* to) {
    int i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
        const __m256 x = _mm256_mul_ps(_mm256_loadu_ps(from + i), _mm256_set1_ps(factor));
        const __m128i halves = _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        std::memcpy(to + i, &halves, 16);
    }
#elif defined(__aarch64__)
    for (; i + 4 <= n; i += 4) {
        vst1_u16(to + i, vreinterpret_u16_f16(vcvt_f16_f32(vmulq_n_f32(vld1q_f32(from + i), factor))));
    }
#endif
    for (; i < n; ++i) to[i] = half_of_float(from[i] * factor);
}

// to[0:n] = from[0:n] * factor
[[maybe_unused]] static void load_row(const void* base, int64_t offset, int dtype, int n, float factor, float* to) {
    if (dtype == AVFLOW_FLOAT32) {
        const float* from = static_cast<const float*>(base) + offset;
        for (int i = 0; i < n; ++i) to[i] = from[i] * factor;
    } else if (dtype == AVFLOW_BFLOAT16) {
        const uint16_t* from = static_cast<const uint16_t*>(base) + offset;
        for (int i = 0; i < n; ++i) {
            to[i] = float_of_bits(static_cast<uint32_t>(from[i]) << 16) * factor;
        }
    } else {
        load_halves(static_cast<const uint16_t*>(base) + offset, n, factor, to);
    }
}

[[maybe_unused]] static void store_row(void* base, int64_t offset, int dtype, int n, const float* from, float factor) {
    if (dtype == AVFLOW_FLOAT32) {
        float* to = static_cast<float*>(base) + offset;
        for (int i = 0; i < n; ++i) to[i] = from[i] * factor;
    } else if (dtype == AVFLOW_BFLOAT16) {
        uint16_t* to = static_cast<uint16_t*>(base) + offset;
        for (int i = 0; i < n; ++i) {
            const float x = from[i] * factor;
            uint32_t bits = bits_of_float(x);
            const bool nan = x != x;
            bits += 0x7FFF + ((bits >> 16) & 1);  // to nearest, ties to even
            to[i] = nan ? 0x7FC0 : static_cast<uint16_t>(bits >> 16);
        }
    } else {
        store_halves(from, n, factor, static_cast<uint16_t*>(base) + offset);
    }
}
