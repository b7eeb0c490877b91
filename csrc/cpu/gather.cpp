// Gathers of the eviction boundary: rows of the residual with their RMS norm, and the cache of the tokens that stay.
#include <algorithm>
#include <cstring>

#include "cpu/dispatch.h"
#include "kernels.h"

namespace {

constexpr int64_t kRows = 16;    // of the residual, one worker at a time
constexpr int64_t kCopies = 64;  // of a cache

}  // namespace

extern "C" {

void avflow_gather_rms_norm_cpu(const AvflowGatherRmsNorm* call) {
    const auto& path = avflow::cpu::isa();
    avflow::cpu::for_each(*call, (call->m + kRows - 1) / kRows, [&](int64_t i, int64_t) {
        path.gather_rms_norm(*call, i * kRows, std::min(call->m, (i + 1) * kRows));
    });
}

void avflow_compact_cpu(const AvflowCompact* call) {
    const AvflowCompact& c = *call;
    const int64_t rows = c.batch * c.heads * c.m;
    avflow::cpu::for_each(c, (rows + kCopies - 1) / kCopies, [&](int64_t i, int64_t) {
        for (int64_t row = i * kCopies; row < std::min(rows, (i + 1) * kCopies); ++row) {
            const int64_t sequence = row / c.m, b = sequence / c.heads, h = sequence % c.heads;
            const int64_t from = c.keep[b * c.m + row % c.m];
            char* const to = static_cast<char*>(c.out) + row * c.row_bytes;
            if (from < 0 || from >= c.n) {
                std::memset(to, 0, c.row_bytes);
            } else {
                const char* base = static_cast<const char*>(c.x) + b * c.x_batch + h * c.x_head;
                std::memcpy(to, base + from * c.x_token, c.row_bytes);
            }
        }
    });
}

}  // extern "C"
