// Chooses the instruction set at run time.
#include "cpu/dispatch.h"

#include <cstring>
#include <iterator>
#ifdef AVFLOW_HAVE_AVX2
#include <cpuid.h>
#endif

namespace avflow::cpu {
namespace {

#ifdef AVFLOW_HAVE_AVX2
// Clang's __builtin_cpu_supports learned of it late.
bool has_f16c() {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) && (ecx & bit_F16C);
}
#endif

#define AVFLOW_ISA_KERNELS(isa) #isa, isa::pack_tile, isa::attend, isa::merge, isa::gather_rms_norm

const Isa kIsas[] = {
// best first
#ifdef AVFLOW_HAVE_AVX512
    {AVFLOW_ISA_KERNELS(avx512),
     [] {
         return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                __builtin_cpu_supports("fma");
     }},
#endif
#ifdef AVFLOW_HAVE_AVX2
    {AVFLOW_ISA_KERNELS(avx2),
     [] { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c(); }},
#endif
    {AVFLOW_ISA_KERNELS(portable), [] { return true; }},
};

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

const Isa& isa() {
    const Isa* now = chosen.load();
    if (now) return *now;
    for (const Isa& candidate : kIsas) {
        if (candidate.runs_here()) {
            chosen.store(&candidate);
            return candidate;
        }
    }
    return kIsas[std::size(kIsas) - 1];
}

}  // namespace avflow::cpu

extern "C" {

const char* avflow_cpu_isa(void) { return avflow::cpu::isa().name; }

int32_t avflow_set_cpu_isa(const char* name) {
    for (const auto& candidate : avflow::cpu::kIsas) {
        if (std::strcmp(candidate.name, name) == 0 && candidate.runs_here()) {
            avflow::cpu::chosen.store(&candidate);
            return 1;
        }
    }
    return 0;
}

}  // extern "C"
