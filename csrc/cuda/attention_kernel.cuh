// Attention on tensor cores, sm_80 and later, after FlashAttention-2 (Dao 2023, arXiv 2307.08691): a block holds 64
// packed rows of one kv head and walks their live key tiles with a running maximum and sum, while the next tile is on
// its way into the other half of shared memory.
#pragma once

#include "cuda/rows.cuh"

namespace avflow::cuda {

// s = queries x keys.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void multiply_keys(const uint32_t (&q)[kDepth / 16][4], uint32_t keys, int lane, Scores& s) {
    // Lanes 0-7 and 8-15 name 8 keys at two neighbouring chunks, lanes 16-31 the 8 keys after those.
    const uint32_t row = keys + ((lane >> 4) * 8 + (lane & 7)) * kDepth * 2;
    const uint32_t chunk = (((lane >> 3) & 1) ^ (lane & 7)) << 4;
#pragma unroll
    for (int n = 0; n < kKeyTile / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
#pragma unroll
        for (int n = 0; n < kKeyTile / 8; n += 2) {
            uint32_t b[4];
            load_matrices(b, row + n * 8 * kDepth * 2 + (chunk ^ (step << 5)));
            multiply_add<kBf16>(s[n], q[step], b[0], b[1]);
            multiply_add<kBf16>(s[n + 1], q[step], b[2], b[3]);
        }
    }
}

// o += weights x values.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void multiply_values(const Scores& s, uint32_t values, int lane, Rows<kDepth>& rows) {
    // Lanes 0-15 name 16 keys at one chunk, lanes 16-31 the same keys at the next.
    const uint32_t row = values + (lane & 15) * kDepth * 2;
    const uint32_t chunk = ((lane >> 4) ^ (lane & 7)) << 4;
    Weights p;
    round_weights<kBf16>(s, p);
#pragma unroll
    for (int n = 0; n < kDepth / 8; n += 2) {
#pragma unroll
        for (int step = 0; step < kKeyTile / 16; ++step) {
            uint32_t b[4];
            load_matrices_transposed(b, row + step * 16 * kDepth * 2 + (chunk ^ (n << 4)));
            multiply_add<kBf16>(rows.o[n], p[step], b[0], b[1]);
            multiply_add<kBf16>(rows.o[n + 1], p[step], b[2], b[3]);
        }
    }
}

template <bool kBf16, int kDepth>
__global__ void __launch_bounds__(kThreads, kDepth == 64 ? 3 : 2) attend(const Call c) {
    // Shared memory: stage 0 keys, values; stage 1 keys, values; the rest; mass. The problem's pointers lie there too:
    // in registers, all of them would stay alive through the loop, and others would spill.
    constexpr uint32_t kTileBytes = kKeyTile * kDepth * 2;
    char* const memory = shared_memory();
    const uint32_t tiles = shared_address(memory);
    Shared& shared = *reinterpret_cast<Shared*>(memory + 4 * kTileBytes);
    const Problem& p = shared.problem;
    if (threadIdx.x == 0) shared.problem = view(c.problem);
    sync_block();

    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int kv_head = blockIdx.x % c.kv_heads, place = blockIdx.x / c.kv_heads;  // heavy row tiles first
    const int split = place % c.splits, row_tile = p.tile_order[place / c.splits];
    const Extent tile = extent_of(c, *p.header, row_tile, kv_head);
    const bool whole = c.splits == 1 || live_tiles(p, row_tile) <= c.split_tiles;
    if (whole && split) return;
    Walk now = walk_from(p, row_tile, split * c.split_tiles, c.split_tiles);
    if (split && ended(now)) return;
    const int32_t latest = latest_seen(c, p, tile), earliest = earliest_seen(c, p, tile);
    pass_closed(c, p, latest, earliest, now);
    bool next_full = !ended(now) && is_whole(c, p, now);

    float* const mass = reinterpret_cast<float*>(&shared + 1) + warp * 16 * c.mass_groups;
    clear_mass(c.mass_groups, lane, mass);

    // Queries come in where the second stage's keys will lie, and stay in registers.
    load_queries<kDepth>(c, p, tile, 0, kTileHeads, threadIdx.x, kThreads, tiles + 2 * kTileBytes);
    if (!ended(now)) {
        load_keys<kDepth>(c, p, kv_head, key_tile(now), tiles, tiles + kTileBytes);
        if (!next_full) fill_words(c, p, tile, key_tile(now), shared.words[0]);
    }
    copy_commit();
    copy_wait<0>();
    sync_block();
    uint32_t q[kDepth / 16][4];
    take_queries<kDepth>(tiles + 2 * kTileBytes, c.flip, warp, lane, q);

    Rows<kDepth> rows;
    clear(rows);
    int unit[2];
    find_units(tile, p.header->head_cuts, warp, lane, unit);

    for (int stage = 0; !ended(now); stage ^= 1) {
        // This tile has arrived, and all warps are done with the tile before it: its place is free for the next.
        copy_wait<0>();
        sync_block();
        const int32_t this_tile = key_tile(now);
        const bool full = next_full;
        advance(now);
        pass_closed(c, p, latest, earliest, now);
        if (!ended(now)) {
            const uint32_t next = tiles + (stage ^ 1) * 2 * kTileBytes;
            load_keys<kDepth>(c, p, kv_head, key_tile(now), next, next + kTileBytes);
            next_full = is_whole(c, p, now);
            if (!next_full) fill_words(c, p, tile, key_tile(now), shared.words[stage ^ 1]);
        }
        copy_commit();

        const uint32_t keys = tiles + stage * 2 * kTileBytes, values = keys + kTileBytes;
        Scores s;
        float alpha[2];
        multiply_keys<kBf16, kDepth>(q, keys, lane, s);
        if (AVFLOW_FORM != 0 && full && !c.mass_groups) {
            // Nothing is masked, noted or counted: without a branch the compiler lets rescaling, sums and rounding run
            // under the exponentials.
            softmax<kDepth>(s, c.factor, rows, alpha);
            scale_outputs<kDepth>(alpha, rows);
            multiply_values<kBf16, kDepth>(s, values, lane, rows);
            continue;
        }
        const Words* words = shared.words[stage];
        const bool zero = p.header->zero;
        if (!full) {
            keep(s, zero ? words[unit[0]].seen : words[unit[0]].open, zero ? words[unit[1]].seen : words[unit[1]].open,
                 lane, -kInfinity);
        }
        softmax<kDepth>(s, c.factor, rows, alpha);
        scale_outputs<kDepth>(alpha, rows);
        if (!full && zero) keep(s, words[unit[0]].open, words[unit[1]].open, lane, 0.0f);
        if (c.mass_groups) add_mass(p, this_tile, s, alpha, lane, mass);
        // A weight of exactly 0 must hide NaN and infinities, and 0 x NaN is NaN: such values are taken out of the
        // tile, and added afterwards to the outputs that do use one. In full tiles nothing is hidden.
        const bool has_nonfinite = !full && sync_block_any(any_nonfinite<kBf16, kDepth>(memory + (values - tiles)));
        if (has_nonfinite) {
            take_out_nonfinite<kBf16, kDepth>(memory + (values - tiles), shared.nonfinite);
            note_nonzero_weights(s, lane, shared.used + warp * 16);
            sync_block();
        }
        multiply_values<kBf16, kDepth>(s, values, lane, rows);
        if (has_nonfinite) add_nonfinite<kDepth>(shared.used + warp * 16, shared.nonfinite, lane, rows);
    }

    join_sums(rows);
    if (whole) {
        sync_block();  // other warps may still read the tile that the outputs go through
        finish<kBf16, kDepth>(c, tile, warp, lane, rows, mass, memory);
    } else {
        const int64_t index = (static_cast<int64_t>(row_tile) * c.kv_heads + kv_head) * c.splits + split;
        leave_part<kDepth>(c, tile, warp, lane, rows, mass, c.parts + index * part_floats(c));
    }
}

}  // namespace avflow::cuda
