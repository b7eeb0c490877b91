// The decoder's passes between its matrix products: rotary embedding, and SiLU times a product.
#include <algorithm>

#include "cpu/dispatch.h"
#include "kernels.h"

namespace {

constexpr int64_t kRows = 16;  // one worker at a time

template <typename Call>
void by_rows(const Call& call, void (*run)(const Call&, int64_t, int64_t)) {
    avflow::cpu::for_each(call, (call.rows + kRows - 1) / kRows,
                          [&](int64_t i, int64_t) { run(call, i * kRows, std::min(call.rows, (i + 1) * kRows)); });
}

}  // namespace

extern "C" {

void avflow_rotary_cpu(const AvflowRotary* call) { by_rows(*call, avflow::cpu::isa().rotary); }

void avflow_silu_mul_cpu(const AvflowSiluMul* call) { by_rows(*call, avflow::cpu::isa().silu_mul); }

}  // extern "C"
