// What the operators of the decoder's passes do alike on every device: checks, outputs, and the kernels' structs.
#pragma once

#include <limits>
#include <tuple>

#include "kernels.h"
#include "tensors.h"

namespace avflow {

inline bool fits(int64_t size) { return size <= std::numeric_limits<int32_t>::max(); }

inline bool alike(const Tensor& a, const Tensor& b) {
    return a.scalar_type() == b.scalar_type() && a.device() == b.device();
}

// With `residual`, sum = residual + x and its norm; without, x's norm alone.
struct RmsNormCall {
    Tensor x, weight, residual, sum, normed;
    AvflowGatherRmsNorm args{};

    RmsNormCall(const Tensor& x_any, const Tensor* residual_any, const Tensor& weight_any, double eps)
        : x(dense(x_any)), weight(whole(weight_any)) {
        STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 1 && weight.size(0) == x.size(1) && x.size(1) > 0,
                        "x must be [n, width] and weight [width]");
        STD_TORCH_CHECK(fits(x.size(1)), "width must fit in int32");
        STD_TORCH_CHECK(alike(x, weight), "x and weight must have one dtype and lie on one device");
        normed = empty_beside(x, {x.size(0), x.size(1)});
        if (residual_any) {
            residual = dense(*residual_any);
            STD_TORCH_CHECK(residual.dim() == 2 && residual.size(0) == x.size(0) && residual.size(1) == x.size(1) &&
                                alike(x, residual),
                            "residual must have x's shape, dtype and device");
            sum = empty_beside(x, {x.size(0), x.size(1)});
            args.residual = residual.data_ptr();
            args.residual_row = step(residual, 0);
            args.kept = sum.data_ptr();
        }
        args.x = x.data_ptr();
        args.weight = weight.data_ptr();
        args.normed = normed.data_ptr();
        args.n = args.m = x.size(0), args.width = x.size(1);
        args.x_row = step(x, 0);
        args.eps = static_cast<float>(eps);
        args.dtype = dtype_of(x);
    }
};

struct RotaryCall {
    Tensor q, k, cos, sin, q_out, k_out;
    AvflowRotary args{};

    RotaryCall(const Tensor& q_any, const Tensor& k_any, const Tensor& cos_any, const Tensor& sin_any)
        : q(dense(q_any)), k(dense(k_any)), cos(dense(cos_any)), sin(dense(sin_any)) {
        STD_TORCH_CHECK(q.dim() == 3 && k.dim() == 3 && k.size(0) == q.size(0) && k.size(2) == q.size(2),
                        "q must be [rows, heads, d] and k [rows, kv_heads, d]");
        STD_TORCH_CHECK(q.size(2) > 0 && q.size(2) % 2 == 0 && fits(q.size(1) + k.size(1)) && fits(q.size(2)),
                        "d must be even, and heads and d fit in int32");
        for (const Tensor* table : {&cos, &sin}) {
            STD_TORCH_CHECK(table->dim() == 2 && table->size(0) == q.size(0) && table->size(1) == q.size(2),
                            "cos and sin must be [rows, d]");
        }
        STD_TORCH_CHECK(
            alike(q, k) && alike(cos, sin) && q.device() == cos.device() &&
                (dtype_of(cos) == dtype_of(q) || dtype_of(cos) == AVFLOW_FLOAT32),
            "q, k, cos and sin must lie on one device, q and k have one dtype, cos and sin that or float32");
        q_out = empty_beside(q, {q.size(0), q.size(1), q.size(2)});
        k_out = empty_beside(k, {k.size(0), k.size(1), k.size(2)});
        args.q = q.data_ptr(), args.k = k.data_ptr();
        args.cos = cos.data_ptr(), args.sin = sin.data_ptr();
        args.q_out = q_out.data_ptr(), args.k_out = k_out.data_ptr();
        args.rows = q.size(0);
        args.q_row = step(q, 0), args.q_head = step(q, 1);
        args.k_row = step(k, 0), args.k_head = step(k, 1);
        args.cos_row = step(cos, 0), args.sin_row = step(sin, 0);
        args.heads = static_cast<int32_t>(q.size(1)), args.kv_heads = static_cast<int32_t>(k.size(1));
        args.head_dim = static_cast<int32_t>(q.size(2));
        args.dtype = dtype_of(q);
        args.table_dtype = dtype_of(cos);
    }
};

struct SiluMulCall {
    Tensor gate, up, out;
    AvflowSiluMul args{};

    SiluMulCall(const Tensor& gate_any, const Tensor& up_any) : gate(dense(gate_any)), up(dense(up_any)) {
        STD_TORCH_CHECK(gate.dim() == 2 && up.dim() == 2 && gate.size(0) == up.size(0) && gate.size(1) == up.size(1),
                        "gate and up must be [rows, width]");
        STD_TORCH_CHECK(alike(gate, up), "gate and up must have one dtype and lie on one device");
        out = empty_beside(gate, {gate.size(0), gate.size(1)});
        args.gate = gate.data_ptr(), args.up = up.data_ptr(), args.out = out.data_ptr();
        args.rows = gate.size(0), args.width = gate.size(1);
        args.gate_row = step(gate, 0), args.up_row = step(up, 0);
        args.dtype = dtype_of(gate);
    }
};

}  // namespace avflow
