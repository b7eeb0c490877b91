// What one launch of the gathers hands to their kernels. Host code without CUDA types.
#pragma once

#include <algorithm>
#include <cstdint>

#include "core/problem.h"
#include "kernels.h"

namespace avflow::cuda {

// Does a copy of `unit` bytes fit everywhere?
inline bool aligned(int64_t unit, std::initializer_list<const void*> pointers, std::initializer_list<int64_t> bytes) {
    for (const void* at : pointers) {
        if (static_cast<int64_t>(reinterpret_cast<uintptr_t>(at)) % unit) return false;
    }
    return std::all_of(bytes.begin(), bytes.end(), [unit](int64_t n) { return n % unit == 0; });
}

struct GatherCall {
    const uint16_t* x;
    const uint16_t* residual;  // or null
    const uint16_t* weight;
    const int32_t* keep;  // or null: row for row
    uint16_t* kept;       // or null
    uint16_t* normed;
    int64_t n, x_row, residual_row;
    int32_t width, threads;
    float eps;
};

constexpr int kMostGatherThreads = 512;
constexpr int kWide = 8;  // elements in 16 bytes

inline bool reads_wide(const AvflowGatherRmsNorm& a) {
    return aligned(16, {a.x, a.residual, a.weight, a.kept, a.normed}, {a.x_row * 2, a.residual_row * 2, a.width * 2});
}

inline GatherCall make_call(const AvflowGatherRmsNorm& a) {
    GatherCall c{};
    c.x = static_cast<const uint16_t*>(a.x);
    c.residual = static_cast<const uint16_t*>(a.residual);
    c.weight = static_cast<const uint16_t*>(a.weight);
    c.keep = a.keep;
    c.kept = static_cast<uint16_t*>(a.kept);
    c.normed = static_cast<uint16_t*>(a.normed);
    c.n = a.n, c.x_row = a.x_row, c.residual_row = a.residual_row;
    c.width = static_cast<int32_t>(a.width);
    const int64_t pieces = (a.width + (reads_wide(a) ? kWide : 1) - 1) / (reads_wide(a) ? kWide : 1);
    c.threads = static_cast<int32_t>(std::min<int64_t>(kMostGatherThreads, (pieces + 31) / 32 * 32));
    c.eps = a.eps;
    return c;
}

inline int64_t shared_bytes(const GatherCall& c) { return c.threads / 32 * static_cast<int64_t>(sizeof(float)); }

struct CompactCall {
    const char* x;
    const int32_t* keep;
    char* out;
    int64_t heads, n, m, rows;
    int64_t x_batch, x_head, x_token;  // in bytes
    int64_t units;                     // of a row
};

constexpr int kCompactThreads = 256;

// Bytes that a thread copies.
inline int32_t unit_of(const AvflowCompact& a) {
    for (int32_t unit = 16; unit > 2; unit /= 2) {
        if (aligned(unit, {a.x, a.out}, {a.row_bytes, a.x_batch, a.x_head, a.x_token})) return unit;
    }
    return 2;
}

inline CompactCall make_call(const AvflowCompact& a) {
    CompactCall c{};
    c.x = static_cast<const char*>(a.x);
    c.keep = a.keep;
    c.out = static_cast<char*>(a.out);
    c.heads = a.heads, c.n = a.n, c.m = a.m;
    c.rows = a.batch * a.heads * a.m;
    c.x_batch = a.x_batch, c.x_head = a.x_head, c.x_token = a.x_token;
    c.units = a.row_bytes / unit_of(a);
    return c;
}

inline int64_t blocks_of(const CompactCall& c) { return (c.rows * c.units + kCompactThreads - 1) / kCompactThreads; }

}  // namespace avflow::cuda
