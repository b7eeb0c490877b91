// Stands in for csrc/cuda/ptx.h: the same functions on the host, between fibers. See that file for what each does.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "fibers.h"

#define AVFLOW_DEVICE static inline
#define AVFLOW_DEVICE_MEMBER
#define __global__
#define __launch_bounds__(...)
#define __grid_constant__

struct Index {
    unsigned x;
};
inline Index blockIdx;
#define threadIdx (Index{static_cast<unsigned>(emulator::block.current)})

namespace avflow::cuda {

using emulator::block;
namespace ordering = emulator::ordering;

AVFLOW_DEVICE char* shared_memory() { return block.shared; }
AVFLOW_DEVICE uint32_t shared_address(const void* at) {
    return static_cast<uint32_t>(static_cast<const char*>(at) - block.shared);
}

// Each takes the place where it is called, by which tests leave it out.
AVFLOW_DEVICE bool sync_block_any(bool mine, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    static bool any;  // written by the last to arrive, read before anybody can arrive again
    const bool sorts = !ordering::skipped(file, line);
    emulator::meet("barrier", block.all, 0, block.threads, &mine, [&] {
        any = false;
        if (sorts) ordering::meet(0, block.threads);
        for (int i = 0; i < block.threads; ++i) any = any || *static_cast<bool*>(block.fibers[i].argument);
    });
    return any;
}
AVFLOW_DEVICE void sync_block(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    sync_block_any(false, file, line);
}
AVFLOW_DEVICE void sync_warp(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    int nothing = 0;
    const bool sorts = !ordering::skipped(file, line);
    emulator::meet_warp("sync_warp", nothing, [&](int**) {
        if (sorts) ordering::meet(block.current / 32 * 32, 32);
    });
}
AVFLOW_DEVICE bool sync_warp_any(bool mine, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    sync_warp(file, line);
    emulator::meet_warp("sync_warp_any", mine, [](bool** lanes) {
        bool any = false;
        for (int i = 0; i < 32; ++i) any = any || *lanes[i];
        for (int i = 0; i < 32; ++i) *lanes[i] = any;
    });
    return mine;
}

template <typename T>
AVFLOW_DEVICE T shuffle_xor(T x, int mask) {
    struct Argument {
        T given, got;
        int mask;
    } mine{x, x, mask};
    emulator::meet_warp("shuffle", mine, [](Argument** lanes) {
        for (int i = 0; i < 32; ++i) lanes[i]->got = lanes[i ^ lanes[i]->mask]->given;
    });
    return mine.got;
}

AVFLOW_DEVICE int uniform(int x) { return x; }
AVFLOW_DEVICE int anew(int x) { return x; }

AVFLOW_DEVICE float product(float a, float b) {
    const volatile float found = a * b;  // its sum with another is no multiply-add then
    return found;
}
AVFLOW_DEVICE float sum_of(float a, float b) { return a + b; }

AVFLOW_DEVICE float exp2_fast(float x) { return x < -126.0f ? 0.0f : std::exp2(x); }

// A copy becomes visible when it is waited for, not before; until then its place holds NaN.
AVFLOW_DEVICE void copy_async(uint32_t to, const void* from, bool valid) {
    if (to % 16 || to + 16 > sizeof(block.shared)) emulator::fail("copy to a bad address");
    if (valid && reinterpret_cast<uintptr_t>(from) % 16) emulator::fail("copy from a bad address");
    ordering::copies(to, 16);
    const ordering::Apart of_the_copy;
    memset(block.shared + to, 0xFF, 16);
    emulator::fiber().copies.push_back({block.shared + to, from, emulator::fiber().groups, valid});
}
AVFLOW_DEVICE void copy_commit() { ++emulator::fiber().groups; }
template <int pending>
AVFLOW_DEVICE void copy_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    const ordering::Apart of_the_copies;
    const bool sorts = !ordering::skipped(file, line);
    emulator::Fiber& me = emulator::fiber();
    std::vector<emulator::Copy> left;
    for (const emulator::Copy& copy : me.copies) {
        if (copy.group >= me.groups - pending) {
            left.push_back(copy);
            continue;
        }
        if (copy.valid) {
            memcpy(copy.to, copy.from, 16);
        } else {
            memset(copy.to, 0, 16);
        }
        if (sorts) ordering::copied(shared_address(copy.to), 16);
    }
    me.copies.swap(left);
}

struct Matrices {
    uint32_t row;
    uint32_t (*to)[4];
};

template <bool kTransposed>
AVFLOW_DEVICE void load(uint32_t (&to)[4], uint32_t row) {
    Matrices mine{row, &to};
    if (row % 16 || row + 16 > sizeof(block.shared)) emulator::fail("matrix row at a bad address");
    emulator::meet_warp(kTransposed ? "ldmatrix.trans" : "ldmatrix", mine, [](Matrices** lanes) {
        const ordering::Apart of_the_load;
        const int first = block.current / 32 * 32;
        for (int i = 0; i < 32; ++i) ordering::reads(lanes[i]->row, 16, first + i);
        for (int i = 0; i < 4; ++i) {
            uint16_t m[8][8];
            for (int r = 0; r < 8; ++r) memcpy(m[r], block.shared + lanes[8 * i + r]->row, 16);
            for (int l = 0; l < 32; ++l) {
                const int r = l / 4, c = 2 * (l % 4);
                const uint32_t low = kTransposed ? m[c][r] : m[r][c], high = kTransposed ? m[c + 1][r] : m[r][c + 1];
                (*lanes[l]->to)[i] = low | high << 16;
            }
        }
    });
}
AVFLOW_DEVICE void load_matrices(uint32_t (&to)[4], uint32_t row) { load<false>(to, row); }
AVFLOW_DEVICE void load_matrices_transposed(uint32_t (&to)[4], uint32_t row) { load<true>(to, row); }

template <bool kBf16>
AVFLOW_DEVICE float widen(uint32_t bits) {
    float x;
    if constexpr (kBf16) {
        bits <<= 16;
        memcpy(&x, &bits, 4);
    } else {
        const uint16_t half = static_cast<uint16_t>(bits);
        _Float16 y;
        memcpy(&y, &half, 2);
        x = static_cast<float>(y);
    }
    return x;
}

struct Product {
    float (*sum)[4];
    const uint32_t (*a)[4];
    uint32_t b[2];
};

template <bool kBf16>
AVFLOW_DEVICE void multiply_add(float (&sum)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    Product mine{&sum, &a, {b0, b1}};
    emulator::meet_warp("mma", mine, [](Product** lanes) {
        float left[16][16], right[16][8];
        for (int l = 0; l < 32; ++l) {
            const int g = l / 4, c = 2 * (l % 4);
            for (int i = 0; i < 4; ++i) {  // rows g, g + 8; columns c, c + 8
                left[g + 8 * (i % 2)][c + 8 * (i / 2)] = widen<kBf16>((*lanes[l]->a)[i] & 0xFFFF);
                left[g + 8 * (i % 2)][c + 8 * (i / 2) + 1] = widen<kBf16>((*lanes[l]->a)[i] >> 16);
            }
            for (int i = 0; i < 2; ++i) {
                right[c + 8 * i][g] = widen<kBf16>(lanes[l]->b[i] & 0xFFFF);
                right[c + 8 * i + 1][g] = widen<kBf16>(lanes[l]->b[i] >> 16);
            }
        }
        for (int m = 0; m < 16; ++m) {
            float total[8] = {};
            for (int k = 0; k < 16; ++k) {
                for (int n = 0; n < 8; ++n) total[n] += left[m][k] * right[k][n];
            }
            for (int n = 0; n < 8; ++n) (*lanes[m % 8 * 4 + n / 2]->sum)[2 * (m / 8) + n % 2] += total[n];
        }
    });
}

template <bool kBf16>
AVFLOW_DEVICE uint32_t narrow(float x) {
    if constexpr (kBf16) {
        uint32_t bits;
        memcpy(&bits, &x, 4);
        return x != x ? 0x7FC0 : (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
    } else {
        const _Float16 y = static_cast<_Float16>(x);
        uint16_t half;
        memcpy(&half, &y, 2);
        return half;
    }
}
template <bool kBf16>
AVFLOW_DEVICE uint32_t round_pair(float low, float high) {
    return narrow<kBf16>(low) | narrow<kBf16>(high) << 16;
}

}  // namespace avflow::cuda
