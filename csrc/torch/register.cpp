// Registers the operators of library `avflow` through torch's stable ABI (torch >= 2.11), and runs them on the CPU.
#include <torch/csrc/stable/library.h>

#include "attention_op.h"

namespace {

using avflow::Tensor;

// On a device nobody looks: that would have to wait for it.
void check_orders(const avflow::Problem& p, const int32_t* order) {
    for (int32_t r = 0; r < p.header->rows; ++r) {
        if (p.rows[r].stream < 0) continue;
        if (order[r] < p.rows[r].order || order[r] > p.header->latest_order) {
            avflow::refuse("row_order[", r, "] = ", order[r], ": the problem was made for ", p.rows[r].order, " .. ",
                           p.header->latest_order, "; pass an order of these, or make a problem for later ones");
        }
    }
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
    const Tensor workspace =
        torch::stable::new_empty(q, {avflow_attention_workspace(&a) + 64}, torch::headeronly::ScalarType::Byte);
    const uintptr_t base = reinterpret_cast<uintptr_t>(workspace.data_ptr());
    a.workspace = reinterpret_cast<void*>((base + 63) / 64 * 64);
    avflow_attention_cpu(&a);
    return call.result();
}

}  // namespace

// `problem` always lies on the CPU: what decides the launch is read from it without asking the device. A device kernel
// reads the copy in `problem_on_device`, which Python uploads once, so that a captured call copies nothing.
STABLE_TORCH_LIBRARY(avflow, m) {
    m.def(
        "attention(Tensor q, Tensor k, Tensor v, Tensor problem, float scale, SymInt rows, int groups, bool return_lse,"
        " Tensor? problem_on_device=None, Tensor? row_order=None) -> (Tensor, Tensor, Tensor)");
    m.def("gather_rms_norm(Tensor x, Tensor weight, float eps, Tensor keep) -> (Tensor, Tensor)");
    m.def("compact(Tensor x, Tensor keep) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(avflow, CPU, m) { m.impl("attention", TORCH_BOX(&attention)); }
