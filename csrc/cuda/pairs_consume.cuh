// The other warpgroups of the pairs form: 64 packed rows each. Steps without masks first, in a loop that has no branch,
// then those with masks, mass, or values that were NaN or infinite.
#pragma once

#include "cuda/pairs_ring.cuh"

namespace avflow::cuda {

using PairScores = float[kStep / 8][4];
using PairWeights = uint32_t[kStep / 16][4];

AVFLOW_DEVICE Scores& half_of(PairScores& s, int t) { return reinterpret_cast<Scores&>(s[t * (kKeyTile / 8)]); }

// Queries of a warp's 16 packed rows, to where products read them.
template <int kDepth>
AVFLOW_DEVICE void bring_queries(const Call& c, const Problem& p, const Extent& tile, int warp, int lane, char* to) {
    load_queries<kDepth, kWideHeads>(c, p, tile, warp * 16, 16, lane, 32, shared_address(to));
    copy_commit();
    copy_wait<0>();
    sync_warp();
    for (int block = 0; c.flip && block < kDepth / 64; ++block) {
        uint32_t* const pairs = reinterpret_cast<uint32_t*>(to + (block * kWideHeads + warp * 16) * 128);
        for (int i = lane; i < 16 * 32; i += 32) pairs[i] ^= c.flip;
    }
    show_to_async();
}

// Begins s = queries x keys.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void begin_scores(uint32_t queries, uint32_t keys, PairScores& s) {
    const uint64_t left = describe(queries, 0), right = describe(keys, 0);
#pragma unroll
    for (int step = 0; step < kDepth / 16; ++step) {  // four steps to a block of 64 columns
        multiply_shared<kBf16>(s, further(left, step / 4 * kWideHeads * 128 + step % 4 * 32),
                               further(right, step / 4 * kStep * 128 + step % 4 * 32), step > 0);
    }
    products_commit();
}

// Begins o += weights x values.
template <bool kBf16, int kDepth>
AVFLOW_DEVICE void begin_outputs(const PairWeights& weights, uint32_t values, Rows<kDepth>& rows) {
    const uint64_t first = describe(values, kStep * 128);
#pragma unroll
    for (int step = 0; step < kStep / 16; ++step) {
        multiply_add_tile<kBf16, true>(rows.o, weights[step], further(first, step * 16 * 128), true);
    }
    products_commit();
}

template <bool kBf16, int kDepth>
AVFLOW_DEVICE void consume_pairs(const Call& c, const Extent& tile, const PairRing<kDepth>& ring, PairShared& shared,
                                 float* all_mass) {
    const Problem& p = shared.problem;
    const int warp = threadIdx.x / 32 - kWarps, lane = threadIdx.x % 32, group = uniform(threadIdx.x / 128 - 1);
    float* const mass = all_mass + warp * 16 * c.mass_groups;
    clear_mass(c.mass_groups, lane, mass);
    bring_queries<kDepth>(c, p, tile, warp, lane, ring.queries());
    sync_warpgroup(group + 1);
    const uint32_t queries = shared_address(ring.queries()) + group * 64 * 128;
    Rows<kDepth> rows;
    clear(rows);
    int unit[2];
    find_units(tile, p.header->head_cuts, warp, lane, unit);
    const bool zero = p.header->zero;
    const int plain = uniform(shared.plain);

    PairScores s;
    PairWeights weights;
    float alpha[2];
    const auto keys_read = [&](int n) {
        sums_ready(s);
        if (lane == 0) barrier_arrive(&shared.k_free[n % kRing]);
    };
    const auto values_read = [&](int n) {
        if (lane == 0) barrier_arrive(&shared.v_free[n % kRing]);
    };
    // Scores of the first step.
    const auto begin_first = [&] {
        barrier_wait(&shared.k_landed[0], 0);
        products_begin();
        begin_scores<kBf16, kDepth>(queries, ring.keys(0), s);
        products_wait<0>();
        keys_read(0);
    };
    // Scores of step n, and the product of the step before, whose weights are ready, is begun. The warpgroups take
    // turns here, so that the products of one run under the exponentials of the other.
    const auto begin = [&](int n) {
        barrier_wait(&shared.k_landed[n % kRing], n / kRing % 2);
        turn_wait(group);
        products_begin();
        begin_scores<kBf16, kDepth>(queries, ring.keys(n % kRing), s);
        barrier_wait(&shared.v_landed[(n - 1) % kRing], (n - 1) / kRing % 2);
        products_begin();
        begin_outputs<kBf16, kDepth>(weights, ring.values((n - 1) % kRing), rows);
        turn_pass(1 - group);
        products_wait<1>();
        keys_read(n);
    };
    const auto outputs_ready = [&] {
        products_wait<0>();
        sums_ready(rows.o);
    };

    int n = 0;
    if (plain > 0) {
        begin_first();
        softmax<kDepth>(s, c.factor, rows, alpha);
        round_weights<kBf16>(s, weights);
        for (n = 1; n < plain; ++n) {
            begin(n);
            softmax<kDepth>(s, c.factor, rows, alpha);
            outputs_ready();
            values_read(n - 1);
            scale_outputs<kDepth>(alpha, rows);
            round_weights<kBf16>(s, weights);
        }
    }

    // Of a step with masks: words, and which values were taken out, which is known later.
    const auto wait_step = [&](int of) {
        barrier_wait(&shared.ready[(of - plain) % kWordRing], (of - plain) / kWordRing % 2);
        return shared.step[(of - plain) % kWordRing];
    };
    const auto taken_out = [&](int of) {
        barrier_wait(&shared.checked[(of - plain) % kRing], (of - plain) / kRing % 2);
        return shared.taken_out[(of - plain) % kWordRing];
    };
    const auto weigh = [&](int of, const Step& now) {
        Words(*const words)[kWideHeads] = shared.words[(of - plain) % kWordRing];
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            if (now.whole >> t & 1) continue;
            const Words &first = words[t][unit[0]], &second = words[t][unit[1]];
            keep(half_of(s, t), zero ? first.seen : first.open, zero ? second.seen : second.open, lane, -kInfinity);
        }
        softmax<kDepth>(s, c.factor, rows, alpha);
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            if (now.whole >> t & 1 || !zero) continue;
            keep(half_of(s, t), words[t][unit[0]].open, words[t][unit[1]].open, lane, 0.0f);
        }
        if (c.mass_groups) {
            const float one[2] = {1.0f, 1.0f};
            add_mass(p, now.tile[0], half_of(s, 0), alpha, lane, mass);
            if (now.tile[1] >= 0) add_mass(p, now.tile[1], half_of(s, 1), one, lane, mass);
        }
    };

    Step now = wait_step(n);
    if (n == 0 && now.tile[0] >= 0) {
        begin_first();
        weigh(0, now);
        round_weights<kBf16>(s, weights);
        now = wait_step(++n);
    }
    while (n > 0) {  // of step n - 1, weights are ready and their product is not begun
        const int last = n - 1;
        int nonfinite = 0;
        if (last >= plain) {
            nonfinite = taken_out(last);
#pragma unroll
            for (int t = 0; t < 2; ++t) {
                if (nonfinite >> t & 1) note_nonzero_weights(half_of(s, t), lane, shared.used[t] + warp * 16);
            }
        }
        const bool more = now.tile[0] >= 0;
        if (more) {
            begin(n);
            weigh(n, now);
        } else {
            barrier_wait(&shared.v_landed[last % kRing], last / kRing % 2);
            products_begin();
            begin_outputs<kBf16, kDepth>(weights, ring.values(last % kRing), rows);
        }
        outputs_ready();
        sync_warp();
#pragma unroll
        for (int t = 0; t < 2; ++t) {
            const Nonfinite& here = shared.nonfinite[last % kRing][t];
            if (nonfinite >> t & 1) add_nonfinite<kDepth>(shared.used[t] + warp * 16, here, lane, rows);
        }
        if (!more) break;
        sync_warp();  // nobody in the warp looks at the step any more
        values_read(last);
        scale_outputs<kDepth>(alpha, rows);
        round_weights<kBf16>(s, weights);
        now = wait_step(++n);
    }
    if (group == 0) turn_wait(0);  // the first of all turns was passed to it without one before
    join_sums(rows);
    if (!shared.part.whole) {
        leave_part<kDepth>(c, tile, warp, lane, rows, mass, c.parts + shared.part.index * part_floats(c));
        return;
    }
    sync_warpgroup(group + 1);  // the products of all its warps have read the queries
    finish<kBf16, kDepth, kWideHeads>(c, tile, warp, lane, rows, mass, ring.queries());
}

}  // namespace avflow::cuda
