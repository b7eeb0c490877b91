// Attention of a tile of 16 packed rows or fewer, as in decoding: one row, or one sequence of a batch. Its rows fill
// one warp's products only, so the four warps share out the keys: of each key tile, warp w takes keys 16 w .. 16 w +
// 15, with a maximum, a sum and outputs of its own. A warp fetches its keys itself and waits for no other until the
// end, when the four are added up in the order of the warps.
//
// What bounds it is the reading of keys and values: of a tile 32 KB (head_dim 128) are under way while as many are
// worked on, and a warp's share of that work is 32 products and 8 exponentials a thread.
#pragma once

#include "cuda/rows.cuh"

namespace avflow::cuda {

constexpr int kOwnKeys = kKeyTile / kWarps;  // of a tile, a warp's
static_assert(kOwnKeys == 16);

using FewScores = float[kOwnKeys / 8][4];

// Starts the copy of a warp's keys and values of a tile; keys beyond the last and keys that are not held become zero.
template <int kDepth>
AVFLOW_DEVICE void load_own_keys(const Call& c, const Problem& p, int32_t kv_head, int32_t tile, int warp, int lane,
                                 uint32_t k, uint32_t v) {
    constexpr int kChunks = kDepth / 8, kStep = 32 / kChunks;
    const int chunk = lane % kChunks;
    const int32_t base = tile * kKeyTile + warp * kOwnKeys, left = p.header->keys - base;
    const uint16_t* from_k = c.k + kv_head * c.k_head + chunk * 8;
    const uint16_t* from_v = c.v + kv_head * c.v_head + chunk * 8;
    const Place begin = place_of(c.slots, base);
    if (!p.keep_keys && left >= kOwnKeys && begin.slot + kOwnKeys <= c.slots.held) {  // neighbours in memory
        const int64_t slot = begin.slot + lane / kChunks;
        from_k += begin.batch * c.k_batch + slot * c.k_row;
        from_v += begin.batch * c.v_batch + slot * c.v_row;
#pragma unroll
        for (int j = 0; j < kOwnKeys; j += kStep) {
            const uint32_t to = chunk_at<kDepth>(j + lane / kChunks, chunk);
            copy_async(k + to, from_k + j * c.k_row, true);
            copy_async(v + to, from_v + j * c.v_row, true);
        }
        return;
    }
    for (int j = lane / kChunks; j < kOwnKeys; j += kStep) {
        const int32_t key = j < left ? base + j : 0;
        const Place from = place_of(c.slots, p.keep_keys ? p.keep_keys[key] : key);
        const bool valid = j < left && from.slot < c.slots.held;
        const uint32_t to = chunk_at<kDepth>(j, chunk);
        copy_async(k + to, from_k + from.batch * c.k_batch + from.slot * c.k_row, valid);
        copy_async(v + to, from_v + from.batch * c.v_batch + from.slot * c.v_row, valid);
    }
}

// The words of a warp's keys of a partial tile, by packed row where cuts name heads, else by row: see FewShared.
AVFLOW_DEVICE void fill_own_words(const Call& c, const Problem& p, const Extent& tile, int32_t key_tile, int warp,
                                  int lane, uint32_t* words) {
    const bool by_head = p.header->head_cuts;
    const int units = by_head ? tile.count : tile.rows;
    int lanes = 32;  // that share a unit's runs
    while (units * lanes > 32) lanes /= 2;
    const int unit = lane / lanes, share = lane % lanes;
    const int32_t first = warp * kOwnKeys, last = first + kOwnKeys;
    uint64_t seen = 0, open = 0;
    if (unit < units) {
        const int32_t at = tile.first_row + (by_head ? unit / tile.group : unit);
        Row row = row_of(p, at);
        if (c.row_order) row.order = c.row_order[at];
        const int32_t head = by_head ? tile.kv_head * tile.group + unit % tile.group : kEveryHead;
        const Token* keys = p.keys + static_cast<int64_t>(key_tile) * kKeyTile;
        for (int32_t r = p.run_begin[key_tile] + share; r < p.run_begin[key_tile + 1]; r += lanes) {
            Run run = p.runs[r];
            const int32_t begin = run.begin > first ? run.begin : first, end = run.begin + run.count;
            const int32_t count = (end < last ? end : last) - begin;
            if (count <= 0) continue;
            if (count < run.count) {  // the part of it that is the warp's
                run.begin = static_cast<int16_t>(begin), run.count = static_cast<int16_t>(count);
                run.first_order = keys[begin].order, run.last_order = keys[begin + count - 1].order;
            }
            const Words here = run_words(p, row, run, keys, head);
            seen |= here.seen;
            open |= here.open;
        }
    }
    const uint32_t mask = (1u << kOwnKeys) - 1;
    uint64_t both = (static_cast<uint32_t>(seen >> first) & mask) | (static_cast<uint32_t>(open >> first) & mask) << 16;
    for (int other = lanes / 2; other; other /= 2) both |= shuffle_xor(both, other);
    if (!all_held(p, c.slots, key_tile)) {
        const int32_t key = key_tile * kKeyTile + first + lane % kOwnKeys;
        uint64_t held = uint64_t{key < p.header->keys && is_held(p, c.slots, key)} << lane % kOwnKeys;
        for (int other = kOwnKeys / 2; other; other /= 2) held |= shuffle_xor(held, other);
        both &= held | held << 16;
    }
    if (share == 0 && unit < units) words[unit] = static_cast<uint32_t>(both);
}

// Puts `other` where the rows' words have no bit.
AVFLOW_DEVICE void keep_own(FewScores& s, uint32_t word0, uint32_t word1, int lane, float other) {
    const uint32_t words[2] = {word0 >> (2 * (lane & 3)), word1 >> (2 * (lane & 3))};
#pragma unroll
    for (int h = 0; h < 2; ++h) {
#pragma unroll
        for (int n = 0; n < kOwnKeys / 8; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                if (!((words[h] >> (8 * n + b)) & 1u)) s[n][2 * h + b] = other;
            }
        }
    }
}

// s = queries x keys, of the warp's 16 keys. The queries stay in shared memory: in registers they would leave room for
// two blocks beside each other at head_dim 128, not three.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void multiply_own_keys(uint32_t queries, uint32_t keys, int lane, FewScores& s) {
    // Lanes 0-7 and 8-15 name 8 keys at two neighbouring chunks, lanes 16-31 the 8 keys after those.
    const uint32_t row = keys + ((lane >> 4) * 8 + (lane & 7)) * kDepth * 2;
    const uint32_t chunk = (((lane >> 3) & 1) ^ (lane & 7)) << 4;
#pragma unroll
    for (int n = 0; n < kOwnKeys / 8; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) s[n][i] = 0.0f;
    }
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {
        uint32_t q[4], b[4];
        load_matrices(q, queries + chunk_at<kDepth>(lane & 15, 2 * step + lane / 16));
        load_matrices(b, row + (chunk ^ (step << 5)));
        multiply_add<kBf16>(s[0], q, b[0], b[1]);
        multiply_add<kBf16>(s[1], q, b[2], b[3]);
    }
}

// o += weights x values, of the warp's 16 keys.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void multiply_own_values(const FewScores& s, uint32_t values, int lane, Rows<kDepth>& rows) {
    // Lanes 0-15 name 16 keys at one chunk, lanes 16-31 the same keys at the next.
    const uint32_t row = values + (lane & 15) * kDepth * 2;
    const uint32_t chunk = ((lane >> 4) ^ (lane & 7)) << 4;
    uint32_t p[1][4];
    round_weights<kBf16>(s, p);
#pragma unroll
    for (int n = 0; n < kDepth / 8; n += 2) {
        uint32_t b[4];
        load_matrices_transposed(b, row + (chunk ^ (n << 4)));
        multiply_add<kBf16>(rows.o[n], p[0], b[0], b[1]);
        multiply_add<kBf16>(rows.o[n + 1], p[0], b[2], b[3]);
    }
}

// Does this lane's share of the warp's values hold a NaN or an infinity?
template <bool kBf16, int kDepth>
AVFLOW_DEVICE bool any_own_nonfinite(const char* values, int lane) {
    constexpr uint32_t kExponents = kBf16 ? 0x7F807F80u : 0x7C007C00u, kOnes = kBf16 ? 0x00800080u : 0x04000400u;
    uint32_t carried = 0;
    for (int i = lane; i < kOwnKeys * kDepth / 2; i += 32) {
        // An exponent of all ones carries into the sign's place, others do not.
        carried |= (reinterpret_cast<const uint32_t*>(values)[i] & kExponents) + kOnes;
    }
    return (carried & 0x80008000u) != 0;
}

// Sets values that are NaN or infinite to 0 and notes where they were: see FewShared.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void take_out_own_nonfinite(char* values, int lane, uint32_t* nonfinite) {
    constexpr uint32_t kExponent = kBf16 ? 0x7F80u : 0x7C00u;
    for (int column = lane; column < kDepth; column += 32) {
        uint32_t found = 0;
        for (int j = 0; j < kOwnKeys; ++j) {
            uint16_t& place = reinterpret_cast<uint16_t*>(values + chunk_at<kDepth>(j, column / 8))[column % 8];
            const uint32_t value = place;
            if ((value & kExponent) != kExponent) continue;
            const bool nan = (value & 0x7FFFu) != kExponent, negative = value >> 15;
            if (nan || !negative) found |= 1u << j;
            if (nan || negative) found |= 1u << (16 + j);
            place = 0;
        }
        nonfinite[column] = found;
    }
}

// Adds what values that were taken out would have to the rows that give their keys a weight.
template <int kDepth>
AVFLOW_DEVICE void add_own_nonfinite(const FewScores& s, const uint32_t* nonfinite, int lane, Rows<kDepth>& rows) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        uint64_t used = 0;
#pragma unroll
        for (int n = 0; n < kOwnKeys / 8; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) used |= s[n][2 * h + b] != 0.0f ? uint64_t{1} << (8 * n + b) : 0;
        }
        used <<= 2 * (lane & 3);
        used |= shuffle_xor(used, 1);
        used |= shuffle_xor(used, 2);
        const auto bits = static_cast<uint32_t>(used);
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
#pragma unroll
            for (int b = 0; b < 2; ++b) {
                const uint32_t of_column = nonfinite[8 * n + 2 * (lane & 3) + b];
                float& o = rows.o[n][2 * h + b];
                if (bits & of_column) o += kInfinity;
                if (bits & of_column >> 16) o -= kInfinity;
            }
        }
    }
}

// What a warp's outputs are on the way to the others: [16, kOutputs], so that a store's rows lie in different banks.
template <int kDepth>
constexpr int kOutputs = kDepth + 8;

template <int kDepth>
AVFLOW_DEVICE void leave_outputs(const Rows<kDepth>& rows, float factor, int warp, int lane, float* o,
                                 FewShared& shared) {
    struct alignas(8) Pair {
        float low, high;
    };
#pragma unroll
    for (int h = 0; h < 2; ++h) {
        const int m = (lane >> 2) + 8 * h;
        if ((lane & 3) == 0) shared.top[warp][m] = rows.top[h] * factor, shared.sum[warp][m] = rows.sum[h];
#pragma unroll
        for (int n = 0; n < kDepth / 8; ++n) {
            *reinterpret_cast<Pair*>(o + m * kOutputs<kDepth> + 8 * n + 2 * (lane & 3)) = {rows.o[n][2 * h],
                                                                                           rows.o[n][2 * h + 1]};
        }
    }
}

// A packed row of the whole block: maximum to base 2, sum, and what each warp's share of both is.
struct Joined {
    float top, sum, share[kWarps];
};

AVFLOW_DEVICE Joined join(const FewShared& shared, int m) {
    Joined row = {-kInfinity, 0.0f, {}};
#pragma unroll
    for (int w = 0; w < kWarps; ++w) row.top = fmaxf(row.top, shared.top[w][m]);
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
        const float sum = shared.sum[w][m];
        row.share[w] = sum == 0.0f ? 0.0f : exp2_fast(shared.top[w][m] - row.top);  // one that saw nothing holds zeros
        row.sum += sum * row.share[w];
    }
    return row;
}

// Adds up the warps' rows, 8 columns a thread, and writes them: finished, or as a part for the merge kernel.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void add_up(const Call& c, const Extent& tile, const FewShared& shared, const char* tiles,
                          const float* mass, float* part) {
    struct alignas(16) Chunk {
        uint32_t pairs[4];
    };
    struct alignas(16) Four {
        float x[4];
    };
    constexpr int kChunks = kDepth / 8, kWarpBytes = 4 * kOwnKeys * kDepth * 2;
    for (int i = threadIdx.x; i < tile.count * kChunks; i += kThreads) {
        const int m = i / kChunks, chunk = i % kChunks;
        const Joined row = join(shared, m);
        float o[8] = {};
#pragma unroll
        for (int w = 0; w < kWarps; ++w) {
            const float* from =
                reinterpret_cast<const float*>(tiles + w * kWarpBytes) + m * kOutputs<kDepth> + 8 * chunk;
#pragma unroll
            for (int half = 0; half < 2; ++half) {
                const Four four = reinterpret_cast<const Four*>(from)[half];
#pragma unroll
                for (int x = 0; x < 4; ++x) o[4 * half + x] += four.x[x] * row.share[w];
            }
        }
        if (part) {
            if (chunk == 0) part[m] = row.top, part[kFewHeads + m] = row.sum;
            Four* const to = reinterpret_cast<Four*>(part + 2 * kFewHeads + m * kDepth + 8 * chunk);
            to[0] = {o[0], o[1], o[2], o[3]}, to[1] = {o[4], o[5], o[6], o[7]};
            continue;
        }
        const float share = row.sum == 0.0f ? 0.0f : 1.0f / row.sum;  // NaN stays NaN
        const int64_t at = static_cast<int64_t>(tile.first_row + m / tile.group) * c.heads + tile.kv_head * tile.group +
                           m % tile.group;
        Chunk out;
#pragma unroll
        for (int n = 0; n < 4; ++n) out.pairs[n] = round_pair<kBf16>(o[2 * n] * share, o[2 * n + 1] * share);
        reinterpret_cast<Chunk*>(c.out + at * kDepth)[chunk] = out;
        if (c.lse && chunk == 0) c.lse[at] = row.sum == 0.0f ? -kInfinity : (row.top + log2f(row.sum)) * kLn2;
    }
    for (int i = threadIdx.x; i < tile.count * c.mass_groups; i += kThreads) {
        const int m = i / c.mass_groups;
        const Joined row = join(shared, m);
        float sum = 0.0f;
#pragma unroll
        for (int w = 0; w < kWarps; ++w) sum += mass[w * kFewHeads * c.mass_groups + i] * row.share[w];
        if (part) {
            part[kFewHeads * (2 + kDepth) + i] = sum;
        } else {
            const int64_t at = static_cast<int64_t>(tile.first_row + m / tile.group) * c.heads +
                               tile.kv_head * tile.group + m % tile.group;
            c.group_mass[at * c.mass_groups + i % c.mass_groups] = row.sum == 0.0f ? 0.0f : sum / row.sum;
        }
    }
}

template <bool kBf16, int kDepth>
__global__ void __launch_bounds__(kThreads, kDepth == 64 ? 4 : 3) attend_few(const Call c) {
    // Shared memory: of each warp stage 0 keys, values, stage 1 keys, values; the rest; mass of each warp.
    constexpr uint32_t kOwnBytes = kOwnKeys * kDepth * 2;
    char* const memory = shared_memory();
    FewShared& shared = *reinterpret_cast<FewShared*>(memory + 4 * kWarps * kOwnBytes);
    const Problem& p = shared.problem;
    if (threadIdx.x == 0) shared.problem = view(c.problem);
    sync_block();

    const int warp = uniform(threadIdx.x / 32), lane = threadIdx.x % 32;
    const int kv_head = blockIdx.x % c.kv_heads, place = blockIdx.x / c.kv_heads;  // heavy row tiles first
    const int split = place % c.splits, row_tile = p.tile_order[place / c.splits];
    const Extent tile = extent_of(c, *p.header, row_tile, kv_head);
    const bool whole = c.splits == 1 || live_tiles(p, row_tile) <= c.split_tiles;
    if (whole && split) return;
    Walk now = walk_from(p, row_tile, split * c.split_tiles, c.split_tiles);
    if (split && ended(now)) return;
    const int32_t latest = latest_seen(c, p, tile), earliest = earliest_seen(c, p, tile);
    pass_closed(c, p, latest, earliest, now);

    char* const own = memory + warp * 4 * kOwnBytes;
    const uint32_t ring = shared_address(own);
    float* const mass = reinterpret_cast<float*>(&shared + 1);
    float* const own_mass = mass + warp * kFewHeads * c.mass_groups;
    clear_mass(c.mass_groups, lane, own_mass);

    const uint32_t queries = shared_address(shared.queries);
    load_queries<kDepth>(c, p, tile, 0, kFewHeads, threadIdx.x, kThreads, queries);
    copy_commit();
    if (!ended(now)) load_own_keys<kDepth>(c, p, kv_head, key_tile(now), warp, lane, ring, ring + kOwnBytes);
    copy_commit();
    copy_wait<1>();
    sync_block();
    if (c.flip) {
        for (int i = threadIdx.x; i < kFewHeads * kDepth / 2; i += kThreads) {
            reinterpret_cast<uint32_t*>(shared.queries)[i] ^= c.flip;
        }
        sync_block();
    }

    Rows<kDepth> rows;
    clear(rows);
    int unit[2];
    find_units(tile, p.header->head_cuts, 0, lane, unit);

    for (int stage = 0; !ended(now); stage ^= 1) {
        const int32_t this_tile = key_tile(now);
        const bool full = is_whole(c, p, now);
        advance(now);
        pass_closed(c, p, latest, earliest, now);
        sync_warp();  // all lanes are done with what the next keys, and these words, are written over
        if (!ended(now)) {
            const uint32_t next = ring + (stage ^ 1) * 2 * kOwnBytes;
            load_own_keys<kDepth>(c, p, kv_head, key_tile(now), warp, lane, next, next + kOwnBytes);
        }
        copy_commit();
        uint32_t* const words = shared.words[warp];
        if (!full) fill_own_words(c, p, tile, this_tile, warp, lane, words);
        copy_wait<1>();
        sync_warp();

        const uint32_t at = stage * 2 * kOwnBytes;
        FewScores s;
        float alpha[2];
        multiply_own_keys<kBf16, kDepth>(queries, ring + at, lane, s);
        const bool zero = p.header->zero;
        const uint32_t scored = zero ? 0 : 16;  // where a word's bits begin
        if (!full) keep_own(s, words[unit[0]] >> scored, words[unit[1]] >> scored, lane, -kInfinity);
        softmax<kDepth>(s, c.factor, rows, alpha);
        scale_outputs<kDepth>(alpha, rows);
        if (!full && zero) keep_own(s, words[unit[0]] >> 16, words[unit[1]] >> 16, lane, 0.0f);
        if (c.mass_groups) add_mass(p, this_tile, s, alpha, lane, own_mass, warp * kOwnKeys);
        // As in attention_kernel.cuh: a weight of exactly 0 must hide NaN and infinities.
        char* const values = own + at + kOwnBytes;
        const bool has_nonfinite = !full && sync_warp_any(any_own_nonfinite<kBf16, kDepth>(values, lane));
        if (has_nonfinite) {
            take_out_own_nonfinite<kBf16, kDepth>(values, lane, shared.nonfinite[warp]);
            sync_warp();
        }
        multiply_own_values<kBf16, kDepth>(s, ring + at + kOwnBytes, lane, rows);
        if (has_nonfinite) add_own_nonfinite<kDepth>(s, shared.nonfinite[warp], lane, rows);
    }

    join_sums(rows);
    sync_warp();  // other lanes may still read the tile that the outputs are written over
    leave_outputs<kDepth>(rows, c.factor, warp, lane, reinterpret_cast<float*>(own), shared);
    sync_block();
    const int64_t index = (static_cast<int64_t>(row_tile) * c.kv_heads + kv_head) * c.splits + split;
    add_up<kBf16, kDepth>(c, tile, shared, memory, mass, whole ? nullptr : c.parts + index * part_floats(c));
}

}  // namespace avflow::cuda
