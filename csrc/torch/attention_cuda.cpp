// The attention operator on CUDA. Compiled only where there is an nvcc; links to no library of torch's CUDA build.
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>

#include "attention_op.h"
#include "registration.h"
#include "stream.h"

namespace {

using avflow::Tensor;

std::tuple<Tensor, Tensor, Tensor> attention(const Tensor& q, const Tensor& k, const Tensor& v, const Tensor& problem,
                                             double scale, int64_t rows, int64_t groups, bool return_lse,
                                             const std::optional<Tensor>& problem_on_device,
                                             const std::optional<Tensor>& row_order) {
    STD_TORCH_CHECK(q.is_cuda(), "q must lie on a CUDA device");
    const int32_t device = q.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    avflow::AttentionCall call(q, k, v, problem, scale, rows, groups, return_lse, row_order, avflow::dense_at_16_bytes);
    AvflowAttention& a = call.args;
    STD_TORCH_CHECK(a.head_dim == 64 || a.head_dim == 128, "head_dim ", a.head_dim,
                    ": the CUDA kernels have 64 and 128; pad q, k and v with zeros, or call on the CPU");
    STD_TORCH_CHECK(a.dtype != AVFLOW_FLOAT32,
                    "q, k and v are float32: the CUDA kernels take bfloat16 and float16; convert, or call on the CPU");
    const int32_t planned = call.header.tile_rows, ratio = call.heads_per_kv_head();
    // Fewer rows a tile are what a batch of few rows a sequence is planned with.
    STD_TORCH_CHECK(planned <= avflow_cuda_tile_rows(ratio) || planned == avflow_tall_tile_rows(ratio),
                    "the problem was packed for another number of heads, or for the CPU: pass device_type=\"cuda\" to "
                    "AttentionProblem.packed");
    STD_TORCH_CHECK(problem_on_device.has_value(),
                    "q lies on a CUDA device: pass problem_on_device too (AttentionProblem.packed_on)");
    const Tensor& copy = *problem_on_device;
    STD_TORCH_CHECK(copy.device() == q.device() && copy.scalar_type() == torch::headeronly::ScalarType::Int &&
                        copy.is_contiguous() && copy.numel() == problem.numel(),
                    "problem_on_device must be a copy of problem on q's device");
    if (rows == 0) return call.result();
    const int32_t* host = problem.const_data_ptr<int32_t>();
    a.problem = copy.const_data_ptr<int32_t>();
    // Torch's allocator aligns to 512 bytes, keeps the block for this stream, and serves a capture from its own pool.
    const Tensor workspace =
        avflow::empty_beside(q, {avflow_attention_cuda_workspace(&a, host)}, aoti_torch_dtype_uint8());
    a.workspace = workspace.data_ptr();
    const int32_t status = avflow_attention_cuda(&a, host, avflow::current_stream(device));
    avflow::check_launch(status, "attention", device);
    return call.result();
}

}  // namespace

void avflow::register_attention_cuda(Library& cuda) { cuda.impl("attention", TORCH_BOX(&attention)); }
