// Attention on Hopper's own tensor cores (sm_90a), after FlashAttention-3 (Shah et al. 2024, arXiv 2407.08608): one
// warpgroup fetches key tiles into a ring in shared memory and works out their words; two others hold 64 packed rows
// each and multiply, so that the softmax of one tile runs while the product of the tile before it is under way.
//
// Keys come by the copy engine (TMA), told by a thread of warp 0 while warps 1 to 3 work out words, or, where a keep
// list or a cache of several sequences scatters them, by cp.async of the whole warpgroup.
#pragma once

#include <type_traits>

#include "cuda/ptx_hopper.h"
#include "cuda/rows.cuh"

namespace avflow::cuda {

constexpr int kConsumers = kWideHeads / 64;  // warpgroups of 64 packed rows
constexpr int kWideThreads = kThreads * (1 + kConsumers);
// A tile is shown this many steps after its copy was begun, if somebody has to look at it before. The consumers hold
// two tiles, one must be there for them to go on with, and the rest of the ring may be on its way.
constexpr int kAhead = 2;
static_assert(kAhead <= kStages - 2);
// At launch each thread has 168 registers, a third of 65,536 / 128 rounded down to a multiple of 8.
constexpr int kProducerRegisters = 88, kConsumerRegisters = 208;
static_assert(kProducerRegisters + kConsumers * kConsumerRegisters <= 3 * 168);

struct KeyMaps {
    KeyMap keys, values;
};

using Masks = Crew<32, 96>;  // warps 1 to 3

template <int kDepth>
struct Ring {
    static constexpr uint32_t kTileBytes = kKeyTile * kDepth * 2, kStageBytes = 2 * kTileBytes;
    char* memory;
    AVFLOW_DEVICE_MEMBER uint32_t keys(int stage) const { return shared_address(memory) + stage * kStageBytes; }
    AVFLOW_DEVICE_MEMBER uint32_t values(int stage) const { return keys(stage) + kTileBytes; }
    AVFLOW_DEVICE_MEMBER char* values_at(int stage) const { return memory + stage * kStageBytes + kTileBytes; }
};

AVFLOW_DEVICE Part part_of(const Call& c, const Problem& p) {
    const int32_t kv_head = blockIdx.x % c.kv_heads, place = blockIdx.x / c.kv_heads;
    const int32_t split = place % c.splits, row_tile = p.tile_order[place / c.splits];  // heavy ones first
    if (c.splits == 1) return {row_tile, kv_head, 0, INT32_MAX, true, false, 0};
    const int32_t live = live_tiles(p, row_tile), begin = split * c.split_tiles;
    const bool whole = live <= c.split_tiles;
    const int64_t index = (static_cast<int64_t>(row_tile) * c.kv_heads + kv_head) * c.splits + split;
    return {row_tile, kv_head, begin, c.split_tiles, whole, split > 0 && begin >= live, index};
}

AVFLOW_DEVICE Walk walk_part(const Problem& p, const Part& part) {
    return walk_from(p, part.row_tile, part.begin, part.tiles);
}

// By the block's first warp, when its first thread has written the problem.
AVFLOW_DEVICE void find_part(const Call& c, const Problem& p, Part& to) {
    sync_warp();
    const Part part = part_of(c, p);
    if (threadIdx.x == 0) to = part;
    sync_warp();
}

AVFLOW_DEVICE Extent extent_of(const Call& c, const Problem& p, const Part& part) {
    return extent_of(c, *p.header, part.row_tile, part.kv_head);
}

// By one thread: tells the copy engine of tile after tile.
template <int kDepth>
AVFLOW_DEVICE void fetch_tiles(const Call& c, const KeyMaps& maps, const Ring<kDepth>& ring, WideShared& shared) {
    const Problem& p = shared.problem;
    const Extent tile = extent_of(c, p, shared.part);
    const int32_t latest = latest_seen(c, p, tile), earliest = earliest_seen(c, p, tile);
    Walk now = walk_part(p, shared.part);
    pass_closed(c, p, latest, earliest, now);
    for (int n = 0;; ++n) {
        const int stage = n % kStages;
        barrier_wait(&shared.free[stage], n / kStages % 2 ^ 1);
        if (ended(now)) {
            barrier_arrive(&shared.landed[stage]);
            return;
        }
        const int32_t first = key_tile(now) * kKeyTile;
        barrier_arrive_for(&shared.landed[stage], Ring<kDepth>::kStageBytes);
        copy_tile(ring.keys(stage), maps.keys, tile.kv_head, first, &shared.landed[stage]);
        copy_tile(ring.values(stage), maps.values, tile.kv_head, first, &shared.landed[stage]);
        advance(now);
        pass_closed(c, p, latest, earliest, now);
    }
}

// The first warpgroup, or its masks' warps where one thread fetches: fetches tile after tile of the row tile's keys;
// what is partial gets its words, and values that are NaN or infinite are taken out of it. Ends with a tile -1.
template <bool kBf16, int kDepth, typename Of>
AVFLOW_DEVICE void produce(const Call& c, const KeyMaps& maps, const Ring<kDepth>& ring, WideShared& shared) {
    constexpr bool kFetches = Of::kSize == kThreads;
    const bool mapped = !kFetches || c.mapped;
    const Problem& p = shared.problem;
    const Extent tile = extent_of(c, p, shared.part);
    const int32_t latest = latest_seen(c, p, tile), earliest = earliest_seen(c, p, tile);
    Walk now = walk_part(p, shared.part);
    pass_closed(c, p, latest, earliest, now);
    uint32_t waiting = 0;  // bit i: the tile begun i steps before the last one is not shown yet
    uint32_t partial = 0;  // the same: it is partial
    int begun = 0;         // tiles; a tile a step, then steps without one
    for (int step = 0;; ++step) {
        if (waiting >> (kAhead - 1) & 1) {
            const int stage = (step - kAhead) % kStages;
            if (mapped) {
                barrier_wait(&shared.landed[stage], (step - kAhead) / kStages % 2);
            } else {
                copy_wait<kAhead - 1>();
            }
            if (partial >> (kAhead - 1) & 1) {
                if (!mapped) sync_warpgroup(0);  // the copies of all threads have arrived
                // A weight of exactly 0 must hide NaN and infinities, see attend.
                if (sync_warpgroup_any<Of::kSize>(0, any_nonfinite<kBf16, kDepth, Of>(ring.values_at(stage)))) {
                    take_out_nonfinite<kBf16, kDepth, kKeyTile, Of>(ring.values_at(stage), shared.nonfinite[stage]);
                    if (mapped) show_to_async();
                    if (Of::thread() == 0) shared.tile[stage].has_nonfinite = 1;
                }
            }
            barrier_arrive(&shared.ready[stage]);
        }
        const bool more = !ended(now);
        if (!more && !(waiting & ((1u << (kAhead - 1)) - 1))) {
            const int stage = begun % kStages;
            barrier_wait(&shared.free[stage], begun / kStages % 2 ^ 1);
            if (Of::thread() == 0) {
                shared.tile[stage].key_tile = -1;
                if (kFetches && mapped) barrier_arrive(&shared.landed[stage]);
            }
            barrier_arrive(&shared.ready[stage]);
            break;
        }
        waiting <<= 1;
        partial <<= 1;
        if (more) {
            const int stage = step % kStages;
            barrier_wait(&shared.free[stage], step / kStages % 2 ^ 1);
            const int32_t this_tile = key_tile(now);
            const bool whole = is_whole(c, p, now);
            if (Of::thread() == 0) {
                shared.tile[stage] = {this_tile, whole, 0};
                if (kFetches && mapped) {
                    barrier_arrive_for(&shared.landed[stage], Ring<kDepth>::kStageBytes);
                    copy_tile(ring.keys(stage), maps.keys, tile.kv_head, this_tile * kKeyTile, &shared.landed[stage]);
                    copy_tile(ring.values(stage), maps.values, tile.kv_head, this_tile * kKeyTile,
                              &shared.landed[stage]);
                }
            }
            if (!mapped) load_keys<kDepth, true>(c, p, tile.kv_head, this_tile, ring.keys(stage), ring.values(stage));
            if (!whole) fill_words<Of>(c, p, tile, this_tile, shared.words[stage]);
            if (whole && mapped) {
                barrier_arrive(&shared.ready[stage]);  // consumers wait for the bytes themselves
            } else {
                waiting |= 1;
                partial |= !whole;
            }
            advance(now);
            pass_closed(c, p, latest, earliest, now);
            begun = step + 1;
        }
        if (!mapped) copy_commit();  // an empty group at the end: the count of those under way goes on
    }
    if (!mapped) copy_wait<0>();
}

// Begins s = queries x keys.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void begin_scores(const uint32_t (&q)[kDepth / 16][4], uint32_t keys, Scores& s) {
    const uint64_t first = describe(keys, 0);
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {  // four steps to a block of 64 columns
        const uint64_t at = further(first, step / 4 * kKeyTile * 128 + step % 4 * 32);
        multiply_add_tile<kBf16, false>(s, q[step], at, step > 0);
    }
    products_commit();
}

// Begins o += weights x values.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void begin_outputs(const Weights& weights, uint32_t values, Rows<kDepth>& rows) {
    const uint64_t first = describe(values, kKeyTile * 128);
#pragma unroll
    for (int step = 0; step < kKeyTile / 16; ++step) {
        multiply_add_tile<kBf16, true>(rows.o, weights[step], further(first, step * 16 * 128), true);
    }
    products_commit();
}

// The warpgroups after the first: 64 packed rows each, 16 a warp.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void consume(const Call& c, const Extent& tile, const Ring<kDepth>& ring, WideShared& shared,
                           char* queries, float* all_mass) {
    const Problem& p = shared.problem;
    const int warp = threadIdx.x / 32 - kWarps, lane = threadIdx.x % 32;
    float* const mass = all_mass + warp * 16 * c.mass_groups;
    clear_mass(c.mass_groups, lane, mass);
    load_queries<kDepth>(c, p, tile, warp * 16, 16, lane, 32, shared_address(queries));
    copy_commit();
    copy_wait<0>();
    sync_warp();
    uint32_t q[kDepth / 16][4];
    take_queries<kDepth>(shared_address(queries), c.flip, warp, lane, q);
    Rows<kDepth> rows;
    clear(rows);
    int unit[2];
    find_units(tile, p.header->head_cuts, warp, lane, unit);
    const bool zero = p.header->zero;

    Scores s;
    Weights weights;
    float alpha[2];
    int stage = 0, parity = 0;
    const auto wait = [&] {
        if (c.mapped) barrier_wait(&shared.landed[stage], parity);
        barrier_wait(&shared.ready[stage], parity);
        // Copies by threads; who made them would have to wait for those of later tiles as well.
        if (!c.mapped) show_to_async();
        return shared.tile[stage];
    };
    const auto weigh = [&](const KeyTile& now) {
        const Words* words = shared.words[stage];
        if (!now.whole) {
            keep(s, zero ? words[unit[0]].seen : words[unit[0]].open, zero ? words[unit[1]].seen : words[unit[1]].open,
                 lane, -kInfinity);
        }
        softmax<kDepth>(s, c.factor, rows, alpha);
        if (!now.whole && zero) keep(s, words[unit[0]].open, words[unit[1]].open, lane, 0.0f);
        if (c.mass_groups) add_mass(p, now.key_tile, s, alpha, lane, mass);
    };

    // One step: scores of the tile at `stage` are begun before the product of the one at `last`, and become weights
    // while that runs. Of a plain tile, nothing is masked, noted or counted: without a branch the compiler lets the
    // rescaling, sums and rounding run under the exponentials, which take longest.
    const auto step = [&](auto plain, const KeyTile& now, int last, bool has_nonfinite) {
        constexpr bool kPlain = decltype(plain)::value;
        products_begin();
        begin_scores<kBf16, kDepth>(q, ring.keys(stage), s);
        begin_outputs<kBf16, kDepth>(weights, ring.values(last), rows);
        products_wait<1>();
        sums_ready(s);
        if constexpr (kPlain) {
            softmax<kDepth>(s, c.factor, rows, alpha);
        } else {
            weigh(now);
        }
        products_wait<0>();
        sums_ready(rows.o);
        if constexpr (!kPlain) {
            sync_warp();
            if (has_nonfinite) add_nonfinite<kDepth>(shared.used + warp * 16, shared.nonfinite[last], lane, rows);
        }
        sync_warp();  // nobody in the warp looks at the tile any more, nor at what the ring told of it
        if (lane == 0) barrier_arrive(&shared.free[last]);
        scale_outputs<kDepth>(alpha, rows);
        if constexpr (!kPlain) {
            if (now.has_nonfinite) note_nonzero_weights(s, lane, shared.used + warp * 16);
        }
        round_weights<kBf16>(s, weights);
    };

    KeyTile now = wait();
    if (now.key_tile >= 0) {
        products_begin();
        begin_scores<kBf16, kDepth>(q, ring.keys(0), s);
        products_wait<0>();
        sums_ready(s);
        weigh(now);
        if (now.has_nonfinite) note_nonzero_weights(s, lane, shared.used + warp * 16);
        round_weights<kBf16>(s, weights);
        for (;;) {
            // Of the tile at `last`, weights are ready and their product is not begun.
            const int last = stage;
            const bool has_nonfinite = now.has_nonfinite;
            stage = stage + 1 == kStages ? 0 : stage + 1;
            parity ^= stage == 0;
            now = wait();
            if (now.key_tile < 0) {
                products_begin();
                begin_outputs<kBf16, kDepth>(weights, ring.values(last), rows);
                products_wait<0>();
                sums_ready(rows.o);
                sync_warp();
                if (has_nonfinite) add_nonfinite<kDepth>(shared.used + warp * 16, shared.nonfinite[last], lane, rows);
                break;
            }
            if (AVFLOW_FORM != 0 && now.whole && !has_nonfinite && !c.mass_groups) {
                step(std::true_type{}, now, last, false);
            } else {
                step(std::false_type{}, now, last, has_nonfinite);
            }
        }
    }
    join_sums(rows);
    if (shared.part.whole) {  // outputs go through the place of the queries, of which a warp has read its own rows only
        finish<kBf16, kDepth>(c, tile, warp, lane, rows, mass, queries);
    } else {
        leave_part<kDepth>(c, tile, warp, lane, rows, mass, c.parts + shared.part.index * part_floats(c));
    }
}

template <bool kBf16, int kDepth>
__global__ void __launch_bounds__(kWideThreads, 1) attend_wide(const Call c, const __grid_constant__ KeyMaps maps) {
    // Shared memory: the ring of keys and values; queries, later outputs; the rest; mass.
    const Ring<kDepth> ring = {shared_memory()};
    char* const queries = ring.memory + kStages * Ring<kDepth>::kStageBytes;
    WideShared& shared = *reinterpret_cast<WideShared*>(queries + kWideHeads * kDepth * 2);
    if (threadIdx.x == 0) {
        shared.problem = view(c.problem);
        for (int i = 0; i < kStages; ++i) {
            barrier_init(&shared.landed[i], 1);
            barrier_init(&shared.ready[i], kWordsApart && c.mapped ? Masks::kSize : kThreads);
            barrier_init(&shared.free[i], kConsumers * kWarps);
        }
        show_to_async();  // the copy engine counts on them
    }
    if (threadIdx.x < 32) find_part(c, shared.problem, shared.part);
    sync_block();
    if (shared.part.none) return;
    const Extent tile = extent_of(c, shared.problem, shared.part);
    if (threadIdx.x < kThreads) {
        fewer_registers<kProducerRegisters>();
        if (!kWordsApart || !c.mapped) {
            produce<kBf16, kDepth, FirstThreads>(c, maps, ring, shared);
        } else if (threadIdx.x >= 32) {
            produce<kBf16, kDepth, Masks>(c, maps, ring, shared);
        } else if (threadIdx.x == 0) {
            fetch_tiles<kDepth>(c, maps, ring, shared);
        }
    } else {
        more_registers<kConsumerRegisters>();
        consume<kBf16, kDepth>(c, tile, ring, shared, queries, reinterpret_cast<float*>(&shared + 1));
    }
}

}  // namespace avflow::cuda
