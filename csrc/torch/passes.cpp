// The operators of the decoder's passes on the CPU.
#include "passes_op.h"
#include "registration.h"

namespace {

using avflow::Tensor;

template <typename Args>
void run(Args& args, void (*kernel)(const Args*)) {
    args.workers = static_cast<int32_t>(torch::stable::get_num_threads());
    args.parallel = avflow::parallel;
    kernel(&args);
}

Tensor rms_norm(const Tensor& x, const Tensor& weight, double eps) {
    avflow::RmsNormCall call(x, nullptr, weight, eps);
    run(call.args, avflow_gather_rms_norm_cpu);
    return call.normed;
}

std::tuple<Tensor, Tensor> add_rms_norm(const Tensor& x, const Tensor& residual, const Tensor& weight, double eps) {
    avflow::RmsNormCall call(x, &residual, weight, eps);
    run(call.args, avflow_gather_rms_norm_cpu);
    return {call.sum, call.normed};
}

std::tuple<Tensor, Tensor> rotary(const Tensor& q, const Tensor& k, const Tensor& cos, const Tensor& sin) {
    avflow::RotaryCall call(q, k, cos, sin);
    run(call.args, avflow_rotary_cpu);
    return {call.q_out, call.k_out};
}

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
    avflow::SiluMulCall call(gate, up);
    run(call.args, avflow_silu_mul_cpu);
    return call.out;
}

}  // namespace

void avflow::register_passes_cpu(Library& cpu) {
    cpu.impl("rms_norm", TORCH_BOX(&rms_norm));
    cpu.impl("add_rms_norm", TORCH_BOX(&add_rms_norm));
    cpu.impl("rotary", TORCH_BOX(&rotary));
    cpu.impl("silu_mul", TORCH_BOX(&silu_mul));
}
