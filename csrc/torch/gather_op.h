// What the gather operators do alike on every device: checks, outputs, and the plain structs that the kernels take.
#pragma once

#include <limits>
#include <tuple>

#include "kernels.h"
#include "tensors.h"

namespace avflow {

inline void check_keep(const Tensor& x, const Tensor& keep, int64_t dim) {
    STD_TORCH_CHECK(keep.scalar_type() == ScalarType::Int && keep.dim() == dim && keep.device() == x.device(),
                    "keep must be int32 of ", dim, " dimensions on x's device");
}

struct GatherRmsNormCall {
    Tensor x, weight, keep, kept, normed;
    AvflowGatherRmsNorm args{};

    GatherRmsNormCall(const Tensor& x_any, const Tensor& weight_any, double eps, const Tensor& keep_any)
        : x(dense(x_any)), weight(whole(weight_any)), keep(whole(keep_any)) {
        STD_TORCH_CHECK(x.dim() == 2 && weight.dim() == 1 && weight.size(0) == x.size(1) && x.size(1) > 0,
                        "x must be [n, width] and weight [width]");
        STD_TORCH_CHECK(x.size(1) <= std::numeric_limits<int32_t>::max(), "width must fit in int32");
        STD_TORCH_CHECK(x.scalar_type() == weight.scalar_type() && x.device() == weight.device(),
                        "x and weight must have one dtype and lie on one device");
        check_keep(x, keep, 1);
        kept = empty_beside(x, {keep.size(0), x.size(1)});
        normed = empty_beside(x, {keep.size(0), x.size(1)});
        args.x = x.data_ptr();
        args.weight = weight.data_ptr();
        args.keep = keep.const_data_ptr<int32_t>();
        args.kept = kept.data_ptr();
        args.normed = normed.data_ptr();
        args.n = x.size(0), args.m = keep.size(0), args.width = x.size(1);
        args.x_row = step(x, 0);
        args.eps = static_cast<float>(eps);
        args.dtype = dtype_of(x);
    }
};

struct CompactCall {
    Tensor x, keep, out;
    AvflowCompact args{};

    CompactCall(const Tensor& x_any, const Tensor& keep_any) : x(dense(x_any)), keep(whole(keep_any)) {
        STD_TORCH_CHECK(x.dim() == 4, "x must be [batch, heads, n, d]");
        check_keep(x, keep, 2);
        STD_TORCH_CHECK(keep.size(0) == x.size(0), "keep must be [", x.size(0), ", m], one line per batch");
        const int64_t size = dtype_of(x) == AVFLOW_FLOAT32 ? 4 : 2;
        out = empty_beside(x, {x.size(0), x.size(1), keep.size(1), x.size(3)});
        args.x = x.data_ptr();
        args.keep = keep.const_data_ptr<int32_t>();
        args.out = out.data_ptr();
        args.batch = x.size(0), args.heads = x.size(1), args.n = x.size(2), args.m = keep.size(1);
        args.row_bytes = x.size(3) * size;
        args.x_batch = step(x, 0) * size, args.x_head = step(x, 1) * size, args.x_token = step(x, 2) * size;
    }
};

}  // namespace avflow
