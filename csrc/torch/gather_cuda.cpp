// The gather operators on CUDA. Compiled only where there is an nvcc. Positions beyond x give zeros: to look at them
// here would wait for the device.
#include <torch/csrc/stable/accelerator.h>

#include "gather_op.h"
#include "registration.h"
#include "stream.h"

namespace {

using avflow::Tensor;

std::tuple<Tensor, Tensor> gather_rms_norm(const Tensor& x, const Tensor& weight, double eps, const Tensor& keep) {
    const int32_t device = x.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const avflow::GatherRmsNormCall call(x, weight, eps, keep);
    STD_TORCH_CHECK(call.args.dtype != AVFLOW_FLOAT32,
                    "x is float32: the CUDA kernel takes bfloat16 and float16; convert, or call on the CPU");
    const int32_t status = avflow_gather_rms_norm_cuda(&call.args, avflow::current_stream(device));
    avflow::check_launch(status, "gather_rms_norm", device);
    return {call.kept, call.normed};
}

Tensor compact(const Tensor& x, const Tensor& keep) {
    const int32_t device = x.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const avflow::CompactCall call(x, keep);
    avflow::check_launch(avflow_compact_cuda(&call.args, avflow::current_stream(device)), "compact", device);
    return call.out;
}

}  // namespace

void avflow::register_gather_cuda(Library& cuda) {
    cuda.impl("gather_rms_norm", TORCH_BOX(&gather_rms_norm));
    cuda.impl("compact", TORCH_BOX(&compact));
}
