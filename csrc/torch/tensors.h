// What every operator asks of its tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <sstream>
#include <stdexcept>

#include "kernels.h"

namespace avflow {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int32_t dtype_of(const Tensor& t) {
    switch (t.scalar_type()) {
        case ScalarType::Float: return AVFLOW_FLOAT32;
        case ScalarType::BFloat16: return AVFLOW_BFLOAT16;
        case ScalarType::Half: return AVFLOW_FLOAT16;
        default: STD_TORCH_CHECK(false, "tensors must be float32, bfloat16 or float16");
    }
}

// Python gets a ValueError of these words alone; STD_TORCH_CHECK makes it a RuntimeError that begins with a source
// line.
template <typename... Words>
[[noreturn]] void refuse(const Words&... words) {
    std::ostringstream text;
    ((text << words), ...);
    throw std::invalid_argument(text.str());
}

// With innermost stride 1.
inline Tensor dense(const Tensor& t) {
    return t.dim() == 0 || t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t);
}

// Does every row begin at a multiple of 16 bytes?
inline bool begins_at_16_bytes(const Tensor& t) {
    int64_t bytes = static_cast<int64_t>(reinterpret_cast<uintptr_t>(t.data_ptr()));
    for (int64_t i = 0; i + 1 < t.dim(); ++i) {
        if (t.size(i) > 1) bytes |= t.stride(i) * static_cast<int64_t>(t.element_size());
    }
    return bytes % 16 == 0;
}

// For kernels that move 16 bytes at a time; torch's allocator begins there, so a copy does.
inline Tensor dense_at_16_bytes(const Tensor& t) {
    if (t.dim() == 0 || (t.stride(t.dim() - 1) == 1 && begins_at_16_bytes(t))) return t;
    return t.is_contiguous() ? torch::stable::clone(t) : torch::stable::contiguous(t);
}

// A dimension of one is never stepped along, and its stride may be anything.
inline int64_t step(const Tensor& t, int64_t dim) { return t.size(dim) > 1 ? t.stride(dim) : 0; }

// Kernels run on torch's own threads, as many as torch.set_num_threads says.
inline void parallel(void*, int64_t workers, void (*body)(void*, int64_t), void* arg) {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t worker = begin; worker < end; ++worker) body(arg, worker);
    });
}

}  // namespace avflow
