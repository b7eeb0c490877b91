// The attention operator on the CPU.
#include <torch/csrc/stable/library.h>

#include "attention_op.h"
#include "core/orders.h"
#include "registration.h"

namespace {

using avflow::Tensor;

// On a device nobody looks: that would have to wait for it.
void check_orders(const avflow::Problem& p, const int32_t* order) {
    const int32_t r = avflow::first_order_outside(p, order);
    if (r < 0) return;
    avflow::refuse("row_order[", r, "] = ", order[r], ": the problem was made for ", p.rows[r].order, " .. ",
                   p.header->latest_order, "; pass an order of these, or make a problem for later ones");
}

std::tuple<Tensor, Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& problem,
                                             double scale, int64_t rows, int64_t groups, bool return_lse,
                                             const std::optional<Tensor>&, const std::optional<Tensor>& row_order) {
    avflow::AttentionCall call(q, k, v, problem, scale, rows, groups, return_lse, row_order, avflow::dense);
    AvflowAttention& a = call.args;
    STD_TORCH_CHECK(a.head_dim > 0 && a.head_dim % 8 == 0 && a.head_dim <= 256, "head_dim ", a.head_dim,
                    ": multiples of 8 up to 256 are supported");
    STD_TORCH_CHECK(
        call.header.tile_rows * call.heads_per_kv_head() <= avflow_tile_rows(1) || call.header.tile_rows == 1,
        "the problem was packed for another number of heads, or for another device");
    if (rows == 0) return call.result();
    a.problem = problem.const_data_ptr<int32_t>();
    if (a.row_order) check_orders(avflow::view(a.problem), a.row_order);
    a.workers = static_cast<int32_t>(torch::stable::get_num_threads());
    a.parallel = avflow::parallel;
    const Tensor workspace = avflow::empty_beside(q, {avflow_attention_workspace(&a) + 64}, aoti_torch_dtype_uint8());
    const uintptr_t base = reinterpret_cast<uintptr_t>(workspace.data_ptr());
    a.workspace = reinterpret_cast<void*>((base + 63) / 64 * 64);
    avflow_attention_cpu(&a);
    return call.result();
}

}  // namespace

void avflow::register_attention_cpu(Library& cpu) { cpu.impl("attention", TORCH_BOX(&attention)); }
