// The gather operators on the CPU.
#include "gather_op.h"
#include "registration.h"

namespace {

using avflow::Tensor;

void check_range(const Tensor& keep, int64_t n) {
    const int32_t* at = keep.const_data_ptr<int32_t>();
    for (int64_t i = 0; i < keep.numel(); ++i) {
        if (at[i] < -1 || at[i] >= n) {
            avflow::refuse("keep holds ", at[i], ", there are ", n,
                           " tokens: pass positions of these, or -1 for padding");
        }
    }
}

std::tuple<Tensor, Tensor> gather_rms_norm(const Tensor& x, const Tensor& weight, double eps, const Tensor& keep) {
    avflow::GatherRmsNormCall call(x, weight, eps, keep);
    check_range(call.keep, x.size(0));
    call.args.workers = static_cast<int32_t>(torch::stable::get_num_threads());
    call.args.parallel = avflow::parallel;
    avflow_gather_rms_norm_cpu(&call.args);
    return {call.kept, call.normed};
}

Tensor compact(const Tensor& x, const Tensor& keep) {
    avflow::CompactCall call(x, keep);
    check_range(call.keep, x.size(2));
    call.args.workers = static_cast<int32_t>(torch::stable::get_num_threads());
    call.args.parallel = avflow::parallel;
    avflow_compact_cpu(&call.args);
    return call.out;
}

}  // namespace

void avflow::register_gather_cpu(Library& cpu) {
    cpu.impl("gather_rms_norm", TORCH_BOX(&gather_rms_norm));
    cpu.impl("compact", TORCH_BOX(&compact));
}
