// The form of the Hopper kernel that takes two key tiles a step: what its block shares.
//
// Keys and values lie in rings of their own, since keys are free again once the scores are there, a product earlier
// than values. Who tells whom, by barriers in shared memory:
//   k_landed, v_landed  the copy engine: the bytes of a step's keys or values are there
//   k_free, v_free      consumers, a lane a warp: nobody reads the keys or values of the step any more
//   asked               warp 0: of a step with masks, values are on their way
//   ready               warps 1 to 3: words of a step with masks are written
//   checked             warps 1 to 3: its values hold no NaN and no infinity any more
#pragma once

#include "cuda/hopper_kernel.cuh"

namespace avflow::cuda {

constexpr int kStep = 2 * kKeyTile;  // keys
constexpr int kRing = 2;             // steps of keys, and of values
constexpr int kWordRing = 4;         // steps of words
// Spills in the masks' code are cheaper than spills in the consumers' loop: tests/packaging/test_cuda_compiles.py.
constexpr int kFetchRegisters = 40, kPairRegisters = 232;
static_assert(kFetchRegisters + kConsumers * kPairRegisters <= 3 * 168);

struct alignas(16) Step {
    int32_t tile[2];  // tile[0] -1: there are no more; tile[1] -1: absent
    int32_t whole;    // a bit a tile: without a mask
};

struct alignas(16) PairShared {
    uint64_t k_landed[kRing], v_landed[kRing], k_free[kRing], v_free[kRing];
    uint64_t asked[kRing], checked[kRing], ready[kWordRing];
    Step step[kWordRing];
    int32_t taken_out[kWordRing];  // a bit a tile: values were taken out; known when the step is checked
    Words words[kWordRing][2][kWideHeads];
    uint64_t used[2][kWideHeads];
    Nonfinite nonfinite[kRing][2];
    Problem problem;
    Part part;      // there and not in registers, as the problem: fetching has 40
    int32_t plain;  // steps without a mask, which come first
};

inline int64_t pair_shared_bytes(const Call& c) {
    return (2 * kRing * kStep + kWideHeads) * c.depth * 2 + static_cast<int64_t>(sizeof(PairShared)) +
           kWideHeads * c.mass_groups * 4;
}

template <int kDepth>
struct PairRing {
    static constexpr uint32_t kBytes = kStep * kDepth * 2, kBlock = kStep * 128;  // a block: 64 columns
    static constexpr uint32_t kTile = kKeyTile * 128;  // from a block's first tile to its second
    char* memory;
    AVFLOW_DEVICE_MEMBER uint32_t keys(int stage) const { return shared_address(memory) + stage * kBytes; }
    AVFLOW_DEVICE_MEMBER uint32_t values(int stage) const { return keys(kRing + stage); }
    AVFLOW_DEVICE_MEMBER char* values_at(int stage) const { return memory + (kRing + stage) * kBytes; }
    AVFLOW_DEVICE_MEMBER char* queries() const { return memory + 2 * kRing * kBytes; }
};

// Do the plan's own orders and all slots count? Then full tiles have no mask, and the others come after them.
AVFLOW_DEVICE bool is_fixed(const Call& c) { return !c.row_order && c.slots.held == c.slots.capacity; }

// Full tiles of a part, counted by a warp together.
AVFLOW_DEVICE int32_t full_tiles(const Problem& p, const Part& part) {
    const int lane = threadIdx.x % 32;
    const int64_t end = int64_t{part.begin} + part.tiles;
    const int32_t last = p.span_begin[part.row_tile + 1];
    uint64_t full = 0;
    int64_t passed = 0;  // tiles of the spans before these 32
    for (int32_t first = p.span_begin[part.row_tile]; first < last; first += 32) {
        const Span none = {}, span = first + lane < last ? p.spans[first + lane] : none;
        uint64_t before = 0, all = span.count;  // of the lanes before this one, and of all
        for (int other = 1; other < 32; other *= 2) {
            const uint64_t theirs = shuffle_xor(all, other);
            before += lane & other ? theirs : 0;
            all += theirs;
        }
        const int64_t from = passed + static_cast<int64_t>(before), to = from + span.count;
        const int64_t inside = (to < end ? to : end) - (from > part.begin ? from : part.begin);
        full += span.kind == kFull && inside > 0 ? inside : 0;
        passed += static_cast<int64_t>(all);
    }
    for (int other = 16; other; other /= 2) full += shuffle_xor(full, other);
    return static_cast<int32_t>(full);
}

// The steps of a part: pairs of its live key tiles. Where the call is fixed, full tiles first.
struct StepWalk {
    Walk now;
    int32_t kind;  // kFull, then kPartial; -1: all in the order of the keys
    int32_t latest, earliest;
};

AVFLOW_DEVICE void settle(const Call& c, const Problem& p, const Part& part, StepWalk& w) {
    if (w.kind < 0) {
        pass_closed(c, p, w.latest, w.earliest, w.now);
        return;
    }
    for (;;) {
        for (; !ended(w.now) && w.now.span->kind != w.kind; ++w.now.span) {
            w.now.left -= w.now.span->count - w.now.at;
            w.now.at = 0;
        }
        if (!ended(w.now) || w.kind == kPartial) return;
        w.kind = kPartial;
        w.now = walk_part(p, part);
    }
}

AVFLOW_DEVICE StepWalk walk_steps(const Call& c, const Problem& p, const Extent& tile, const Part& part) {
    StepWalk w = {walk_part(p, part), is_fixed(c) ? kFull : -1, latest_seen(c, p, tile), earliest_seen(c, p, tile)};
    settle(c, p, part, w);
    return w;
}

// The next step; its tile[0] is -1 behind the last.
AVFLOW_DEVICE Step next_step(const Call& c, const Problem& p, const Part& part, StepWalk& w) {
    Step step = {{-1, -1}, 0};
#pragma unroll
    for (int t = 0; t < 2; ++t) {
        if (ended(w.now)) break;
        step.tile[t] = key_tile(w.now);
        step.whole |= is_whole(c, p, w.now) << t;
        advance(w.now);
        settle(c, p, part, w);
    }
    return step;
}

}  // namespace avflow::cuda
