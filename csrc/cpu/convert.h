// Rows of a storage type to fp32 and back.
// Included by the *_isa.cpp files only, inside their per-instruction-set namespaces.

// to[0:n] = from[0:n] * factor
[[maybe_unused]] static void load_row(const void* base, int64_t offset, int dtype, int n, float factor, float* to) {
    if (dtype == AVFLOW_FLOAT32) {
        const float* from = static_cast<const float*>(base) + offset;
        for (int i = 0; i < n; ++i) to[i] = from[i] * factor;
    } else if (dtype == AVFLOW_BFLOAT16) {
        const uint16_t* from = static_cast<const uint16_t*>(base) + offset;
        for (int i = 0; i < n; ++i) {
            const uint32_t bits = static_cast<uint32_t>(from[i]) << 16;
            float x;
            std::memcpy(&x, &bits, 4);
            to[i] = x * factor;
        }
    } else {
        const _Float16* from = static_cast<const _Float16*>(base) + offset;
        for (int i = 0; i < n; ++i) to[i] = static_cast<float>(from[i]) * factor;
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
            uint32_t bits;
            std::memcpy(&bits, &x, 4);
            const bool nan = x != x;
            bits += 0x7FFF + ((bits >> 16) & 1);  // to nearest, ties to even
            to[i] = nan ? 0x7FC0 : static_cast<uint16_t>(bits >> 16);
        }
    } else {
        _Float16* to = static_cast<_Float16*>(base) + offset;
        for (int i = 0; i < n; ++i) to[i] = static_cast<_Float16>(from[i] * factor);
    }
}
