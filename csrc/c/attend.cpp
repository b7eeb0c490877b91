// Attention behind the C interface: checks, and the struct that the kernels take.
#include <avflow/avflow.h>

#include <cmath>
#include <cstdint>

#include "c/cuda.h"
#include "c/plan.h"
#include "c/status.h"
#include "c/threads.h"
#include "core/orders.h"
#include "cuda/call.h"  // what the CUDA kernels accept; host code that every build has
#include "kernels.h"

using namespace avflow;
using namespace avflow::c;

namespace {

struct Checked {
    AvflowAttend call;
    AvflowAttention args{};

    const AvflowPlan& plan() const { return *call.plan; }
    const Header& header() const { return call.plan->header(); }
    bool on_cpu() const { return call.plan->kernel == AVFLOW_CPU; }
};

Checked checked(const AvflowAttend* given) {
    Checked to{read(given, "AvflowAttend")};
    const AvflowAttend& call = to.call;
    AVFLOW_REQUIRE(call.plan, "AvflowAttend.plan is null");
    AVFLOW_REQUIRE(call.plan->words.size() >= sizeof(Header) / 4 && to.header().magic == kMagic,
                   "AvflowAttend.plan is no plan: make it with avflow_plan_create, and destroy it last");
    const Header& h = to.header();
    AVFLOW_REQUIRE(call.type == AVFLOW_F32 || call.type == AVFLOW_BF16 || call.type == AVFLOW_F16,
                   "type = %d: pass AVFLOW_F32, AVFLOW_BF16 or AVFLOW_F16", call.type);
    AVFLOW_REQUIRE(call.head_dim > 0 && call.head_dim % 8 == 0 && call.head_dim <= 256,
                   "head_dim %d: multiples of 8 up to 256 are supported", call.head_dim);
    AVFLOW_REQUIRE(call.batch > 0 && h.k_rows % call.batch == 0,
                   "batch = %d: the plan's %d keys must be that many batches of one capacity", call.batch, h.k_rows);
    AVFLOW_REQUIRE(0 <= call.slots && call.slots <= h.k_rows / call.batch,
                   "slots = %d: the plan has %d for each of %d batches", call.slots, h.k_rows / call.batch, call.batch);
    AVFLOW_REQUIRE((call.row_order != nullptr) == (h.order_range != 0),
                   "row_order belongs to a plan with latest_order, and only to one");
    AVFLOW_REQUIRE(std::isfinite(call.scale), "scale = %g: pass a finite number", static_cast<double>(call.scale));

    AvflowAttention& a = to.args;
    a.q = call.q, a.k = call.k, a.v = call.v, a.out = call.out;
    a.lse = call.lse, a.group_mass = call.group_mass;
    a.row_order = call.row_order;
    a.q_row = call.q_row, a.q_head = call.q_head;
    a.k_batch = call.k_batch, a.k_row = call.k_row, a.k_head = call.k_head;
    a.v_batch = call.v_batch, a.v_row = call.v_row, a.v_head = call.v_head;
    a.capacity = std::max(h.k_rows / call.batch, 1), a.slots = call.slots;
    a.heads = call.plan->heads, a.kv_heads = call.plan->kv_heads, a.head_dim = call.head_dim;
    a.dtype = call.type;
    a.scale = call.scale;
    a.workspace = call.workspace;
    a.problem = to.on_cpu() ? call.plan->words.data() : call.plan_on_device;
    hand_over(call.threads, a);
    return to;
}

void check_cuda(const Checked& to) {
    require_cuda();
    if (to.call.type == AVFLOW_F32) {
        fail(AVFLOW_UNSUPPORTED,
             "q, k and v are float32: the CUDA kernels take bfloat16 and float16; convert, or plan for AVFLOW_CPU");
    }
    if (to.call.head_dim != 64 && to.call.head_dim != 128) {
        fail(AVFLOW_UNSUPPORTED,
             "head_dim %d: the CUDA kernels have 64 and 128; pad q, k and v with zeros, or plan for AVFLOW_CPU",
             to.call.head_dim);
    }
}

int64_t workspace_of(const Checked& to) {
    if (!to.on_cpu()) check_cuda(to);
    if (to.header().rows == 0) return 0;
    return to.on_cpu() ? avflow_attention_workspace(&to.args) : cuda_workspace(to.args, to.plan().words.data());
}

}  // namespace

AvflowStatus avflow_attend_workspace(const AvflowAttend* call, size_t* bytes) {
    return guarded([&] {
        AVFLOW_REQUIRE(bytes, "bytes is null: it receives the size");
        *bytes = static_cast<size_t>(workspace_of(checked(call)));
    });
}

AvflowStatus avflow_attend(const AvflowAttend* given) {
    return guarded([&] {
        const Checked to = checked(given);
        const AvflowAttend& call = to.call;
        const Header& h = to.header();
        const auto needed = static_cast<size_t>(workspace_of(to));
        if (h.rows == 0) return;
        AVFLOW_REQUIRE(call.q && call.out, "q or out is null");
        AVFLOW_REQUIRE((call.k && call.v) || h.keys == 0 || call.slots == 0, "k or v is null");
        AVFLOW_REQUIRE(call.workspace_bytes >= needed, "workspace_bytes = %zu: avflow_attend_workspace says %zu",
                       call.workspace_bytes, needed);
        const size_t aligned = to.on_cpu() ? 64 : 256;
        AVFLOW_REQUIRE(!needed || (call.workspace && reinterpret_cast<uintptr_t>(call.workspace) % aligned == 0),
                       "workspace is %p: it must begin at a multiple of %zu bytes", call.workspace, aligned);
        if (to.on_cpu()) {
            const int32_t wrong = call.row_order ? first_order_outside(view(to.args.problem), call.row_order) : -1;
            AVFLOW_REQUIRE(wrong < 0,
                           "row_order[%d] = %d: the plan was made for %d .. %d; pass an order of these, or make a plan "
                           "for later ones",
                           wrong, call.row_order[wrong], view(to.args.problem).rows[wrong].order, h.latest_order);
            avflow_attention_cpu(&to.args);
            return;
        }
        AVFLOW_REQUIRE(call.plan_on_device && reinterpret_cast<uintptr_t>(call.plan_on_device) % 16 == 0,
                       "plan_on_device is %p: pass AvflowPlanInfo.data in device memory, 16-byte aligned",
                       static_cast<const void*>(call.plan_on_device));
        AVFLOW_REQUIRE(cuda::accepts(to.args, h),
                       "the CUDA kernels read 16 bytes at a time: q, k, v and out must begin at multiples of 16 bytes, "
                       "strides be multiples of 8 elements");
        launch(to.args, to.plan().words.data(), call.stream);
    });
}
