// Attention on Hopper's own tensor cores, as hopper_kernel.cuh, for keys that the copy engine brings: two key tiles
// (128 keys) a step, queries in shared memory, and the steps without a mask first. What changes results against that
// kernel is the order of the keys alone.
#pragma once

#include "cuda/pairs_consume.cuh"
#include "cuda/pairs_produce.cuh"

namespace avflow::cuda {

template <bool kBf16, int kDepth>
__global__ void __launch_bounds__(kWideThreads, 1) attend_pairs(const Call c, const __grid_constant__ KeyMaps maps) {
    // Shared memory: the rings of keys and of values; queries, later outputs; the rest; mass.
    const PairRing<kDepth> ring = {shared_memory()};
    PairShared& shared = *reinterpret_cast<PairShared*>(ring.queries() + kWideHeads * kDepth * 2);
    if (threadIdx.x == 0) {
        shared.problem = view(c.problem);
        for (int i = 0; i < kRing; ++i) {
            barrier_init(&shared.k_landed[i], 1);
            barrier_init(&shared.v_landed[i], 1);
            barrier_init(&shared.k_free[i], kConsumers * kWarps);
            barrier_init(&shared.v_free[i], kConsumers * kWarps);
            barrier_init(&shared.asked[i], 1);
            barrier_init(&shared.checked[i], Masks::kSize);
        }
        for (int i = 0; i < kWordRing; ++i) barrier_init(&shared.ready[i], Masks::kSize);
        show_to_async();  // the copy engine counts on them
    }
    if (threadIdx.x < 32) {
        find_part(c, shared.problem, shared.part);
        const int32_t full = is_fixed(c) && !c.mass_groups ? full_tiles(shared.problem, shared.part) : 0;
        if (threadIdx.x == 0) shared.plain = full / 2;
    }
    sync_block();
    if (shared.part.none) return;
    const Extent tile = extent_of(c, shared.problem, shared.part);
    if (threadIdx.x < kThreads) {
        fewer_registers<kFetchRegisters>();
        if (threadIdx.x == 0) fetch<kDepth>(c, maps, ring, shared);
        if (threadIdx.x >= 32) mask_steps<kBf16, kDepth>(c, ring, shared);
    } else {
        more_registers<kPairRegisters>();
        // The first turn of all; the others are passed on as they are taken.
        if (threadIdx.x >= 2 * kThreads) turn_pass(0);
        consume_pairs<kBf16, kDepth>(c, tile, ring, shared, reinterpret_cast<float*>(&shared + 1));
    }
}

}  // namespace avflow::cuda
