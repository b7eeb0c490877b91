// Chooses the instruction set at run time.
#include "cpu/dispatch.h"

#include <cstring>
#include <iterator>

#include "cpu/processor.h"

namespace avflow::cpu {
namespace {

#define AVFLOW_PASSES(isa) isa::gather_rms_norm, isa::rotary, isa::silu_mul
#define AVFLOW_ISA_KERNELS(isa) #isa, isa::pack_tile, isa::attend, isa::merge, AVFLOW_PASSES(isa), false
#define AVFLOW_BF16_KERNELS(isa, rest) #isa, isa::pack_tile, isa::attend, isa::merge, AVFLOW_PASSES(rest), true

bool always() { return true; }

const Isa kIsas[] = {
// best first
#ifdef AVFLOW_HAVE_AVX512
    {AVFLOW_BF16_KERNELS(amx, avx512), has_amx_bf16, always},
    {AVFLOW_BF16_KERNELS(avx512_bf16, avx512), has_avx512_bf16, multiplies_bf16_fast},
    {AVFLOW_ISA_KERNELS(avx512), has_avx512, always},
#endif
#ifdef AVFLOW_HAVE_AVX2
    {AVFLOW_ISA_KERNELS(avx2), has_avx2, always},
#endif
#ifdef AVFLOW_HAVE_NEON_BF16
    {AVFLOW_BF16_KERNELS(neon_bf16, portable), has_neon_bf16, always},
#endif
    {AVFLOW_ISA_KERNELS(portable), always, always},
};

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

const Isa& isa() {
    const Isa* now = chosen.load();
    if (now) return *now;
    for (const Isa& candidate : kIsas) {
        if (candidate.runs_here() && candidate.pays_here()) {
            chosen.store(&candidate);
            return candidate;
        }
    }
    return kIsas[std::size(kIsas) - 1];
}

const Isa& isa_for(int32_t dtype) {
    const Isa* found = &isa();
    while (found->bf16 && dtype != AVFLOW_BFLOAT16) ++found;  // what takes the rest comes after them
    return *found;
}

}  // namespace avflow::cpu

extern "C" {

const char* avflow_cpu_isa(void) { return avflow::cpu::isa().name; }

const char* avflow_cpu_isas(void) {
    return
#ifdef AVFLOW_HAVE_AVX512
        "amx avx512_bf16 avx512 "
#endif
#ifdef AVFLOW_HAVE_AVX2
        "avx2 "
#endif
#ifdef AVFLOW_HAVE_NEON_BF16
        "neon_bf16 "
#endif
        "portable";
}

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
