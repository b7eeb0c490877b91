#include "cpu/processor.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif
#if defined(__x86_64__) && defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace avflow::cpu {

#if defined(__x86_64__)
namespace {

struct Leaf {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
};

// All zero where the processor does not have the leaf.
Leaf cpuid(unsigned leaf, unsigned part = 0) {
    Leaf found;
    if (!__get_cpuid_count(leaf, part, &found.eax, &found.ebx, &found.ecx, &found.edx)) return {};
    return found;
}

// Linux gives the 8 KB of matrix tiles to those who ask (arch_prctl, from 5.16 on): to the whole process, and to what
// it forks. It refuses where some thread's stack for signals is too small for them.
bool ask_for_tiles() {
#if defined(__linux__)
    constexpr long kAsk = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA
    return syscall(SYS_arch_prctl, kAsk, kTileData) == 0;
#else
    return false;
#endif
}

}  // namespace

// Not __builtin_cpu_supports for F16C and what came later: Clang and GCC learned of those late.
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && (cpuid(1).ecx >> 29 & 1); }

bool has_avx512() {
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("fma");
}

bool has_avx512_bf16() { return has_avx512() && (cpuid(7, 1).eax >> 5 & 1); }

bool has_amx_bf16() {
    const unsigned found = cpuid(7).edx;
    return has_avx512_bf16() && (found >> 22 & 1) && (found >> 24 & 1) && ask_for_tiles();
}

// AMD's multiply twice as many pairs as floats in the same time; Intel's have half the units for them, so that both
// rates are one (a Xeon with AMX: 117 against 230 GFLOP/s).
bool multiplies_bf16_fast() {
    const Leaf maker = cpuid(0);
    return maker.ebx == 0x68747541 && maker.edx == 0x69746E65 && maker.ecx == 0x444D4163;  // "AuthenticAMD"
}
#endif

#if defined(__aarch64__)
bool has_neon_bf16() {
#if defined(__linux__)
    constexpr unsigned long kBf16 = 1ul << 14;  // HWCAP2_BF16, which old headers do not know
    return getauxval(AT_HWCAP2) & kBf16;
#else
    return false;
#endif
}
#endif

}  // namespace avflow::cpu
