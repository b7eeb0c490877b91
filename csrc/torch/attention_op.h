// What the attention operator does alike on every device: checks, outputs, and the plain struct that a kernel takes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <tuple>

#include "core/problem.h"
#include "kernels.h"
#include "tensors.h"

namespace avflow {

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
// `usable` gives a tensor, or a copy of it that the kernels can read.
struct AttentionCall {
    Tensor q, k, v, out, lse, mass;
    std::optional<Tensor> row_order;
    AvflowAttention args{};
    const Header& header;

    AttentionCall(const Tensor& q_any, const Tensor& k_any, const Tensor& v_any, const Tensor& problem, double scale,
                  int64_t rows, int64_t groups, bool return_lse, const std::optional<Tensor>& order,
                  Tensor (*usable)(const Tensor&))
        : q(usable(q_any)), k(usable(k_any)), v(usable(v_any)), header(header_of(problem)) {
        STD_TORCH_CHECK(q.dim() == 3 && (k.dim() == 3 || k.dim() == 4) && v.dim() == k.dim(),
                        "q must be [rows, heads, head_dim], k and v [keys, kv_heads, head_dim] or [batch, slots, "
                        "kv_heads, head_dim]");
        const int64_t slot_dim = k.dim() - 3, batch = slot_dim ? k.size(0) : 1, slots = k.size(slot_dim);
        const int64_t heads = q.size(1), d = q.size(2), kv_heads = k.size(slot_dim + 1);
        for (int64_t i = 0; i < k.dim(); ++i) {
            STD_TORCH_CHECK(v.size(i) == k.size(i), "k and v must have one shape, and differ in dimension ", i);
        }
        STD_TORCH_CHECK(k.size(slot_dim + 2) == d, "head_dim of q is ", d, ", of k ", k.size(slot_dim + 2));
        STD_TORCH_CHECK(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads <= 64, heads, " query heads over ",
                        kv_heads, " kv heads: must divide evenly, 64 at most");
        STD_TORCH_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
                        "q, k and v must have one dtype");
        STD_TORCH_CHECK(q.device() == k.device() && q.device() == v.device(), "q, k and v must lie on one device");
        STD_TORCH_CHECK(header.q_rows == q.size(0), "the problem is for ", header.q_rows, " rows, q has ", q.size(0));
        STD_TORCH_CHECK(slot_dim ? batch > 0 && header.k_rows % batch == 0 && header.k_rows / batch >= slots
                                 : header.k_rows == slots,
                        "the problem is for ", header.k_rows, " keys, k has ", batch, " x ", slots);
        STD_TORCH_CHECK(order.has_value() == (header.order_range != 0),
                        "row_order belongs to a problem with latest_order, and only to one");
        if (order) {
            STD_TORCH_CHECK(order->device() == q.device() && order->scalar_type() == ScalarType::Int &&
                                order->dim() == 1 && order->size(0) == rows,
                            "row_order must be int32 [", rows, "] on q's device");
            row_order = whole(*order);
            args.row_order = row_order->const_data_ptr<int32_t>();
        }
        STD_TORCH_CHECK(rows == header.rows && (groups == 0 || groups == header.groups), "rows and groups must be ",
                        header.rows, " and ", header.groups, " as in the problem, got ", rows, " and ", groups);

        out = empty_beside(q, {rows, heads, d});
        lse = empty_beside(q, {return_lse ? rows : 0, heads}, aoti_torch_dtype_float32());
        mass = empty_beside(q, {groups ? rows : 0, heads, groups}, aoti_torch_dtype_float32());
        args.q = q.data_ptr();
        args.k = k.data_ptr();
        args.v = v.data_ptr();
        args.out = out.data_ptr();
        args.lse = return_lse ? lse.mutable_data_ptr<float>() : nullptr;
        args.group_mass = groups ? mass.mutable_data_ptr<float>() : nullptr;
        args.q_row = step(q, 0), args.q_head = step(q, 1);
        args.k_batch = slot_dim ? step(k, 0) : 0;
        args.v_batch = slot_dim ? step(v, 0) : 0;
        args.k_row = step(k, slot_dim), args.k_head = step(k, slot_dim + 1);
        args.v_row = step(v, slot_dim), args.v_head = step(v, slot_dim + 1);
        args.capacity = static_cast<int32_t>(std::max<int64_t>(header.k_rows / batch, 1));
        args.slots = static_cast<int32_t>(slot_dim ? slots : args.capacity);
        args.heads = static_cast<int32_t>(heads);
        args.kv_heads = static_cast<int32_t>(kv_heads);
        args.head_dim = static_cast<int32_t>(d);
        args.dtype = dtype_of(q);
        args.scale = static_cast<float>(scale);
    }

    int32_t heads_per_kv_head() const { return args.heads / args.kv_heads; }
    std::tuple<Tensor, Tensor, Tensor> result() const { return {out, lse, mass}; }
};

}  // namespace avflow
