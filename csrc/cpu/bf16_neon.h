// bfloat16 on processors of ARM that multiply it (FEAT_BF16): panels, softmax and the two products of a block of 16 or
// 32 rows by BFMMLA, which multiplies 2 x 4 numbers with 4 x 2 and adds to 2 x 2 sums in fp32. Included by bf16_batch.h
// only.

// 2 rows of 4 numbers each; those in memory that lie `stride` apart, and those packed one after the other.
AVFLOW_INLINE bfloat16x8_t pair_of_rows(const uint16_t* from, int64_t stride) {
    return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(from), vld1_u16(from + stride)));
}
AVFLOW_INLINE bfloat16x8_t packed_pair(const uint16_t* from) { return vreinterpretq_bf16_u16(vld1q_u16(from)); }

// Keys of one tile and one kv head: panel [deep / 4, 64, 4]; absent keys and columns are zero.
static void pack_keys(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, uint32_t* panel) {
    auto* const to = reinterpret_cast<uint16_t*>(panel);
    for (int j = 0; j < kKeyTile; ++j) {
        const Place at = plan.place_in(tile, j);
        ahead.fetch(j);
        const int there = at.slot < 0 ? 0 : plan.depth;
        const uint16_t* const key =
            there ? static_cast<const uint16_t*>(plan.a.k) + plan.key_offset(at, kv_head) : nullptr;
        for (int c = 0; c < plan.deep; c += 4) {
            vst1_u16(to + (c / 4 * kKeyTile + j) * 4, c < there ? vld1_u16(key + c) : vdup_n_u16(0));
        }
    }
}

// Values: panel [16, width, 4], four keys of each column beside each other; zero beyond head_dim and for absent keys.
// Returns whether they hold no NaN and no infinity.
static bool pack_values(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, uint32_t* panel) {
    auto* to = reinterpret_cast<uint16_t*>(panel);
    const uint16x4_t exponent = vdup_n_u16(0x7F80);
    uint16x4_t nonfinite = vdup_n_u16(0);
    for (int j = 0; j < kKeyTile; j += 4, to += plan.width * 4) {
        const uint16_t* rows[4];
        for (int i = 0; i < 4; ++i) {
            const Place at = plan.place_in(tile, j + i);
            ahead.fetch(j + i);
            rows[i] = at.slot < 0 ? nullptr : static_cast<const uint16_t*>(plan.a.v) + plan.value_offset(at, kv_head);
        }
        for (int c = 0; c < plan.width; c += 4) {
            uint16x4x4_t r;
            for (int i = 0; i < 4; ++i) {
                r.val[i] = rows[i] && c < plan.depth ? vld1_u16(rows[i] + c) : vdup_n_u16(0);
                nonfinite = vorr_u16(nonfinite, vceq_u16(vand_u16(r.val[i], exponent), exponent));
            }
            vst4_u16(to + c * 4, r);  // which interleaves the four
        }
    }
    return vmaxv_u16(nonfinite) == 0;
}

// Bits of value c of key j, as a float.
AVFLOW_INLINE uint32_t value_bits(const uint32_t* panel, int width, int j, int c) {
    return static_cast<uint32_t>(reinterpret_cast<const uint16_t*>(panel)[(j / 4 * width + c) * 4 + j % 4]) << 16;
}

// As softmax.h has it, of scores that are still to be multiplied by factor; p: the weights, rounded to nearest.
static __attribute__((noinline)) void softmax_row(float* s, int tiles, const uint64_t* scored, const uint64_t* kept,
                                                  bool zero, bool, float factor, float& top, float& sum, float& alpha,
                                                  uint16_t* p) {
    for (int j = 0; j < tiles * kKeyTile; j += W) store(s + j, splat(factor) * load(s + j));
    softmax_row(s, tiles, scored, kept, zero, top, sum, alpha);
    for (int j = 0; j < tiles * kKeyTile; j += 8) {
        const bfloat16x8_t low = vcvtq_low_bf16_f32(vld1q_f32(s + j));
        vst1q_u16(p + j, vreinterpretq_u16_bf16(vcvtq_high_bf16_f32(low, vld1q_f32(s + j + 4))));
    }
}

// sum[i][n] += rows 2 i and 2 i + 1 of a [8, 4 * steps] x columns 2 n and 2 n + 1 of b, whose steps of 4 lie `step`
// apart.
AVFLOW_INLINE void add_products(const uint16_t* a, int lda, const uint16_t* b, int step, int steps,
                                float32x4_t (&sum)[4][4]) {
    for (int k = 0; k < steps; ++k, a += 4, b += step) {
        bfloat16x8_t columns[4];
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) columns[n] = packed_pair(b + n * 8);
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
            const bfloat16x8_t rows = pair_of_rows(a + 2 * i * lda, lda);
#pragma GCC unroll 4
            for (int n = 0; n < 4; ++n) sum[i][n] = vbfmmlaq_f32(sum[i][n], rows, columns[n]);
        }
    }
}

// Sums of 2 x 2 to and from rows 2 i and 2 i + 1.
AVFLOW_INLINE void store_sums(const float32x4_t (&sum)[4][4], float* to, int stride) {
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
        for (int n = 0; n < 4; ++n) {
            vst1_f32(to + 2 * i * stride + 2 * n, vget_low_f32(sum[i][n]));
            vst1_f32(to + (2 * i + 1) * stride + 2 * n, vget_high_f32(sum[i][n]));
        }
    }
}

// s [rows, 64] = q [rows, deep] x panel [deep / 4, 64, 4]; rows is 16 or 32.
static __attribute__((noinline)) void scores(const uint16_t* q, int rows, int deep, const uint32_t* panel, float* s,
                                             int lds) {
    const auto* const keys = reinterpret_cast<const uint16_t*>(panel);
    for (int m = 0; m < rows; m += 8) {
        for (int j = 0; j < kKeyTile; j += 8) {
            float32x4_t sum[4][4] = {};
            add_products(q + m * deep, deep, keys + j * 4, kKeyTile * 4, deep / 4, sum);
            store_sums(sum, s + m * lds + j, lds);
        }
    }
}

// o [rows, width] += p [rows, tiles * 64] x values [tiles][16, width, 4].
static __attribute__((noinline)) void accumulate(const uint16_t* p, int ldp, int rows, const Values* values, int tiles,
                                                 int width, float* o) {
    for (int m = 0; m < rows; m += 8) {
        for (int c = 0; c < width; c += 8) {
            float* const to = o + m * width + c;
            float32x4_t sum[4][4];
#pragma GCC unroll 4
            for (int i = 0; i < 4; ++i) {
#pragma GCC unroll 4
                for (int n = 0; n < 4; ++n) {
                    const float* const at = to + 2 * i * width + 2 * n;
                    sum[i][n] = vcombine_f32(vld1_f32(at), vld1_f32(at + width));
                }
            }
            for (int t = 0; t < tiles; ++t) {
                const auto* const b = reinterpret_cast<const uint16_t*>(values[t].at) + c * 4;
                add_products(p + m * ldp + values[t].slot * kKeyTile, ldp, b, width * 4, kKeyTile / 4, sum);
            }
            store_sums(sum, to, width);
        }
    }
}

static void begin_products() {}
static void end_products() {}
