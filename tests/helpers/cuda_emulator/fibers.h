// A block of CUDA threads on one host thread: each thread is a fiber, and runs until it waits for its warp or its
// block.
//
// Schedules, so that a missing barrier shows: all threads in step; one warp as far ahead of the others as barriers let it
// (in either order of warps); or, for every number from kRandom on, warps drawn at random, which also stop where they need
// not. A wait that can never end is reported, not waited for.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#include "ordering.h"

namespace emulator {

constexpr int kMostThreads = 1024;
constexpr size_t kStack = 128 << 10;
constexpr size_t kSharedBytes = 227 << 10;       // what Hopper gives a block
constexpr size_t kAnySharedBytes = 99 << 10;  // what every device from sm_80 on does

enum Schedule : int { kInStep, kFirstWarpAhead, kLastWarpAhead, kRandom };

struct Copy {
    char* to;
    const void* from;
    int group;  // commit groups closed before it
    bool valid;
};

// A product of a warpgroup that is under way, as one of its threads sees it.
struct Product {
    float (*sum)[4];
    const uint32_t* a;     // 4 words
    std::vector<float> held;  // the sums before it; until it is done, NaN stands there
    uint64_t b;
    int columns, group;  // group: as with copies
    bool add, along_k, bf16;
    uint64_t left = 0;  // where a is null: the left side in shared memory
};

struct Fiber {
    ucontext_t start;
    jmp_buf at;
    bool started = false, done = false;
    const char* waits_for = "";
    void* argument = nullptr;  // to the collective it waits for
    std::vector<Copy> copies;
    int groups = 0;
    std::vector<Product> products;
    int product_groups = 0;
    std::unique_ptr<char[]> stack{new char[kStack]};
};

// Threads that wait for each other: a warp, or the block.
struct Crowd {
    int arrived = 0;
    uint64_t generation = 0;
};

struct Block {
    int threads = 0, current = 0, idle = 0, finished = 0;
    Schedule schedule = kInStep;
    std::vector<Fiber> fibers = std::vector<Fiber>(kMostThreads);
    Crowd warps[kMostThreads / 32], warpgroups[kMostThreads / 128], all, turns[2];
    uint64_t random = 0;
    std::function<void()> body;
    ucontext_t home;
    char error[200] = "";
    alignas(128) char shared[kSharedBytes];
};

inline Block block;

inline Fiber& fiber() { return block.fibers[block.current]; }
inline int lane() { return block.current % 32; }

inline void fail(const char* what) {
    if (!block.error[0]) {
        const Fiber& me = fiber();
        snprintf(block.error, sizeof(block.error), "thread %d (at %s): %s", block.current, me.waits_for, what);
    }
    setcontext(&block.home);
}

inline void switch_to(int thread) {
    Fiber& mine = fiber();
    if (!mine.done && _setjmp(mine.at)) return;  // back here when somebody switches to this fiber
    block.current = thread;
    Fiber& next = fiber();
    if (next.started) _longjmp(next.at, 1);
    next.started = true;
    setcontext(&next.start);
}

inline int draw(int below) {  // xorshift64
    block.random ^= block.random << 13;
    block.random ^= block.random >> 7;
    block.random ^= block.random << 17;
    return static_cast<int>(block.random % static_cast<uint64_t>(below));
}

// The next thread by the schedule; `block_wide`: this thread's warp can do nothing more for now.
inline void yield(bool block_wide) {
    if (block.finished == block.threads) setcontext(&block.home);
    // Drawn at random, a warp that could go on may not be chosen for a while.
    if (++block.idle > (block.schedule < kRandom ? 4 : 400) * block.threads) fail("waits for threads that never arrive");
    const int me = block.current;
    int next = (me + 1) % block.threads;
    if (block.schedule == kInStep) {
        while (block.fibers[next].done) next = (next + 1) % block.threads;
    } else {
        const int warps = block.threads / 32, step = block.schedule == kFirstWarpAhead ? 1 : warps - 1;
        // The next lane of the warp, or, behind its last, the first one of the next warp that is not done.
        int warp = me / 32, lane = me % 32 + 1;
        for (;;) {
            while (lane < 32 && block.fibers[32 * warp + lane].done) ++lane;
            if (lane < 32) break;
            lane = 0;
            bool over = true;
            for (int i = 0; i < 32; ++i) over = over && block.fibers[32 * warp + i].done;
            if (block_wide || over) warp = block.schedule < kRandom ? (warp + step) % warps : draw(warps);
        }
        next = 32 * warp + lane;
    }
    if (next != me) switch_to(next);
}

// A point where others may come first: a random schedule sometimes lets them.
inline void pause() {
    if (block.schedule >= kRandom && draw(4) == 0) {
        yield(true);
        block.idle = 0;
    }
}

// Waits until all of the crowd have come with an argument; the last to come runs `act` for all.
template <typename Act>
void meet(const char* name, Crowd& crowd, int first, int size, void* argument, const Act& act) {
    Fiber& me = fiber();
    me.waits_for = name;
    me.argument = argument;
    block.idle = 0;
    if (++crowd.arrived == size) {
        for (int i = first; i < first + size; ++i) {
            if (strcmp(block.fibers[i].waits_for, name)) fail("others of the warp or block are elsewhere");
        }
        act();
        crowd.arrived = 0;
        ++crowd.generation;
    } else {
        const uint64_t generation = crowd.generation;
        while (crowd.generation == generation) yield(size > 32);
    }
}

// Arguments of the 32 lanes, as pointers to T.
template <typename T, typename Act>
void meet_warp(const char* name, T& argument, const Act& act) {
    const int first = block.current / 32 * 32;
    meet(name, block.warps[first / 32], first, 32, &argument, [&] {
        T* lanes[32];
        for (int i = 0; i < 32; ++i) lanes[i] = static_cast<T*>(block.fibers[first + i].argument);
        act(lanes);
    });
}

// The same for the 128 threads of a warpgroup.
template <typename T, typename Act>
void meet_warpgroup(const char* name, T& argument, const Act& act) {
    const int first = block.current / 128 * 128;
    meet(name, block.warpgroups[first / 128], first, 128, &argument, [&] {
        T* threads[128];
        for (int i = 0; i < 128; ++i) threads[i] = static_cast<T*>(block.fibers[first + i].argument);
        act(threads);
    });
}

inline void enter() {
    block.body();
    Fiber& me = fiber();
    if (!me.copies.empty() || !me.products.empty()) fail("left with copies or products under way");
    me.done = true;
    me.waits_for = "the end";
    block.idle = 0;
    ++block.finished;
    yield(true);
}

// Runs `body` as every thread of one block. False: block.error says why not.
inline bool run_block(int threads, Schedule schedule, std::function<void()> body) {
    block.threads = threads;
    block.schedule = schedule;
    block.random = 0x9E3779B97F4A7C15u * static_cast<uint64_t>(schedule);
    block.idle = block.finished = 0;
    block.body = std::move(body);
    ordering::begin_block();
    block.error[0] = 0;
    block.all = {};
    memset(block.shared, 0xFF, sizeof(block.shared));  // NaN in every type
    for (Crowd& warp : block.warps) warp = {};
    for (Crowd& warpgroup : block.warpgroups) warpgroup = {};
    for (Crowd& turn : block.turns) turn = {};
    for (int i = 0; i < threads; ++i) {
        Fiber& f = block.fibers[i];
        f.started = f.done = false;
        f.copies.clear();
        f.products.clear();
        f.groups = f.product_groups = 0;
        getcontext(&f.start);
        f.start.uc_stack.ss_sp = f.stack.get();
        f.start.uc_stack.ss_size = kStack;
        f.start.uc_link = nullptr;
        makecontext(&f.start, enter, 0);
    }
    block.current = schedule == kLastWarpAhead ? threads - 32 : 0;
    fiber().started = true;
    volatile bool left = false;
    getcontext(&block.home);
    if (!left) {
        left = true;
        setcontext(&fiber().start);
    }
    for (const Crowd& turn : block.turns) {
        if (turn.arrived && !block.error[0]) snprintf(block.error, sizeof(block.error), "a turn was passed to nobody");
    }
    return block.error[0] == 0;
}

}  // namespace emulator
