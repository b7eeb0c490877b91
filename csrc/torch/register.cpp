// Registers the operators of library `avflow` through torch's stable ABI (torch >= 2.11), when libavflow_torch is
// loaded.
#include <cstdio>

#include "registration.h"

namespace avflow {
namespace {

// `problem` always lies on the CPU: what decides the launch is read from it without asking the device. A device kernel
// reads the copy in `problem_on_device`, which Python uploads once, so that a captured call copies nothing.
constexpr const char* kSchemas[] = {
    "attention(Tensor q, Tensor k, Tensor v, Tensor problem, float scale, SymInt rows, int groups, bool return_lse,"
    " Tensor? problem_on_device=None, Tensor? row_order=None) -> (Tensor, Tensor, Tensor)",
    "gather_rms_norm(Tensor x, Tensor weight, float eps, Tensor keep) -> (Tensor, Tensor)",
    "compact(Tensor x, Tensor keep) -> Tensor",
    "rms_norm(Tensor x, Tensor weight, float eps) -> Tensor",
    "add_rms_norm(Tensor x, Tensor residual, Tensor weight, float eps) -> (Tensor, Tensor)",
    "rotary(Tensor q, Tensor k, Tensor cos, Tensor sin) -> (Tensor, Tensor)",
    "silu_mul(Tensor gate, Tensor up) -> Tensor",
    // Not `kernel`: inductor has an argument of that name in the way of any operator's.
    "pack(Tensor rows, Tensor cuts, Tensor cut_streams, int heads, int kv_heads, *, Tensor? keys=None,"
    " Tensor? streams=None, Tensor? keep_rows=None, Tensor? keep_keys=None, int groups=0, bool zero=False,"
    " SymInt? latest_order=None, str device_type=\"cpu\", SymInt window=0, bool window_in_blocks=False) -> Tensor",
};

// Kernels of one kind of device. Never destroyed: what is registered stays, as the library does (-z nodelete).
Library& kernels_for(const char* device) {
    return *new Library(Library::Kind::IMPL, "avflow", device, __FILE__, __LINE__);
}

// Not STABLE_TORCH_LIBRARY: that goes on with a handle that was never made where the operators are registered already,
// by another build of avflow in this process, and the process dies.
bool register_operators() {
    TorchLibraryHandle library = nullptr;
    if (aoti_torch_library_init_def("avflow", __FILE__, __LINE__, &library) != AOTI_TORCH_SUCCESS) {
        std::fputs(
            "avflow: the operators avflow::* are registered in this process already, by another build of "
            "libavflow_torch.so; those stay, and this one registers nothing: load one of them only\n",
            stderr);
        return false;
    }
    for (const char* schema : kSchemas) aoti_torch_library_def(library, schema);
    Library& cpu = kernels_for("CPU");
    register_attention_cpu(cpu);
    register_gather_cpu(cpu);
    register_passes_cpu(cpu);
    register_pack(cpu);
#ifdef AVFLOW_HAVE_CUDA
    Library& cuda = kernels_for("CUDA");
    register_attention_cuda(cuda);
    register_gather_cuda(cuda);
    register_passes_cuda(cuda);
#endif
    return true;
}

[[maybe_unused]] const bool registered = register_operators();

}  // namespace
}  // namespace avflow
