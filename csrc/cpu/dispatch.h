// Which instruction set runs, and how work is spread over workers.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "kernels.h"

namespace avflow::cpu {

struct TaskPlan;

#define AVFLOW_DECLARE_ISA(isa)                                                         \
    namespace isa {                                                                     \
    void pack_tile(const TaskPlan& plan, int64_t index);                                \
    void attend(const TaskPlan& plan, int64_t task, int64_t worker);                    \
    void merge(const TaskPlan& plan, int64_t index, int64_t worker);                    \
    void gather_rms_norm(const AvflowGatherRmsNorm& call, int64_t first, int64_t last); \
    void rotary(const AvflowRotary& call, int64_t first, int64_t last);                 \
    void silu_mul(const AvflowSiluMul& call, int64_t first, int64_t last);              \
    }
AVFLOW_DECLARE_ISA(portable)
#ifdef AVFLOW_HAVE_AVX2
AVFLOW_DECLARE_ISA(avx2)
#endif
#ifdef AVFLOW_HAVE_AVX512
AVFLOW_DECLARE_ISA(avx512)
// Attention in bfloat16 only: the rest is avx512's.
AVFLOW_DECLARE_ISA(avx512_bf16)
AVFLOW_DECLARE_ISA(amx)
#endif
#ifdef AVFLOW_HAVE_NEON_BF16
AVFLOW_DECLARE_ISA(neon_bf16)  // attention in bfloat16 only: the rest is portable's
#endif
#undef AVFLOW_DECLARE_ISA

struct Isa {
    const char* name;
    void (*pack_tile)(const TaskPlan&, int64_t);
    void (*attend)(const TaskPlan&, int64_t, int64_t);
    void (*merge)(const TaskPlan&, int64_t, int64_t);
    void (*gather_rms_norm)(const AvflowGatherRmsNorm&, int64_t, int64_t);
    void (*rotary)(const AvflowRotary&, int64_t, int64_t);
    void (*silu_mul)(const AvflowSiluMul&, int64_t, int64_t);
    bool bf16;            // multiplies bfloat16, and takes no other dtype
    bool (*runs_here)();  // may the processor and its system run it
    bool (*pays_here)();  // and is it not slower than those after it
};

// The best that this processor runs, or the one that was forced.
const Isa& isa();
// The same for attention in this dtype: one that multiplies bfloat16 leaves others to one that does not.
const Isa& isa_for(int32_t dtype);

// body(index, worker) for each index; workers take the next as they come free. `call` is any struct with workers.
template <typename Call, typename Body>
void for_each(const Call& call, int64_t count, const Body& body) {
    struct Job {
        const Body& body;
        std::atomic<int64_t> next;
        int64_t count;
    } job{body, {0}, count};
    const auto run = [](void* arg, int64_t worker) {
        Job& mine = *static_cast<Job*>(arg);
        for (int64_t i = mine.next++; i < mine.count; i = mine.next++) mine.body(i, worker);
    };
    if (count) call.parallel(call.parallel_context, std::min<int64_t>(call.workers, count), run, &job);
}

}  // namespace avflow::cpu
