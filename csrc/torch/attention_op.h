// What the attention operator does alike on every device: checks, outputs, and the plain struct that a kernel takes.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <tuple>

#include "avflow.h"
#include "core/problem.h"

namespace avflow {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline int32_t dtype_of(const Tensor& t) {
    switch (t.scalar_type()) {
        case ScalarType::Float: return AVFLOW_FLOAT32;
        case ScalarType::BFloat16: return AVFLOW_BFLOAT16;
        case ScalarType::Half: return AVFLOW_FLOAT16;
        default: STD_TORCH_CHECK(false, "q, k and v must be float32, bfloat16 or float16");
    }
}

inline const Header& header_of(const Tensor& problem) {
    STD_TORCH_CHECK(problem.is_cpu() && problem.scalar_type() == ScalarType::Int && problem.dim() == 1 &&
                        problem.is_contiguous() && problem.numel() >= static_cast<int64_t>(sizeof(Header) / 4),
                    "problem must be the contiguous int32 buffer on the CPU that AttentionProblem.packed returns");
    const auto* header = reinterpret_cast<const Header*>(problem.const_data_ptr<int32_t>());
    STD_TORCH_CHECK(header->magic == kMagic && header->words == problem.numel(),
                    "problem is not a packed problem of this version: build it with AttentionProblem.packed");
    return *header;
}

// One call: the tensors stay alive as long as it does. `args` lacks the problem's address, the workspace and workers.
struct AttentionCall {
    Tensor q, k, v, out, lse, mass;
    AvflowAttention args{};
    const Header& header;

    AttentionCall(const Tensor& q_any, const Tensor& k_any, const Tensor& v_any, const Tensor& problem, double scale,
                  int64_t rows, int64_t groups, bool return_lse)
        : q(dense(q_any)), k(dense(k_any)), v(dense(v_any)), header(header_of(problem)) {
        const int64_t heads = q.size(1), d = q.size(2), kv_heads = k.size(1);
        STD_TORCH_CHECK(k.size(2) == d && v.size(2) == d && v.size(0) == k.size(0) && v.size(1) == kv_heads,
                        "k and v must be [keys, kv_heads, ", d, "] alike");
        STD_TORCH_CHECK(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads <= 64, heads, " query heads over ",
                        kv_heads, " kv heads: must divide evenly, 64 at most");
        STD_TORCH_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
                        "q, k and v must have one dtype");
        STD_TORCH_CHECK(q.device() == k.device() && q.device() == v.device(), "q, k and v must lie on one device");
        STD_TORCH_CHECK(header.q_rows == q.size(0) && header.k_rows == k.size(0), "the problem is for ", header.q_rows,
                        " rows and ", header.k_rows, " keys, q has ", q.size(0), " and k ", k.size(0));
        STD_TORCH_CHECK(rows == header.rows && (groups == 0 || groups == header.groups), "rows and groups must be ",
                        header.rows, " and ", header.groups, " as in the problem, got ", rows, " and ", groups);

        out = torch::stable::new_empty(q, {rows, heads, d});
        lse = torch::stable::new_empty(q, {return_lse ? rows : 0, heads}, ScalarType::Float);
        mass = torch::stable::new_empty(q, {groups ? rows : 0, heads, groups}, ScalarType::Float);
        args.q = q.data_ptr();
        args.k = k.data_ptr();
        args.v = v.data_ptr();
        args.out = out.data_ptr();
        args.lse = return_lse ? lse.mutable_data_ptr<float>() : nullptr;
        args.group_mass = groups ? mass.mutable_data_ptr<float>() : nullptr;
        args.q_row = q.stride(0), args.q_head = q.stride(1);
        args.k_row = k.stride(0), args.k_head = k.stride(1);
        args.v_row = v.stride(0), args.v_head = v.stride(1);
        args.heads = static_cast<int32_t>(heads);
        args.kv_heads = static_cast<int32_t>(kv_heads);
        args.head_dim = static_cast<int32_t>(d);
        args.dtype = dtype_of(q);
        args.scale = static_cast<float>(scale);
    }

    int32_t heads_per_kv_head() const { return args.heads / args.kv_heads; }
    std::tuple<Tensor, Tensor, Tensor> result() const { return {out, lse, mass}; }

  private:
    static Tensor dense(const Tensor& t) {
        STD_TORCH_CHECK(t.dim() == 3, "q must be [rows, heads, head_dim], k and v [keys, kv_heads, head_dim]");
        return t.stride(2) == 1 ? t : torch::stable::contiguous(t);
    }
};

}  // namespace avflow
