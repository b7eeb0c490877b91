// The operators of the decoder's passes on CUDA. Compiled only where there is an nvcc.
#include <torch/csrc/stable/accelerator.h>

#include "passes_op.h"
#include "registration.h"
#include "stream.h"

namespace {

using avflow::Tensor;

template <typename Args>
void run(const char* op, int32_t device, const Args& args, int32_t (*kernel)(const Args*, void*)) {
    STD_TORCH_CHECK(args.dtype != AVFLOW_FLOAT32, "tensors are float32: the CUDA kernel of ", op,
                    " takes bfloat16 and float16; convert, or call on the CPU");
    avflow::check_launch(kernel(&args, avflow::current_stream(device)), op, device);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
    const int32_t device = x.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const avflow::RmsNormCall call(x, nullptr, weight, eps);
    run("rms_norm", device, call.args, avflow_gather_rms_norm_cuda);
    return call.normed;
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps) {
    const int32_t device = x.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const avflow::RmsNormCall call(x, &residual, weight, eps);
    run("add_rms_norm", device, call.args, avflow_gather_rms_norm_cuda);
    return {call.sum, call.normed};
}

std::tuple<Tensor, Tensor> rotary(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin) {
    const int32_t device = q.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const avflow::RotaryCall call(q, k, cos, sin);
    run("rotary", device, call.args, avflow_rotary_cuda);
    return {call.q_out, call.k_out};
}

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
    const int32_t device = gate.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const avflow::SiluMulCall call(gate, up);
    run("silu_mul", device, call.args, avflow_silu_mul_cuda);
    return call.out;
}

}  // namespace

void avflow::register_passes_cuda(Library& cuda) {
    cuda.impl("rms_norm", TORCH_BOX(&rms_norm));
    cuda.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
    cuda.impl("rotary", TORCH_BOX(&rotary));
    cuda.impl("silu_mul", TORCH_BOX(&silu_mul));
}
