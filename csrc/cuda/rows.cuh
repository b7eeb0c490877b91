// What a warp does with its 16 packed rows between and after the products: masks, softmax, mass, results.
#pragma once

#include "cuda/tile.cuh"

namespace avflow::cuda {

// What a thread holds of its warp's 16 packed rows. Index h = 0, 1: rows lane / 4 and lane / 4 + 8; columns
// 8 n + 2 (lane % 4) + {0, 1} of scores s and outputs o are s[n][2 h + {0, 1}].
template <int kDepth>
struct Rows {
    float o[kDepth / 8][4];
    float top[2];  // running maximum of the scores before scaling
    float sum[2];  // this thread's share of the running sum
};

using Scores = float[kKeyTile / 8][4];

template <int kDepth>
AVFLOW_DEVICE void clear(Rows<kDepth>& rows) {
#pragma unroll
    for (int h = 0; h < 2; ++h) rows.top[h] = -kInfinity, rows.sum[h] = 0.0f;
#pragma unroll
    for (int n = 0; n < kDepth / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows.o[n][i] = 0.0f;
    }
}

// Adds up the four threads' shares of each row's sum.
template <int kDepth>
AVFLOW_DEVICE void join_sums(Rows<kDepth>& rows) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        rows.sum[h] += shuffle_xor(rows.sum[h], 1);
        rows.sum[h] += shuffle_xor(rows.sum[h], 2);
    }
}

// Where the words of a thread's two packed rows are; rows past the end take the last one's.
AVFLOW_DEVICE void find_units(const Extent& tile, bool by_head, int warp, int lane, int (&unit)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int m = warp * 16 + (lane >> 2) + 8 * h, inside = m < tile.count ? m : tile.count - 1;
        unit[h] = by_head ? inside : inside / tile.group;
    }
}

// The queries of a warp's 16 packed rows, from shared memory laid out by chunk_at.
template <int kDepth>
AVFLOW_DEVICE void take_queries(uint32_t queries, uint32_t flip, int warp, int lane, uint32_t (&q)[kDepth / 16][4]) {
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
        load_matrices(q[step], queries + chunk_at<kDepth>(warp * 16 + (lane & 15), 2 * step + lane / 16));
#pragma unroll
        for (int i = 0; i < 4; ++i) q[step][i] ^= flip;
    }
}

// mass [16, groups] of the warp = 0; by the thread that owns the cell, see add_mass.
AVFLOW_DEVICE void clear_mass(int groups, int lane, float* mass) {
    for (int g = lane & 3; g < groups; g += 4) {
        mass[(lane >> 2) * groups + g] = mass[((lane >> 2) + 8) * groups + g] = 0.0f;
    }
}

// Puts `other` where the rows' words have no bit; bit 0 is the first of the scores' keys.
template <int kColumns>
AVFLOW_DEVICE void keep(float (&s)[kColumns][4], uint64_t word0, uint64_t word1, int lane, float other) {
    const uint64_t words[2] = {word0 >> (2 * (lane & 3)), word1 >> (2 * (lane & 3))};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint32_t halves[2] = {static_cast<uint32_t>(words[h]), static_cast<uint32_t>(words[h] >> 32)};
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                if (!((halves[n / 4] >> (8 * (n % 4) + b)) & 1u)) s[n][2 * h + b] = other;
            }
        }
    }
}

// Scores to weights; moves the running maximum and sum on. What was summed so far is still to be scaled by alpha.
template <int kDepth, int kColumns>
AVFLOW_DEVICE void softmax(float (&s)[kColumns][4], float factor, Rows<kDepth>& rows, float (&alpha)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        float top = rows.top[h];
#pragma unroll
        for (int n = 0; n < kColumns; ++n) top = fmaxf(top, fmaxf(s[n][2 * h], s[n][2 * h + 1]));
        top = fmaxf(top, shuffle_xor(top, 1));
        top = fmaxf(top, shuffle_xor(top, 2));
        const float base = top == -kInfinity ? 0.0f : top * factor;  // -inf - -inf would be NaN
        alpha[h] = exp2_fast(rows.top[h] * factor - base);
        rows.top[h] = top;
        float sum = rows.sum[h] * alpha[h];
#pragma unroll
        for (int n = 0; n < kColumns; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const float weight = exp2_fast(s[n][2 * h + b] * factor - base);
                s[n][2 * h + b] = weight;
                sum += weight;
            }
        }
        rows.sum[h] = sum;
    }
}

template <int kDepth>
AVFLOW_DEVICE void scale_outputs(const float (&alpha)[2], Rows<kDepth>& rows) {
#pragma unroll
    for (int n = 0; n < kDepth / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) rows.o[n][i] *= alpha[i / 2];
    }
}

// Weights as the left side of the next product: the layout of the sums is that of a left side.
using Weights = uint32_t[kKeyTile / 16][4];

template <bool kBf16, int kColumns>
AVFLOW_DEVICE void round_weights(const float (&s)[kColumns][4], uint32_t (&to)[kColumns / 2][4]) {
#pragma unroll
    for (int step = 0; step < kColumns / 2; ++step) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
            const float* pair = &s[2 * step + i / 2][2 * (i % 2)];
            to[step][i] = round_pair<kBf16>(pair[0], pair[1]);
        }
    }
}

// Which keys have a weight that is not exactly 0, in row h of a thread's two; bit 0 is the first of the weights' keys.
template <int kColumns>
AVFLOW_DEVICE uint64_t nonzero_weights(const float (&s)[kColumns][4], int h, int lane) {
    uint64_t bits = 0;
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
#pragma unroll
        for (int b = 0; b < 2; ++b) bits |= s[n][2 * h + b] != 0.0f ? uint64_t{1} << (8 * n + b) : 0;
    }
    bits <<= 2 * (lane & 3);
    bits |= shuffle_xor(bits, 1);
    return bits | shuffle_xor(bits, 2);
}

// The same of a warp's 16 rows, into used [16].
AVFLOW_DEVICE void note_nonzero_weights(const Scores& s, int lane, uint64_t* used) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint64_t bits = nonzero_weights(s, h, lane);
        if ((lane & 3) == 0) used[(lane >> 2) + 8 * h] = bits;
    }
}

// Adds what values that were taken out would have: any weight times infinity is infinity, and NaN counts as both.
template <int kDepth>
AVFLOW_DEVICE void add_nonfinite(const uint64_t* used, const Nonfinite& nonfinite, int lane, Rows<kDepth>& rows) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const uint64_t bits = used[(lane >> 2) + 8 * h];
        const uint32_t low = static_cast<uint32_t>(bits), high = static_cast<uint32_t>(bits >> 32);
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const int at = 8 * n + 2 * (lane & 3) + b;
                float& o = rows.o[n][2 * h + b];
                if ((low & nonfinite.up[0][at]) | (high & nonfinite.up[1][at])) o += kInfinity;
                if ((low & nonfinite.down[0][at]) | (high & nonfinite.down[1][at])) o -= kInfinity;
            }
        }
    }
}

// mass [16, groups] of the warp += weights of each run of keys. Cell (row, g) belongs to one thread of the row's four,
// g % 4 tells which, so that the order of additions is fixed. The scores are those of keys `first` and on of the tile.
template <int kColumns>
AVFLOW_DEVICE void add_mass(const Problem& p, int32_t key_tile, const float (&s)[kColumns][4], const float (&alpha)[2],
                            int lane, float* mass, int first = 0) {
    const int groups = p.header->groups, mine = lane & 3;
    for (int h = 0; h < 2; ++h) {
        float* cells = mass + ((lane >> 2) + 8 * h) * groups;
        for (int g = mine; g < groups; g += 4) cells[g] *= alpha[h];
    }
    for (int32_t r = p.run_begin[key_tile]; r < p.run_begin[key_tile + 1]; ++r) {
        const Run& run = p.runs[r];
        uint64_t bits = low_bits(run.count) << run.begin;
        if constexpr (kColumns < kKeyTile / 8) {
            bits = bits >> first & low_bits(8 * kColumns);
            if (!bits) continue;
        }
        bits >>= 2 * mine;
#pragma unroll
        for (int h = 0; h < 2; ++h) {
            float share = 0.0f;
#pragma unroll
            for (int n = 0; n < kColumns; ++n) {
#pragma unroll
                for (int b = 0; b < 2; ++b) share += (bits >> (8 * n + b)) & 1u ? s[n][2 * h + b] : 0.0f;
            }
            share += shuffle_xor(share, 1);
            share += shuffle_xor(share, 2);
            if (run.group % 4 == mine) mass[((lane >> 2) + 8 * h) * groups + run.group] += share;
        }
    }
}

// Writes a finished warp's rows: out = o / sum through shared memory, so that whole chunks leave, lse and mass. kRows:
// of the shared memory, see block_chunk_at.
template <bool kBf16, int kDepth, int kRows = 0>
AVFLOW_DEVICE void finish(const Call& c, const Extent& tile, int warp, int lane, const Rows<kDepth>& rows,
                          const float* mass, char* staging) {
    struct alignas(16) Chunk {
        uint32_t pairs[4];
    };
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int in_warp = (lane >> 2) + 8 * h, m = warp * 16 + in_warp;
        const float share = rows.sum[h] == 0.0f ? 0.0f : 1.0f / rows.sum[h];  // NaN stays NaN
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
            *reinterpret_cast<uint32_t*>(staging + block_chunk_at<kDepth, kRows>(m, n) + 4 * (lane & 3)) =
                round_pair<kBf16>(rows.o[n][2 * h] * share, rows.o[n][2 * h + 1] * share);
        }
        if (m >= tile.count) continue;
        const int64_t at = static_cast<int64_t>(tile.first_row + m / tile.group) * c.heads + tile.kv_head * tile.group +
                           m % tile.group;
        if (c.lse && (lane & 3) == 0) {
            c.lse[at] = rows.sum[h] == 0.0f ? -kInfinity : (rows.top[h] * c.factor + log2f(rows.sum[h])) * kLn2;
        }
        for (int g = lane & 3; g < c.mass_groups; g += 4) {
            c.group_mass[at * c.mass_groups + g] = mass[in_warp * c.mass_groups + g] * share;
        }
    }
    sync_warp();
    constexpr int kChunks = kDepth / 8;
    for (int i = lane; i < 16 * kChunks; i += 32) {
        const int m = warp * 16 + i / kChunks, chunk = i % kChunks;
        if (m >= tile.count) break;
        const int64_t at = static_cast<int64_t>(tile.first_row + m / tile.group) * c.heads + tile.kv_head * tile.group +
                           m % tile.group;
        reinterpret_cast<Chunk*>(c.out + at * kDepth)[chunk] =
            *reinterpret_cast<const Chunk*>(staging + block_chunk_at<kDepth, kRows>(m, chunk));
    }
}

// Leaves a warp's rows for the merge kernel.
template <int kDepth>
AVFLOW_DEVICE void leave_part(const Call& c, const Extent& tile, int warp, int lane, const Rows<kDepth>& rows,
                              const float* mass, float* part) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int in_warp = (lane >> 2) + 8 * h, m = warp * 16 + in_warp;
        if (m >= tile.count) continue;
        if ((lane & 3) == 0) {
            part[m] = rows.top[h] * c.factor;
            part[c.tile_heads + m] = rows.sum[h];
        }
        float* o = part + 2 * c.tile_heads + m * kDepth;
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
            o[8 * n + 2 * (lane & 3)] = rows.o[n][2 * h];
            o[8 * n + 2 * (lane & 3) + 1] = rows.o[n][2 * h + 1];
        }
        float* to = part + c.tile_heads * (2 + kDepth) + m * c.mass_groups;
        for (int g = lane & 3; g < c.mass_groups; g += 4) to[g] = mass[in_warp * c.mass_groups + g];
    }
}

}  // namespace avflow::cuda
