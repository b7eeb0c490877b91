// Registers the operators of library `avflow` through torch's stable ABI (torch >= 2.11).
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <tuple>

#include "avflow.h"
#include "core/problem.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

int32_t dtype_of(const Tensor& t) {
    switch (t.scalar_type()) {
        case ScalarType::Float: return AVFLOW_FLOAT32;
        case ScalarType::BFloat16: return AVFLOW_BFLOAT16;
        case ScalarType::Half: return AVFLOW_FLOAT16;
        default: STD_TORCH_CHECK(false, "q, k and v must be float32, bfloat16 or float16");
    }
}

// Kernels run on torch's own threads, as many as torch.set_num_threads says.
void parallel(void*, int64_t workers, void (*body)(void*, int64_t), void* arg) {
    torch::stable::parallel_for(0, workers, 1, [&](int64_t begin, int64_t end) {
        for (int64_t worker = begin; worker < end; ++worker) body(arg, worker);
    });
}

void check_problem(const Tensor& problem) {
    STD_TORCH_CHECK(problem.scalar_type() == ScalarType::Int && problem.dim() == 1 && problem.is_contiguous() &&
                        problem.numel() >= static_cast<int64_t>(sizeof(avflow::Header) / 4),
                    "problem must be the contiguous int32 buffer that AttentionProblem.packed returns");
    const auto* header = reinterpret_cast<const avflow::Header*>(problem.const_data_ptr<int32_t>());
    STD_TORCH_CHECK(header->magic == avflow::kMagic && header->words == problem.numel(),
                    "problem is not a packed problem of this version: build it with AttentionProblem.packed");
}

std::tuple<Tensor, Tensor, Tensor> attention(const Tensor& q, const Tensor& k_any, const Tensor& v_any,
                                             const Tensor& problem, double scale, int64_t rows, int64_t groups,
                                             bool return_lse) {
    STD_TORCH_CHECK(q.dim() == 3 && k_any.dim() == 3 && v_any.dim() == 3,
                    "q must be [rows, heads, head_dim], k and v [keys, kv_heads, head_dim]");
    const auto dense = [](const Tensor& t) { return t.stride(2) == 1 ? t : torch::stable::contiguous(t); };
    const Tensor queries = dense(q), k = dense(k_any), v = dense(v_any);
    const int64_t heads = q.size(1), d = q.size(2), kv_heads = k.size(1);
    STD_TORCH_CHECK(k.size(2) == d && v.size(2) == d && v.size(0) == k.size(0) && v.size(1) == kv_heads,
                    "k and v must be [keys, kv_heads, ", d, "] alike");
    STD_TORCH_CHECK(d > 0 && d % 8 == 0 && d <= 256, "head_dim ", d, ": multiples of 8 up to 256 are supported");
    STD_TORCH_CHECK(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads <= 64, heads, " query heads over ",
                    kv_heads, " kv heads: must divide evenly, 64 at most");
    STD_TORCH_CHECK(q.scalar_type() == k.scalar_type() && q.scalar_type() == v.scalar_type(),
                    "q, k and v must have one dtype");
    check_problem(problem);
    const auto* words = problem.const_data_ptr<int32_t>();
    const auto& h = *reinterpret_cast<const avflow::Header*>(words);
    STD_TORCH_CHECK(h.q_rows == q.size(0) && h.k_rows == k.size(0), "the problem is for ", h.q_rows, " rows and ",
                    h.k_rows, " keys, q has ", q.size(0), " and k ", k.size(0));
    STD_TORCH_CHECK(rows == h.rows && (groups == 0 || groups == h.groups), "rows and groups must be ", h.rows, " and ",
                    h.groups, " as in the problem, got ", rows, " and ", groups);
    STD_TORCH_CHECK(h.tile_rows * (heads / kv_heads) <= avflow_tile_rows(1) || h.tile_rows == 1,
                    "the problem was packed for another number of heads");

    Tensor out = torch::stable::new_empty(q, {rows, heads, d});
    Tensor lse = torch::stable::new_empty(q, {return_lse ? rows : 0, heads}, ScalarType::Float);
    Tensor mass = torch::stable::new_empty(q, {groups ? rows : 0, heads, groups}, ScalarType::Float);
    if (rows == 0) return {out, lse, mass};

    AvflowAttention a{};
    a.q = queries.data_ptr();
    a.k = k.data_ptr();
    a.v = v.data_ptr();
    a.out = out.data_ptr();
    a.lse = return_lse ? lse.mutable_data_ptr<float>() : nullptr;
    a.group_mass = groups ? mass.mutable_data_ptr<float>() : nullptr;
    a.problem = words;
    a.q_row = queries.stride(0), a.q_head = queries.stride(1);
    a.k_row = k.stride(0), a.k_head = k.stride(1);
    a.v_row = v.stride(0), a.v_head = v.stride(1);
    a.heads = static_cast<int32_t>(heads);
    a.kv_heads = static_cast<int32_t>(kv_heads);
    a.head_dim = static_cast<int32_t>(d);
    a.dtype = dtype_of(q);
    a.scale = static_cast<float>(scale);
    a.workers = static_cast<int32_t>(torch::stable::get_num_threads());
    a.parallel = parallel;
    const Tensor workspace = torch::stable::new_empty(q, {avflow_attention_workspace(&a) + 64}, ScalarType::Byte);
    const uintptr_t base = reinterpret_cast<uintptr_t>(workspace.data_ptr());
    a.workspace = reinterpret_cast<void*>((base + 63) / 64 * 64);
    avflow_attention_cpu(&a);
    return {out, lse, mass};
}

}  // namespace

STABLE_TORCH_LIBRARY(avflow, m) {
    m.def(
        "attention(Tensor q, Tensor k, Tensor v, Tensor problem, float scale, int rows, int groups, bool return_lse)"
        " -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(avflow, CPU, m) { m.impl("attention", TORCH_BOX(&attention)); }
