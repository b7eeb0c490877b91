// What every operator asks of its tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdint>
#include <initializer_list>
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

// New, contiguous, on the device of `t`. Not torch::stable::new_empty: that looks an operator up by its name and boxes
// six arguments, which takes longer than one row's attention to a few keys, and a call makes four tensors.
inline Tensor empty_beside(const Tensor& t, std::initializer_list<int64_t> sizes, int32_t dtype) {
    int64_t strides[4] = {};
    int64_t stride = 1, dim = static_cast<int64_t>(sizes.size());
    for (const int64_t* size = sizes.end(); dim > 0; stride *= std::max<int64_t>(*--size, 1)) strides[--dim] = stride;
    int32_t device = 0, index = 0;
    AtenTensorHandle made = nullptr;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(t.get(), &device));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_index(t.get(), &index));
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.begin(), strides,
                                                           dtype, device, index, &made));
    return Tensor(made);
}

inline Tensor empty_beside(const Tensor& t, std::initializer_list<int64_t> sizes) {
    int32_t dtype = 0;
    STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(t.get(), &dtype));
    return empty_beside(t, sizes, dtype);
}

// With innermost stride 1.
inline Tensor dense(const Tensor& t) {
    return t.dim() == 0 || t.stride(t.dim() - 1) == 1 ? t : torch::stable::contiguous(t);
}

// Torch's own asks the dispatcher, by name, even where there is nothing to do.
inline Tensor whole(const Tensor& t) { return t.is_contiguous() ? t : torch::stable::contiguous(t); }

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
