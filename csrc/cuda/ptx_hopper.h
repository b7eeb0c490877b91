// What only Hopper has (sm_90a): matrix products of a warpgroup straight from shared memory, barriers in shared memory
// that count arrivals and bytes, copies of whole tiles, and registers that move between the warpgroups of a block. As
// with ptx.h, tests put another file in its place.
#pragma once

#include <cuda.h>

#include "cuda/ptx.h"

namespace avflow::cuda {

// A barrier in shared memory (8 bytes): a phase ends when `arrivals` threads have come, and the next begins.
AVFLOW_DEVICE void barrier_init(uint64_t* barrier, uint32_t arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
}
AVFLOW_DEVICE void barrier_arrive(uint64_t* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
// One arrival; the phase also waits for this many bytes that copies bring.
AVFLOW_DEVICE void barrier_arrive_for(uint64_t* barrier, uint32_t bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
}
// Until the phase of this parity has ended: 0 for the first, 1 for the second, 0 for the third. A fresh barrier counts
// as one whose phase of parity 1 has ended.
AVFLOW_DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity) {
    asm volatile(
        "{\n"
        ".reg .pred done;\n"
        "again:\n"
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
        "@!done bra again;\n"
        "}" ::"r"(shared_address(barrier)),
        "r"(parity)
        : "memory");
}

// A barrier of one warpgroup, by its number. Number 0 is sync_block's.
AVFLOW_DEVICE void sync_warpgroup(int number) { asm volatile("bar.sync %0, 128;" ::"r"(number + 1) : "memory"); }
template <int kArrivals = 128>
AVFLOW_DEVICE bool sync_warpgroup_any(int number, bool mine) {  // kArrivals: of as many of its threads
    uint32_t any;
    asm volatile(
        "{\n"
        ".reg .pred in, out;\n"
        "setp.ne.u32 in, %1, 0;\n"
        "bar.red.or.pred out, %2, %3, in;\n"
        "selp.u32 %0, 1, 0, out;\n"
        "}"
        : "=r"(any)
        : "r"(static_cast<uint32_t>(mine)), "r"(number + 1), "n"(kArrivals)
        : "memory");
    return any != 0;
}

// Two warpgroups take turns: turn_wait(i) returns once for each turn_pass(i) of the other.
AVFLOW_DEVICE void turn_wait(int i) { asm volatile("bar.sync %0, 256;" ::"r"(i + 4) : "memory"); }
AVFLOW_DEVICE void turn_pass(int i) { asm volatile("bar.arrive %0, 256;" ::"r"(i + 4) : "memory"); }

// Registers a thread of this warpgroup: fewer than at launch, or more, once others have let go of theirs.
template <int kRegisters>
AVFLOW_DEVICE void fewer_registers() {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kRegisters));
}
template <int kRegisters>
AVFLOW_DEVICE void more_registers() {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kRegisters));
}

// A tensor [kv_heads, depth / 64, keys, 64] in device memory; its address goes to the copy engine.
using KeyMap = CUtensorMap;

// Copies keys first .. first + 63 of a head to shared memory, in blocks of 64 columns as products read them; keys
// beyond the tensor's end become zero. The barrier counts the bytes.
AVFLOW_DEVICE void copy_tile(uint32_t to, const KeyMap& map, int head, int first, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
        "%5}], "
        "[%6];" ::"r"(to),
        "l"(&map), "r"(0), "r"(first), "r"(0), "r"(head), "r"(shared_address(barrier))
        : "memory");
}

// The same of one block of 64 columns; the map's box is one block.
AVFLOW_DEVICE void copy_block(uint32_t to, const KeyMap& map, int head, int block, int first, uint64_t* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%2, %3, %4, "
        "%5}], "
        "[%6];" ::"r"(to),
        "l"(&map), "r"(0), "r"(first), "r"(block), "r"(head), "r"(shared_address(barrier))
        : "memory");
}

// Lets products and the copy engine see what this thread has written to shared memory, or has seen there after a
// barrier: they go another way than ordinary accesses, the "async proxy". Waits for all copies of this thread that are
// under way.
AVFLOW_DEVICE void show_to_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Products run in the background, in order. Between products_begin and the products_wait that covers them, sums and
// left sides must not be touched.
AVFLOW_DEVICE void products_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
AVFLOW_DEVICE void products_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int kPending>
AVFLOW_DEVICE void products_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}
// After products_wait: keeps the compiler from reading sums before it.
template <int kColumns>
AVFLOW_DEVICE void sums_ready(float (&sum)[kColumns][4]) {
#pragma unroll
    for (int n = 0; n < kColumns; ++n) {
        asm volatile("" : "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])::"memory");
    }
}

// Where the right side of a product lies: rows of 128 bytes, the 16-byte chunk c of row r at place c ^ (r % 8), eight
// rows after eight; in blocks of 64 columns, `block` bytes apart, if rows run along k. PTX ISA, "Matrix descriptor".
AVFLOW_DEVICE uint64_t describe(uint32_t address, uint32_t block) {
    constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kEightRows = uint64_t{1024 >> 4} << 32;
    return kSwizzle128 | kEightRows | static_cast<uint64_t>(block >> 4) << 16 | ((address & 0x3FFFF) >> 4);
}

// The same `bytes` further on: one addition, where to describe each place anew takes four instructions.
AVFLOW_DEVICE uint64_t further(uint64_t description, uint32_t bytes) {
    const uint32_t low = static_cast<uint32_t>(description) + (bytes >> 4);
    return (description & 0xFFFFFFFF00000000u) | low;
}

#define AVFLOW_SUMS(n) "+f"(sum[n][0]), "+f"(sum[n][1]), "+f"(sum[n][2]), "+f"(sum[n][3])
#define AVFLOW_SUMS_8(n)                                                                            \
    AVFLOW_SUMS(n), AVFLOW_SUMS(n + 1), AVFLOW_SUMS(n + 2), AVFLOW_SUMS(n + 3), AVFLOW_SUMS(n + 4), \
        AVFLOW_SUMS(n + 5), AVFLOW_SUMS(n + 6), AVFLOW_SUMS(n + 7)
#define AVFLOW_PRODUCT_64(type)                                                                                  \
    asm volatile(                                                                                                \
        "{\n"                                                                                                    \
        ".reg .pred add;\n"                                                                                      \
        "setp.ne.b32 add, %37, 0;\n"                                                                             \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type                                              \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, " \
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, %35}, %36, add, 1, 1, %38;\n"        \
        "}"                                                                                                      \
        : AVFLOW_SUMS_8(0)                                                                                       \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kAlongK ? 1 : 0))
#define AVFLOW_PRODUCT_128(type)                                                                                     \
    asm volatile(                                                                                                    \
        "{\n"                                                                                                        \
        ".reg .pred add;\n"                                                                                          \
        "setp.ne.b32 add, %69, 0;\n"                                                                                 \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                                 \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "     \
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "  \
        "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
        "{%64, %65, %66, %67}, %68, add, 1, 1, %70;\n"                                                               \
        "}"                                                                                                          \
        : AVFLOW_SUMS_8(0), AVFLOW_SUMS_8(8)                                                                         \
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(static_cast<int>(add)), "n"(kAlongK ? 1 : 0))

// sum [64, 8 kColumns] (+)= a [64, 16] x b [16, 8 kColumns] by a warpgroup: wgmma with fp32 sums. Of its warp's 16 rows
// a lane holds what multiply_add of ptx.h says, 8 columns after 8. kAlongK: b's rows in memory run along k, else along
// the columns.
template <bool kBf16, bool kAlongK, int kColumns>
AVFLOW_DEVICE void multiply_add_tile(float (&sum)[kColumns][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    static_assert(kColumns == 8 || kColumns == 16);
    if constexpr (kColumns == 8) {
        if constexpr (kBf16) {
            AVFLOW_PRODUCT_64("bf16");
        } else {
            AVFLOW_PRODUCT_64("f16");
        }
    } else {
        if constexpr (kBf16) {
            AVFLOW_PRODUCT_128("bf16");
        } else {
            AVFLOW_PRODUCT_128("f16");
        }
    }
}

#define AVFLOW_PRODUCT_SHARED(type)                                                                                  \
    asm volatile(                                                                                                    \
        "{\n"                                                                                                        \
        ".reg .pred add;\n"                                                                                          \
        "setp.ne.b32 add, %66, 0;\n"                                                                                 \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type                                                 \
        " {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, %17, %18, %19, %20, %21, "     \
        "%22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, "  \
        "%43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, " \
        "%64, %65, add, 1, 1, 0, 0;\n"                                                                               \
        "}"                                                                                                          \
        : AVFLOW_SUMS_8(0), AVFLOW_SUMS_8(8)                                                                         \
        : "l"(a), "l"(b), "r"(static_cast<int>(add)))

// The same with both sides in shared memory, rows along the columns: sum [64, 128] (+)= a [64, 16] x b [16, 128].
template <bool kBf16>
AVFLOW_DEVICE void multiply_shared(float (&sum)[16][4], uint64_t a, uint64_t b, bool add) {
    if constexpr (kBf16) {
        AVFLOW_PRODUCT_SHARED("bf16");
    } else {
        AVFLOW_PRODUCT_SHARED("f16");
    }
}

#undef AVFLOW_PRODUCT_SHARED
#undef AVFLOW_PRODUCT_128
#undef AVFLOW_PRODUCT_64
#undef AVFLOW_SUMS_8
#undef AVFLOW_SUMS

}  // namespace avflow::cuda
