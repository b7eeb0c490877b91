// The caller's thread pool, as kernels and packing take it.
#pragma once

#include "c/status.h"
#include "core/plan.h"
#include "kernels.h"

namespace avflow::c {

inline void serial(void*, int64_t n, void (*body)(void*, int64_t), void* arg) {
    for (int64_t i = 0; i < n; ++i) body(arg, i);
}

inline void check(const AvflowThreads& threads) {
    AVFLOW_REQUIRE(!threads.run || threads.workers >= 1, "threads.workers = %d: with a run, 1 at least",
                   threads.workers);
}

// Into a struct of kernels.h.
template <typename Call>
void hand_over(const AvflowThreads& threads, Call& call) {
    check(threads);
    call.workers = threads.run ? threads.workers : 1;
    call.parallel = threads.run ? threads.run : serial;
    call.parallel_context = threads.context;
}

// None: the calling thread alone.
inline Threads for_packing(const AvflowThreads* threads) {
    if (!threads || !threads->run) return {serial, nullptr, 1};
    check(*threads);
    return {threads->run, threads->context, threads->workers};
}

}  // namespace avflow::c
