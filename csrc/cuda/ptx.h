// The few instructions that the kernels take from PTX: tensor cores, matrix loads, asynchronous copies, shuffles.
// Kernels touch the device through this file alone, so tests can run them on the host with another file in its place.
#pragma once

#include <cstdint>

#define AVFLOW_DEVICE static __device__ __forceinline__
#define AVFLOW_DEVICE_MEMBER __device__ __forceinline__

namespace avflow::cuda {

// A block's dynamic shared memory, and the 32-bit addresses that the instructions below take.
AVFLOW_DEVICE char* shared_memory() {
    extern __shared__ __align__(1024) char memory[];  // the Hopper kernel's tiles begin at multiples of that
    return memory;
}

AVFLOW_DEVICE uint32_t shared_address(const void* pointer) {
    return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

AVFLOW_DEVICE void sync_block() { __syncthreads(); }
AVFLOW_DEVICE bool sync_block_any(bool mine) { return __syncthreads_or(mine) != 0; }
AVFLOW_DEVICE void sync_warp() { __syncwarp(); }
AVFLOW_DEVICE bool sync_warp_any(bool mine) {
    __syncwarp();  // a vote alone does not order accesses to memory
    return __any_sync(0xFFFFFFFFu, mine) != 0;
}

AVFLOW_DEVICE float shuffle_xor(float x, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, x, mask); }
AVFLOW_DEVICE uint64_t shuffle_xor(uint64_t x, int mask) {
    return __shfl_xor_sync(0xFFFFFFFFu, static_cast<unsigned long long>(x), mask);
}

// The first lane's; tells the compiler that all lanes of a warp hold the same.
AVFLOW_DEVICE int uniform(int x) { return __shfl_sync(0xFFFFFFFFu, x, 0); }

// Each rounded by itself: never one multiply-add.
AVFLOW_DEVICE float product(float a, float b) { return __fmul_rn(a, b); }
AVFLOW_DEVICE float sum_of(float a, float b) { return __fadd_rn(a, b); }

// x itself. The compiler does not know that, and keeps nothing that depends on it in registers from one turn of a loop
// to the next.
AVFLOW_DEVICE int anew(int x) { return __shfl_xor_sync(0xFFFFFFFFu, x, 0); }

// 2^x to 2 ulp; 0 for -inf and below 2^-126, NaN for NaN.
AVFLOW_DEVICE float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Copies 16 bytes to shared memory in the background; zeros where not valid, and then nothing is read.
AVFLOW_DEVICE void copy_async(uint32_t to, const void* from, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(__cvta_generic_to_global(from)),
                 "r"(valid ? 16 : 0)
                 : "memory");
}
AVFLOW_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Until at most `pending` of this thread's latest groups are still under way.
template <int pending>
AVFLOW_DEVICE void copy_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory");
}

// Four 8 x 8 matrices of 16-bit values: lane 8 i + r names row r of matrix i, whose values
// [lane / 4][2 (lane % 4) + {0, 1}] land in to[i].
AVFLOW_DEVICE void load_matrices(uint32_t (&to)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}
// The same, each matrix transposed.
AVFLOW_DEVICE void load_matrices_transposed(uint32_t (&to)[4], uint32_t row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"(row)
                 : "memory");
}

// sum [16, 8] += a [16, 16] x b [16, 8]: mma.sync.m16n8k16 with fp32 sums. With g = lane / 4 and c = 2 (lane % 4), a
// lane holds sum [g, c], [g, c + 1], [g + 8, c], [g + 8, c + 1].
template <bool kBf16>
AVFLOW_DEVICE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    if constexpr (kBf16) {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    } else {
        asm volatile(
            "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
            "{%0, %1, %2, %3};"
            : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
            : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
    }
}

// The value of 16 bits.
template <bool kBf16>
AVFLOW_DEVICE float widen(uint16_t bits) {
    if constexpr (kBf16) {
        return __uint_as_float(static_cast<uint32_t>(bits) << 16);
    } else {
        float x;
        asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
        return x;
    }
}

// Two floats rounded to 16 bits, the first in the low half.
template <bool kBf16>
AVFLOW_DEVICE uint32_t round_pair(float low, float high) {
    uint32_t pair;
    if constexpr (kBf16) {
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    } else {
        asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    }
    return pair;
}

}  // namespace avflow::cuda
