// The first warpgroup of the pairs form: warp 0 tells the copy engine what to bring; warps 1 to 3 work out the words of
// steps with masks and take NaN and infinities out of their values, so that neither waits for the other.
#pragma once

#include "cuda/pairs_ring.cuh"

namespace avflow::cuda {

// By one thread.
template <int kDepth>
AVFLOW_DEVICE void fetch(const Call& c, const KeyMaps& maps, const PairRing<kDepth>& ring, PairShared& shared) {
    const Problem& p = shared.problem;
    const Part& part = shared.part;
    const Extent tile = extent_of(c, p, part);
    const int32_t absent = p.header->key_tiles;  // beyond the last key: zeros
    const auto copy = [&](uint32_t to, const KeyMap& map, const Step& step, uint64_t* landed) {
        barrier_arrive_for(landed, PairRing<kDepth>::kBytes);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            const int32_t first = (step.tile[t] < 0 ? absent : step.tile[t]) * kKeyTile;
#pragma unroll
            for (int block = 0; block < kDepth / 64; ++block) {
                const uint32_t at = to + block * PairRing<kDepth>::kBlock + t * PairRing<kDepth>::kTile;
                copy_block(at, map, tile.kv_head, block, first, landed);
            }
        }
    };
    StepWalk walk = walk_steps(c, p, tile, part);
    Step before{};
    for (int n = 0;; ++n) {  // keys of step n, then values of the step before, which are wanted later
        const Step now = next_step(c, p, part, walk);
        if (now.tile[0] >= 0) {
            barrier_wait(&shared.k_free[n % kRing], n / kRing % 2 ^ 1);
            copy(ring.keys(n % kRing), maps.keys, now, &shared.k_landed[n % kRing]);
        }
        if (n > 0) {
            const int of = n - 1, stage = of % kRing;
            barrier_wait(&shared.v_free[stage], of / kRing % 2 ^ 1);
            copy(ring.values(stage), maps.values, before, &shared.v_landed[stage]);
            if (of >= shared.plain) barrier_arrive(&shared.asked[(of - shared.plain) % kRing]);
        }
        if (now.tile[0] < 0) return;
        before = now;
    }
}

// By warps 1 to 3. A step's number counts from the first one with masks on.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void mask_steps(const Call& c, const PairRing<kDepth>& ring, PairShared& shared) {
    const Problem& p = shared.problem;
    const Part& part = shared.part;
    const Extent tile = extent_of(c, p, part);
    const int plain = shared.plain;
    const auto check = [&](int n, const Step& step) {
        // v_landed alone would not do: a wait must not be two phases off, and unmasked steps are not followed here.
        barrier_wait(&shared.asked[n % kRing], n / kRing % 2);
        const int stage = (plain + n) % kRing;
        barrier_wait(&shared.v_landed[stage], (plain + n) / kRing % 2);
#pragma unroll 1
        for (int t = 0; t < 2; ++t) {
            if (step.whole >> t & 1 || step.tile[t] < 0) continue;
            char* const values = ring.values_at(stage) + t * PairRing<kDepth>::kTile;
            bool any = false;
            for (int block = 0; block < kDepth / 64; ++block) {
                any |= any_nonfinite<kBf16, 64, Masks>(values + block * PairRing<kDepth>::kBlock);
            }
            // A weight of exactly 0 must hide NaN and infinities, see attend.
            if (sync_warpgroup_any<Masks::kSize>(0, any)) {
                take_out_nonfinite<kBf16, kDepth, kStep, Masks>(values, shared.nonfinite[stage][t]);
                show_to_async();
                if (Masks::thread() == 0) shared.taken_out[n % kWordRing] |= 1 << t;
            }
        }
        barrier_arrive(&shared.checked[n % kRing]);
    };
    StepWalk walk = walk_steps(c, p, tile, part);
    for (int i = 0; i < plain; ++i) next_step(c, p, part, walk);
    Step before{}, earlier{};  // of steps n - 1 and n - 2
    for (int n = 0;; ++n) {
        // Values of n - 2 are asked for once those of n - 4 are free, and then so is the place of that step's words.
        if (n >= 2) check(n - 2, earlier);
        const Step now = next_step(c, p, part, walk);
        const int slot = n % kWordRing;
        if (Masks::thread() == 0) shared.step[slot] = now, shared.taken_out[slot] = 0;
#pragma unroll 1
        for (int t = 0; t < 2 && now.tile[0] >= 0; ++t) {
            if (now.whole >> t & 1) continue;
            if (now.tile[t] >= 0) {
                fill_words<Masks>(c, p, tile, now.tile[t], shared.words[slot][t]);
            } else {
                for (int i = Masks::thread(); i < kWideHeads; i += Masks::kSize) shared.words[slot][t][i] = {0, 0};
            }
        }
        barrier_arrive(&shared.ready[slot]);
        if (now.tile[0] < 0) {
            if (n >= 1) check(n - 1, before);
            return;
        }
        earlier = before;
        before = now;
    }
}

}  // namespace avflow::cuda
