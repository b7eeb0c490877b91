// What register.cpp calls, once, when the library is loaded: each file says which kernels are its own.
#pragma once

#include <torch/csrc/stable/library.h>

namespace avflow {

using Library = torch::stable::detail::StableLibrary;

void register_attention_cpu(Library& cpu);
void register_gather_cpu(Library& cpu);
void register_passes_cpu(Library& cpu);
void register_pack(Library& cpu);
void register_attention_cuda(Library& cuda);
void register_gather_cuda(Library& cuda);
void register_passes_cuda(Library& cuda);

}  // namespace avflow
