// The CUDA kernels behind the C interface. In a build without CUDA each of these fails with AVFLOW_UNSUPPORTED.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace avflow::c {

void require_cuda();
bool has_sm90a();
int64_t cuda_workspace(const AvflowAttention& args, const int32_t* plan_on_host);
void launch(const AvflowAttention& args, const int32_t* plan_on_host, void* stream);
void launch(const AvflowGatherRmsNorm& args, void* stream);
void launch(const AvflowCompact& args, void* stream);
// For avflow_choose_kernel.
int32_t kernel_for(int32_t device, int64_t rows_and_heads);

// Packed rows (rows x query heads of a kv head) from which large tiles are planned, whatever streams they belong to,
// for the kernel of sm_90a and for the tall one: where streams are known the former begins earlier, see
// avflow_ext/device.py.
constexpr int64_t kHopperRows = 8192, kTallRows = 16384;

}  // namespace avflow::c
