// Keys and values in bfloat16, packed in pairs as the processor multiplies them: a pair is two neighbours along the
// sum, in one 32-bit word. Keep lists are applied here, so packing is also the gather. Needs AVX-512. Included by
// bf16_batch.h only.

// Words of a row of `depth` numbers that lie in the 16 from `word` on.
AVFLOW_INLINE __mmask16 words_left(int depth, int word) {
    const int left = depth / 2 - word;
    return static_cast<__mmask16>(left >= 16 ? 0xFFFF : (1 << left) - 1);
}

// to[c, 0:16] = r[0:16][c] for c in 0..15, with rows of `stride` words in `to`.
template <typename Word>
AVFLOW_INLINE void transpose16(__m512i* r, Word* to, int stride) {
    __m512i s[16];
#pragma GCC unroll 8
    for (int i = 0; i < 16; i += 2) {  // pairs of rows, interleaved within each 128-bit quarter
        s[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
        s[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    }
#pragma GCC unroll 4
    for (int i = 0; i < 16; i += 4) {  // quadruples: r[i + c] holds column c of each quarter
        r[i] = _mm512_unpacklo_epi64(s[i], s[i + 2]);
        r[i + 1] = _mm512_unpackhi_epi64(s[i], s[i + 2]);
        r[i + 2] = _mm512_unpacklo_epi64(s[i + 1], s[i + 3]);
        r[i + 3] = _mm512_unpackhi_epi64(s[i + 1], s[i + 3]);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {  // quarters 0 and 2 of eight rows, 1 and 3 of eight rows
        s[c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0x88);
        s[4 + c] = _mm512_shuffle_i32x4(r[c], r[4 + c], 0xDD);
        s[8 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0x88);
        s[12 + c] = _mm512_shuffle_i32x4(r[8 + c], r[12 + c], 0xDD);
    }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
        _mm512_storeu_si512(to + c * stride, _mm512_shuffle_i32x4(s[c], s[8 + c], 0x88));
        _mm512_storeu_si512(to + (4 + c) * stride, _mm512_shuffle_i32x4(s[4 + c], s[12 + c], 0x88));
        _mm512_storeu_si512(to + (8 + c) * stride, _mm512_shuffle_i32x4(s[c], s[8 + c], 0xDD));
        _mm512_storeu_si512(to + (12 + c) * stride, _mm512_shuffle_i32x4(s[4 + c], s[12 + c], 0xDD));
    }
}

// Keys of one tile and one kv head: panel [deep / 2, 64] words, each two neighbouring columns of a key; absent keys and
// columns are zero.
static void pack_keys(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, uint32_t* panel) {
    const auto* const k = static_cast<const uint16_t*>(plan.a.k);
    for (int first = 0; first < kKeyTile; first += 16) {
        const uint16_t* rows[16];
        for (int j = 0; j < 16; ++j) {
            const Place at = plan.place_in(tile, first + j);
            rows[j] = at.slot < 0 ? nullptr : k + plan.key_offset(at, kv_head);
        }
        for (int word = 0; word < plan.deep / 2; word += 16) {
            const __mmask16 there = words_left(plan.depth, word);
            __m512i r[16];
#pragma GCC unroll 16
            for (int j = 0; j < 16; ++j) {
                if (word == 0) ahead.fetch(first + j);
                r[j] = rows[j] ? _mm512_maskz_loadu_epi32(there, rows[j] + 2 * word) : _mm512_setzero_si512();
            }
            transpose16(r, panel + word * kKeyTile + first, kKeyTile);
        }
    }
}

// Which numbers of two vectors make the low half of their pairs, and the high half.
alignas(64) static constexpr uint16_t kPairs[2][32] = {
    {0, 32, 1, 33, 2,  34, 3,  35, 4,  36, 5,  37, 6,  38, 7,  39,
     8, 40, 9, 41, 10, 42, 11, 43, 12, 44, 13, 45, 14, 46, 15, 47},
    {16, 48, 17, 49, 18, 50, 19, 51, 20, 52, 21, 53, 22, 54, 23, 55,
     24, 56, 25, 57, 26, 58, 27, 59, 28, 60, 29, 61, 30, 62, 31, 63}};

// Values of one tile and one kv head: panel [32, width] words, each one column of two neighbouring keys; absent keys
// and columns are zero. Returns whether no value is NaN or infinite.
static bool pack_values(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, uint32_t* panel) {
    const auto* const v = static_cast<const uint16_t*>(plan.a.v);
    const __m512i exponent = _mm512_set1_epi16(0x7F80);
    const __m512i low = _mm512_load_si512(kPairs[0]), high = _mm512_load_si512(kPairs[1]);
    __mmask32 nonfinite = 0;
    for (int j = 0; j < kKeyTile; j += 2, panel += plan.width) {
        const uint16_t* rows[2];
        for (int i = 0; i < 2; ++i) {
            const Place at = plan.place_in(tile, j + i);
            ahead.fetch(j + i);
            rows[i] = at.slot < 0 ? nullptr : v + plan.value_offset(at, kv_head);
        }
        for (int c = 0; c < plan.width; c += 32) {
            const __mmask16 there = words_left(plan.depth, c / 2);
            __m512i r[2];
#pragma GCC unroll 2
            for (int i = 0; i < 2; ++i) {
                r[i] = rows[i] ? _mm512_maskz_loadu_epi32(there, rows[i] + c) : _mm512_setzero_si512();
                nonfinite |= _mm512_cmpeq_epi16_mask(_mm512_and_si512(r[i], exponent), exponent);
            }
            _mm512_storeu_si512(panel + c, _mm512_permutex2var_epi16(r[0], low, r[1]));
            if (c + 16 < plan.width) _mm512_storeu_si512(panel + c + 16, _mm512_permutex2var_epi16(r[0], high, r[1]));
        }
    }
    return nonfinite == 0;
}

// Bits of value c of key j, as a float.
AVFLOW_INLINE uint32_t value_bits(const uint32_t* panel, int width, int j, int c) {
    const uint32_t word = panel[static_cast<int64_t>(j / 2) * width + c];
    return j % 2 ? word & 0xFFFF0000 : word << 16;
}
