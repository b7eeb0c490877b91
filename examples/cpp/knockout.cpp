// An attention knockout from C++11, on the CPU with threads of its own. No torch, no Python.
// A prompt of video tokens, then a question: with the cut, the question's rows cannot see the video.
// `knockout THREADS` prints what share of the last row's attention goes to the video, without and with the cut.
#include <avflow/avflow.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

constexpr int32_t kVideo = 1, kQuestion = 2, kHeads = 8, kKeyHeads = 2, kDepth = 64;

void require(AvflowStatus status) {
    if (status == AVFLOW_OK) return;
    std::fprintf(stderr, "avflow: status %d: %s\n", static_cast<int>(status), avflow_last_error());
    std::exit(1);
}

// A pool would keep its threads; this one shows what is asked of it.
void run(void*, int64_t n, void (*body)(void*, int64_t), void* arg) {
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < n; ++i) threads.emplace_back(body, arg, i);
    body(arg, 0);
    for (auto& thread : threads) thread.join();
}

struct Tensors {
    std::vector<float> q, k, v, out, mass;
};

// The share of the last row's attention, over all heads, that the video received.
float share_of_video(const AvflowLayout& layout, int64_t rows, Tensors& t, const AvflowThreads& threads) {
    AvflowPlan* plan = nullptr;  // made once for a layer, shared by its calls
    require(avflow_plan_create(&layout, AVFLOW_CPU, kHeads, kKeyHeads, &threads, &plan));

    AvflowAttend call = {};
    call.size = sizeof call;
    call.plan = plan;
    call.q = t.q.data(), call.k = t.k.data(), call.v = t.v.data();
    call.out = t.out.data();
    call.group_mass = t.mass.data();
    call.q_row = kHeads * kDepth, call.q_head = kDepth;
    call.k_row = call.v_row = kKeyHeads * kDepth, call.k_head = call.v_head = kDepth;
    call.batch = 1, call.slots = static_cast<int32_t>(rows);
    call.head_dim = kDepth;
    call.type = AVFLOW_F32;
    call.scale = 1.0f / std::sqrt(static_cast<float>(kDepth));
    call.threads = threads;
    require(avflow_attend_workspace(&call, &call.workspace_bytes));
    std::vector<char> workspace(call.workspace_bytes + 64);
    call.workspace = workspace.data() + (64 - reinterpret_cast<uintptr_t>(workspace.data()) % 64);
    require(avflow_attend(&call));
    avflow_plan_destroy(plan);

    const int32_t groups = layout.groups;
    float share = 0;
    for (int32_t head = 0; head < kHeads; ++head) share += t.mass[((rows - 1) * kHeads + head) * groups + kVideo];
    return share / kHeads;
}

}  // namespace

int main(int argc, char** argv) {
    const int64_t video = 500, question = 20, rows = video + question;
    AvflowThreads threads = {};
    if (argc > 1) {
        threads.run = run;
        threads.workers = std::atoi(argv[1]);
    }

    std::vector<int32_t> order(rows), group(rows);
    for (int64_t i = 0; i < rows; ++i) order[i] = static_cast<int32_t>(i), group[i] = i < video ? kVideo : kQuestion;
    AvflowLayout layout = {};
    layout.size = sizeof layout;
    layout.rows.n = rows, layout.rows.order = order.data(), layout.rows.group = group.data();
    layout.groups = kQuestion + 1;

    Tensors t;
    uint32_t state = 1;
    const auto fill = [&state](std::vector<float>& values, int64_t size) {
        values.resize(size);
        for (float& x : values) x = static_cast<float>((state = state * 1664525u + 1013904223u) >> 8) / (1 << 23) - 1;
    };
    fill(t.q, rows * kHeads * kDepth), fill(t.k, rows * kKeyHeads * kDepth), fill(t.v, rows * kKeyHeads * kDepth);
    t.out.resize(t.q.size()), t.mass.resize(rows * kHeads * layout.groups);

    const float seen = share_of_video(layout, rows, t, threads);
    AvflowCut cut = {};
    cut.source = uint64_t(1) << kVideo;
    cut.target = uint64_t(1) << kQuestion;
    cut.heads = AVFLOW_ALL;
    cut.threshold = AVFLOW_EVERY_EDGE;
    layout.cuts = &cut, layout.n_cuts = 1;
    const float hidden = share_of_video(layout, rows, t, threads);

    AvflowCapabilities can = {};
    can.size = sizeof can;
    require(avflow_capabilities(&can));
    std::printf("libavflow %x on %s: the question's last row gives the video %.4f of its attention; cut, %.4f\n",
                static_cast<unsigned>(avflow_version()), can.cpu, seen, hidden);
    return seen > 0.9f && hidden == 0.0f ? 0 : 2;
}
