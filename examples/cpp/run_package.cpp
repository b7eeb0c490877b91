// Runs a model that torch compiled ahead of time (AOTInductor) and that calls avflow's operators. No Python.
// `run_package libavflow_torch.so MODEL.pt2 INPUTS.pt`: INPUTS holds x0, x1, ... and the expected answer `want`, as
// torch.jit saves them. Prints the largest difference and the largest value.
#include <ATen/ATen.h>
#include <dlfcn.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/csrc/jit/serialization/import.h>

#include <cstdio>
#include <exception>
#include <string>
#include <vector>

int main(int argc, char** argv) {
    if (argc != 4) return std::fprintf(stderr, "usage: %s libavflow_torch.so MODEL.pt2 INPUTS.pt\n", argv[0]), 64;
    if (!dlopen(argv[1], RTLD_NOW)) {  // registers the operators, and stays
        return std::fprintf(stderr, "%s\n", dlerror()), 1;
    }
    try {
        const c10::InferenceMode no_gradients;
        torch::inductor::AOTIModelPackageLoader model(argv[2]);
        const auto inputs = torch::jit::load(argv[3]);
        std::vector<at::Tensor> given;
        for (int i = 0; inputs.hasattr("x" + std::to_string(i)); ++i) {
            given.push_back(inputs.attr("x" + std::to_string(i)).toTensor());
        }
        const at::Tensor want = inputs.attr("want").toTensor(), got = model.run(given).at(0);
        std::printf("%lld rows: largest difference %.2e, largest value %.2e\n", static_cast<long long>(got.size(0)),
                    (got - want).abs().max().item<double>(), want.abs().max().item<double>());
    } catch (const std::exception& error) {
        return std::fprintf(stderr, "%s\n", error.what()), 1;
    }
}
