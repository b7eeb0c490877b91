// Kept rows and their RMS norm, compiled once per instruction set with AVFLOW_ISA = portable, avx2 or avx512.
#include <cmath>
#include <cstring>
#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#include "cpu/dispatch.h"
#include "kernels.h"

namespace avflow::cpu::AVFLOW_ISA {
namespace {

#include "cpu/vec.h"
// (order matters: the next uses vec.h)
#include "cpu/convert.h"

constexpr int kPiece = 512;  // elements held in fp32 at a time

// Sum of squares of row [width], a piece at a time.
float sum_of_squares(const void* base, int64_t offset, int dtype, int64_t width) {
    alignas(64) float piece[kPiece];
    Vec sums[4] = {Vec{}, Vec{}, Vec{}, Vec{}};
    for (int64_t at = 0; at < width; at += kPiece) {
        const int count = static_cast<int>(width - at < kPiece ? width - at : kPiece);
        load_row(base, offset + at, dtype, count, 1.0f, piece);
        for (int i = count; i % (4 * W); ++i) piece[i] = 0.0f;
        for (int i = 0; i < count; i += 4 * W) {
            for (int n = 0; n < 4; ++n) {
                const Vec x = load(piece + i + n * W);
                sums[n] += x * x;
            }
        }
    }
    return horizontal_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
}

// sum[i] = residual[i] + x[i], rounded to dtype. x and residual begin at these offsets.
void add_rows(const AvflowGatherRmsNorm& call, int64_t x, int64_t residual, char* sum) {
    alignas(64) float piece[kPiece], more[kPiece];
    for (int64_t at = 0; at < call.width; at += kPiece) {
        const int count = static_cast<int>(call.width - at < kPiece ? call.width - at : kPiece);
        load_row(call.x, x + at, call.dtype, count, 1.0f, piece);
        load_row(call.residual, residual + at, call.dtype, count, 1.0f, more);
        for (int n = 0; n < count; ++n) piece[n] += more[n];
        store_row(sum, at, call.dtype, count, piece, 1.0f);
    }
}

}  // namespace

void gather_rms_norm(const AvflowGatherRmsNorm& call, int64_t first, int64_t last) {
    const int64_t width = call.width, size = call.dtype == AVFLOW_FLOAT32 ? 4 : 2;
    alignas(64) float piece[kPiece], weight[kPiece];
    for (int64_t i = first; i < last; ++i) {
        char* const kept = static_cast<char*>(call.kept) + i * width * size;
        char* const normed = static_cast<char*>(call.normed) + i * width * size;
        const int64_t from = call.keep ? call.keep[i] : i;
        if (from < 0 || from >= call.n) {
            std::memset(kept, 0, width * size);
            std::memset(normed, 0, width * size);
            continue;
        }
        const void* x = call.x;
        int64_t offset = from * call.x_row;
        if (call.residual) {
            add_rows(call, offset, from * call.residual_row, kept);
            x = kept, offset = 0;
        } else if (call.kept) {
            std::memcpy(kept, static_cast<const char*>(x) + offset * size, width * size);
        }
        const float mean = sum_of_squares(x, offset, call.dtype, width) / static_cast<float>(width);
        const float factor = 1.0f / std::sqrt(mean + call.eps);
        for (int64_t at = 0; at < width; at += kPiece) {
            const int count = static_cast<int>(width - at < kPiece ? width - at : kPiece);
            load_row(x, offset + at, call.dtype, count, factor, piece);
            if (call.dtype != AVFLOW_FLOAT32) {  // rounded before the weight, as the model does
                store_row(normed, at, call.dtype, count, piece, 1.0f);
                load_row(normed, at, call.dtype, count, 1.0f, piece);
            }
            load_row(call.weight, at, call.dtype, count, 1.0f, weight);
            for (int n = 0; n < count; ++n) piece[n] *= weight[n];
            store_row(normed, at, call.dtype, count, piece, 1.0f);
        }
    }
}

}  // namespace avflow::cpu::AVFLOW_ISA
