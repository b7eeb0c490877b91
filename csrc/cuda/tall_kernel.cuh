// The tall form of the kernel for sm_80 and later, for many rows: 128 packed rows a block, 32 a warp, so that every
// matrix of keys or values that a warp loads from shared memory feeds two tiles of rows. The registers hold the outputs
// of both: queries stay in shared memory.
#pragma once

#include "cuda/tall_tiles.cuh"

namespace avflow::cuda {

constexpr int kHalf = kKeyTile / 2;

// Scores and weights of kKeys keys, for both tiles of a warp's rows.
template <int kKeys>
using TallScores = float[kPair][kKeys / 8][4];
template <int kKeys>
using TallWeights = uint32_t[kPair][kKeys / 16][4];

// s = queries x keys; queries: of the warp's first row.
template <bool kBf16, int kDepth, int kColumns>
AVFLOW_DEVICE void multiply_keys(uint32_t queries, uint32_t keys, int lane, float (&s)[kPair][kColumns][4]) {
    const uint32_t query_row = queries + (lane & 15) * kDepth * 2;
    const uint32_t query_chunk = ((lane >> 4) ^ (lane & 7)) << 4;
    // Lanes 0-7 and 8-15 name 8 keys at two neighbouring chunks, lanes 16-31 the 8 keys after those.
    const uint32_t row = keys + ((lane >> 4) * 8 + (lane & 7)) * kDepth * 2;
    const uint32_t chunk = (((lane >> 3) & 1) ^ (lane & 7)) << 4;
#pragma unroll
    for (int t = 0; t < kPair; ++t) {
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
            for (int i = 0; i < 4; ++i) s[t][n][i] = 0.0f;
        }
    }
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
        uint32_t q[kPair][4];
#pragma unroll
        for (int t = 0; t < kPair; ++t) {
            load_matrices(q[t], query_row + t * 16 * kDepth * 2 + (query_chunk ^ (step << 5)));
        }
#pragma unroll
        for (int n = 0; n < kColumns; n += 2) {
            uint32_t b[4];
            load_matrices(b, row + n * 8 * kDepth * 2 + (chunk ^ (step << 5)));
#pragma unroll
            for (int t = 0; t < kPair; ++t) {
                multiply_add<kBf16>(s[t][n], q[t], b[0], b[1]);
                multiply_add<kBf16>(s[t][n + 1], q[t], b[2], b[3]);
            }
        }
    }
}

// o += weights x values.
template <bool kBf16, int kDepth, int kSteps>
AVFLOW_DEVICE void multiply_values(const uint32_t (&p)[kPair][kSteps][4], uint32_t values, int lane,
                                   Rows<kDepth> (&rows)[kPair]) {
    // Lanes 0-15 name 16 keys at one chunk, lanes 16-31 the same keys at the next.
    const uint32_t row = values + (lane & 15) * kDepth * 2;
    const uint32_t chunk = ((lane >> 4) ^ (lane & 7)) << 4;
#pragma unroll
    for (int n = 0; n < kDepth / 8; n += 2) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
            uint32_t b[4];
            load_matrices_transposed(b, row + step * 16 * kDepth * 2 + (chunk ^ (n << 4)));
#pragma unroll
            for (int t = 0; t < kPair; ++t) {
                multiply_add<kBf16>(rows[t].o[n], p[t][step], b[0], b[1]);
                multiply_add<kBf16>(rows[t].o[n + 1], p[t][step], b[2], b[3]);
            }
        }
    }
}

// A block's shared memory, and the copies into it.
template <int kDepth>
struct Tall {
    static constexpr uint32_t kTileBytes = kKeyTile * kDepth * 2, kWarpBytes = 16 * kPair * kDepth * 2;
    const Call& c;
    char* const memory;  // keys, values, queries (later outputs), what else is shared, mass

    AVFLOW_DEVICE_MEMBER char* values() const { return memory + kTileBytes; }
    AVFLOW_DEVICE_MEMBER char* queries() const { return memory + 2 * kTileBytes; }
    AVFLOW_DEVICE_MEMBER TallShared& shared() const {
        return *reinterpret_cast<TallShared*>(queries() + kWarps * kWarpBytes);
    }
    // [16, mass_groups] of a tile of 16 rows
    AVFLOW_DEVICE_MEMBER float* mass(int tile_of_16) const {
        return reinterpret_cast<float*>(&shared() + 1) + tile_of_16 * 16 * c.mass_groups;
    }
    AVFLOW_DEVICE_MEMBER void fetch_keys(int32_t key_tile) const {
        load_side<kDepth>(c, shared(), keys_of(c, shared().tile.kv_head), key_tile, shared_address(memory));
        copy_commit();
    }
    AVFLOW_DEVICE_MEMBER void fetch_values(int32_t key_tile) const {
        load_side<kDepth>(c, shared(), values_of(c, shared().tile.kv_head), key_tile, shared_address(values()));
        copy_commit();
    }
    // All copies have arrived, and all warps are done with what they read before.
    static AVFLOW_DEVICE_MEMBER void meet() {
        copy_wait<0>();
        sync_block();
    }
};

// Tiles of which nothing is masked, noted or counted. Without a branch the compiler lets rescaling, sums and rounding
// run under the exponentials.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void take_whole(const Tall<kDepth>& block, const Stretch& now, const Stretch& next,
                              Rows<kDepth> (&rows)[kPair]) {
    const uint32_t keys = shared_address(block.memory), values = shared_address(block.values());
    for (int32_t key_tile = now.first; key_tile < now.first + now.count; ++key_tile) {
        const int thread = anew(threadIdx.x), lane = thread % 32;
        const uint32_t queries = shared_address(block.queries()) + thread / 32 * block.kWarpBytes;
        block.fetch_values(key_tile);
        TallScores<kKeyTile> s;
        TallWeights<kKeyTile> weights;
        multiply_keys<kBf16, kDepth>(queries, keys, lane, s);
#pragma unroll
        for (int t = 0; t < kPair; ++t) {
            float alpha[2];
            softmax<kDepth>(s[t], block.c.factor, rows[t], alpha);
            scale_outputs<kDepth>(alpha, rows[t]);
            round_weights<kBf16>(s[t], weights[t]);
        }
        block.meet();
        block.fetch_keys(key_tile + 1 < now.first + now.count ? key_tile + 1 : next.first);
        multiply_values<kBf16, kDepth>(weights, values, lane, rows);
        block.meet();
    }
}

// Any tile, half of it at a time: what masks, mass and NaN need lies in registers too.
template <bool kBf16, int kDepth, bool kMass>
AVFLOW_DEVICE void take_any(const Tall<kDepth>& block, const Stretch& now, const Stretch& next,
                            Rows<kDepth> (&rows)[kPair]) {
    const Call& c = block.c;
    TallShared& shared = block.shared();
    const Problem& p = shared.problem;
    const bool whole = kMass && now.whole, zero = p.header->zero;
    block.fetch_values(now.first);
    if (!whole) fill_words(c, p, shared.tile, now.first, shared.words);
    bool has_nonfinite = false;
#pragma unroll 1
    for (int first = 0; first < kKeyTile; first += kHalf) {
        const int thread = anew(threadIdx.x), lane = thread % 32, tile_of_16 = thread / 32 * kPair;
        const uint32_t queries = shared_address(block.queries()) + thread / 32 * block.kWarpBytes;
        TallScores<kHalf> s;
        TallWeights<kHalf> weights;
        multiply_keys<kBf16, kDepth>(queries, shared_address(block.memory) + first * kDepth * 2, lane, s);
        block.meet();
        if (first) block.fetch_keys(next.first);
        uint32_t seen[kPair][2], open[kPair][2];  // of the thread's rows
        if (!whole) {
            if (has_nonfinite) {  // what was noted of the first half lies where the words were
                fill_words(c, p, shared.tile, now.first, shared.words);
                sync_block();
            }
#pragma unroll
            for (int t = 0; t < kPair; ++t) {
                int unit[2];
                find_units(shared.tile, p.header->head_cuts, tile_of_16 + t, lane, unit);
#pragma unroll
                for (int h = 0; h < 2; ++h) {
                    open[t][h] = static_cast<uint32_t>(shared.words[unit[h]].open >> first);
                    seen[t][h] = zero ? static_cast<uint32_t>(shared.words[unit[h]].seen >> first) : open[t][h];
                }
            }
            // See attend: values that are NaN or infinite are taken out.
            char* const values = block.values() + first * kDepth * 2;
            has_nonfinite = sync_block_any(any_nonfinite<kBf16, kDepth, FirstThreads, kHalf>(values));
            if (has_nonfinite) {
                take_out_nonfinite<kBf16, kDepth, 0, FirstThreads, kHalf>(values, shared.nonfinite);
                sync_block();
            }
        }
#pragma unroll
        for (int t = 0; t < kPair; ++t) {
            if (!whole) keep(s[t], seen[t][0], seen[t][1], lane, -kInfinity);
            float alpha[2];
            softmax<kDepth>(s[t], c.factor, rows[t], alpha);
            scale_outputs<kDepth>(alpha, rows[t]);
            if (!whole && zero) keep(s[t], open[t][0], open[t][1], lane, 0.0f);
            if constexpr (kMass) add_mass(p, now.first, s[t], alpha, lane, block.mass(tile_of_16 + t), first);
            if (has_nonfinite) {
                const uint32_t used[2] = {static_cast<uint32_t>(nonzero_weights(s[t], 0, lane)),
                                          static_cast<uint32_t>(nonzero_weights(s[t], 1, lane))};
                add_back<kDepth>(used, shared.nonfinite, lane, rows[t]);
            }
            round_weights<kBf16>(s[t], weights[t]);
        }
        multiply_values<kBf16, kDepth>(weights, shared_address(block.values()) + first * kDepth * 2, lane, rows);
    }
    block.meet();
}

// kMass: group mass is asked for; a kernel of its own, since registers that hold what either needs would be too many.
template <bool kBf16, int kDepth, bool kMass>
__global__ void __launch_bounds__(kThreads, 2) attend_tall(const Call c) {
    const Tall<kDepth> block = {c, shared_memory()};
    TallShared& shared = block.shared();
    if (threadIdx.x == 0) begin_walk(c, shared);
    sync_block();

    load_queries<kDepth>(c, shared.problem, shared.tile, 0, kTallHeads, threadIdx.x, kThreads,
                         shared_address(block.queries()));
    if (shared.stretch[0].count) block.fetch_keys(shared.stretch[0].first);
    copy_commit();
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    Rows<kDepth> rows[kPair];
#pragma unroll
    for (int t = 0; t < kPair; ++t) {
        clear(rows[t]);
        clear_mass(c.mass_groups, lane, block.mass(kPair * warp + t));
    }
    block.meet();
    if (c.flip) flip_queries<kDepth>(c.flip, lane, block.queries() + warp * block.kWarpBytes);

    int turn = 0;
    // The first thread finds the next tiles while all take these.
    const auto take_turn = [&](const auto& take) {
        const Stretch now = shared.stretch[turn];
        turn ^= 1;
        if (threadIdx.x == 0) shared.stretch[turn] = take_stretch(c, shared);
        take(block, now, shared.stretch[turn], rows);
    };
    while (!kMass && shared.stretch[turn].whole) take_turn([](auto&&... all) { take_whole<kBf16>(all...); });
    while (shared.stretch[turn].count) take_turn([](auto&&... all) { take_any<kBf16, kDepth, kMass>(all...); });

    // The outputs go through the warp's own queries, which no other warp reads.
    const int thread = anew(threadIdx.x);
#pragma unroll
    for (int t = 0; t < kPair; ++t) {
        const int tile_of_16 = thread / 32 * kPair + t;
        join_sums(rows[t]);
        finish<kBf16, kDepth>(c, shared.tile, tile_of_16, thread % 32, rows[t], block.mass(tile_of_16),
                              block.queries());
    }
}

}  // namespace avflow::cuda
