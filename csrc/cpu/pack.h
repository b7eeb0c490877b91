// Reading k and v in their storage type into panels of floats; keep lists are applied here, so packing is also the
// gather. Included by attention_isa.cpp only, inside its per-instruction-set namespace.

// to[c, 0:8] = rows[0:8][c] for c in 0..7, with rows of stride `to_stride` in `to`.
AVFLOW_INLINE void transpose8(const float* const* rows, int at, float* to, int to_stride) {
    Vec8 r[8], s[8];
    for (int i = 0; i < 8; ++i) std::memcpy(&r[i], rows[i] + at, 32);
    for (int i = 0; i < 4; ++i) {  // pairs of rows, interleaved within each 128-bit half
        s[2 * i] = AVFLOW_SHUFFLE(r[2 * i], r[2 * i + 1], 0, 8, 1, 9, 4, 12, 5, 13);
        s[2 * i + 1] = AVFLOW_SHUFFLE(r[2 * i], r[2 * i + 1], 2, 10, 3, 11, 6, 14, 7, 15);
    }
    for (int i = 0; i < 2; ++i) {  // quadruples of rows
        r[4 * i + 0] = AVFLOW_SHUFFLE(s[4 * i], s[4 * i + 2], 0, 1, 8, 9, 4, 5, 12, 13);
        r[4 * i + 1] = AVFLOW_SHUFFLE(s[4 * i], s[4 * i + 2], 2, 3, 10, 11, 6, 7, 14, 15);
        r[4 * i + 2] = AVFLOW_SHUFFLE(s[4 * i + 1], s[4 * i + 3], 0, 1, 8, 9, 4, 5, 12, 13);
        r[4 * i + 3] = AVFLOW_SHUFFLE(s[4 * i + 1], s[4 * i + 3], 2, 3, 10, 11, 6, 7, 14, 15);
    }
    for (int i = 0; i < 4; ++i) {
        s[i] = AVFLOW_SHUFFLE(r[i], r[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
        s[i + 4] = AVFLOW_SHUFFLE(r[i], r[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
    }
    for (int c = 0; c < 8; ++c) std::memcpy(to + c * to_stride, &s[c], 32);
}

// Keys of one tile and one kv head, transposed: panel [d, 64]; absent keys are zero.
static void pack_keys(const TaskPlan& plan, int tile, int kv_head, const Ahead& ahead, float* panel) {
    const AvflowAttention& a = plan.a;
    const int d = a.head_dim;
    alignas(64) float staging[8][256];
    alignas(64) static const float nothing[256] = {};
    const float* rows[kKeyTile];
    const bool direct = a.dtype == AVFLOW_FLOAT32;
    for (int j = 0; j < kKeyTile; ++j) {
        const Place at = plan.place_in(tile, j);
        if (at.slot < 0) {
            rows[j] = nothing;
        } else if (direct) {
            rows[j] = static_cast<const float*>(a.k) + plan.key_offset(at, kv_head);
        } else {
            load_row(a.k, plan.key_offset(at, kv_head), a.dtype, d, 1.0f, staging[j % 8]);
            rows[j] = staging[j % 8];
        }
        if (!direct && j % 8 == 7) {
            for (int c = 0; c < d; c += 8) transpose8(rows + j - 7, c, panel + c * kKeyTile + j - 7, kKeyTile);
        }
    }
    if (!direct) return;
    // One cache line of every key, then the next: 16 rows of the panel (4 KB) are written while they lie in the
    // first-level cache. Key by key, each store would miss it.
    int fetched = 0;
    for (int c = 0; c < d; c += 16) {
        for (int j = 0; j < kKeyTile; j += 8) {
            if (fetched < kKeyTile) ahead.fetch(fetched++);
            transpose8(rows + j, c, panel + c * kKeyTile + j, kKeyTile);
            if (c + 8 < d) transpose8(rows + j, c + 8, panel + (c + 8) * kKeyTile + j, kKeyTile);
        }
    }
    for (; fetched < kKeyTile; ++fetched) ahead.fetch(fetched);
}
