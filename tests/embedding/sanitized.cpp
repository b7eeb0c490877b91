// Run under sanitizers (make sanitize): threads share a plan, make and destroy their own, and fail, on every path of
// the CPU. Buffers are of the exact sizes that avflow.h says, so that a step beyond is found. Prints how many went
// wrong.
#include <avflow/avflow.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <thread>
#include <vector>

namespace {

constexpr int32_t kTokens = 333, kHeads = 6, kKeyHeads = 2;
std::atomic<int> wrong{0};

void expect(bool right, const char* what) {
    if (right) return;
    ++wrong;
    std::fprintf(stderr, "%s: %s\n", what, avflow_last_error());
}

void pool(void*, int64_t n, void (*body)(void*, int64_t), void* arg) {
    std::vector<std::thread> threads;
    for (int64_t i = 1; i < n; ++i) threads.emplace_back(body, arg, i);
    body(arg, 0);
    for (auto& thread : threads) thread.join();
}

struct Free {
    void operator()(void* at) const { std::free(at); }
};

std::unique_ptr<void, Free> aligned(size_t bytes) {
    return std::unique_ptr<void, Free>(std::aligned_alloc(64, (bytes + 63) / 64 * 64));
}

struct Layout {
    std::vector<int32_t> order, group, item, stream, keep;
    std::vector<int32_t> parent{-1, 0, 0}, start{0, 150, 150};
    AvflowCut cuts[2]{};
    AvflowLayout is{};

    explicit Layout(bool keeps) {
        for (int32_t s = 0; s < 3; ++s) {
            for (int32_t i = s ? 150 : 0; i < (s ? 211 : kTokens - 2 * 61); ++i) {
                order.push_back(i), group.push_back(i / 40), item.push_back(i / 10), stream.push_back(s);
            }
        }
        for (int32_t i = 0; i < static_cast<int32_t>(order.size()); i += 2) keep.push_back(i);
        cuts[0].source = 2, cuts[0].target = 16, cuts[0].heads = AVFLOW_ALL, cuts[0].threshold = AVFLOW_EVERY_EDGE;
        cuts[1] = cuts[0];
        cuts[1].heads = 5, cuts[1].threshold = 1u << 31, cuts[1].streams = parent.data() + 1, cuts[1].n_streams = 1;
        is.size = sizeof is;
        is.rows = {static_cast<int64_t>(order.size()), order.data(), group.data(), item.data(), stream.data()};
        is.parent = parent.data(), is.start = start.data(), is.n_streams = 3;
        is.cuts = cuts, is.n_cuts = 2;
        if (!keeps) return;
        is.keep_rows = is.keep_keys = keep.data();
        is.n_keep_rows = is.n_keep_keys = static_cast<int64_t>(keep.size());
    }
};

void attend(const Layout& layout, const AvflowPlan* plan, int32_t depth, int32_t type, AvflowThreads threads) {
    AvflowPlanInfo info{};
    info.size = sizeof info;
    expect(avflow_plan_info(plan, &info) == AVFLOW_OK, "info");
    const size_t bytes = type == AVFLOW_F32 ? 4 : 2, n = layout.order.size();
    std::vector<char> q(n * kHeads * depth * bytes, 1), k(n * kKeyHeads * depth * bytes, 1), v = k;
    std::vector<char> out(info.rows * kHeads * depth * bytes);
    std::vector<float> lse(info.rows * kHeads), mass(lse.size() * info.groups);
    AvflowAttend call{};
    call.size = sizeof call;
    call.plan = plan;
    call.q = q.data(), call.k = k.data(), call.v = v.data(), call.out = out.data();
    call.lse = lse.data(), call.group_mass = mass.data();
    call.q_row = kHeads * depth, call.q_head = call.k_head = call.v_head = depth;
    call.k_row = call.v_row = kKeyHeads * depth;
    call.batch = 1, call.slots = static_cast<int32_t>(n);
    call.head_dim = depth, call.type = type, call.scale = 0.1f;
    call.threads = threads;
    expect(avflow_attend_workspace(&call, &call.workspace_bytes) == AVFLOW_OK, "workspace");
    const auto workspace = aligned(call.workspace_bytes);
    call.workspace = workspace.get();
    expect(avflow_attend(&call) == AVFLOW_OK, "attend");
    call.slots = -1;
    expect(avflow_attend(&call) == AVFLOW_INVALID, "slots -1");
}

void gather(int32_t type, AvflowThreads threads) {
    const size_t bytes = type == AVFLOW_F32 ? 4 : 2, n = 37, m = 20, width = 83;
    std::vector<char> x(n * width * bytes, 1), weight(width * bytes, 1), kept(m * width * bytes), normed = kept;
    std::vector<int32_t> keep(m, -1);
    for (size_t i = 1; i < m; ++i) keep[i] = static_cast<int32_t>(i * 36 / (m - 1));
    AvflowNorm norm{};
    norm.size = sizeof norm;
    norm.x = x.data(), norm.weight = weight.data(), norm.keep = keep.data();
    norm.kept = kept.data(), norm.normed = normed.data();
    norm.n = n, norm.m = m, norm.width = width, norm.x_row = width;
    norm.type = type, norm.threads = threads;
    expect(avflow_gather_norm(&norm) == AVFLOW_OK, "norm");
    AvflowCompaction compaction{};
    compaction.size = sizeof compaction;
    compaction.x = x.data(), compaction.keep = keep.data(), compaction.out = kept.data();
    compaction.batch = compaction.heads = 1, compaction.n = n, compaction.m = m;
    compaction.row_bytes = compaction.x_token = static_cast<int64_t>(width * bytes);
    compaction.threads = threads;
    expect(avflow_compact(&compaction) == AVFLOW_OK, "compact");
    keep[3] = static_cast<int32_t>(n);
    expect(avflow_compact(&compaction) == AVFLOW_INVALID, "keep beyond");
}

}  // namespace

int main() {
    for (const char* path : {"portable", "avx2", "avx512", "avx512_bf16", "amx", "neon_bf16"}) {
        if (avflow_force_cpu(path) != AVFLOW_OK) continue;
        const Layout all(false), some(true);
        AvflowPlan *shared = nullptr, *none = nullptr;
        AvflowThreads threads{};
        threads.run = pool, threads.workers = 3;
        expect(avflow_plan_create(&all.is, AVFLOW_CPU, kHeads, kKeyHeads, &threads, &shared) == AVFLOW_OK, "plan");
        std::vector<std::thread> users;
        for (int32_t user = 0; user < 3; ++user) {
            users.emplace_back([&, user] {
                for (const int32_t depth : {8, 24, 64}) {
                    AvflowPlan* own = nullptr;
                    const AvflowThreads mine = user ? threads : AvflowThreads{};
                    expect(avflow_plan_create(&some.is, AVFLOW_CPU, kHeads, kKeyHeads, &mine, &own) == AVFLOW_OK,
                           "own plan");
                    attend(all, shared, depth, user, mine);
                    attend(some, own, depth, user, mine);
                    gather(user, mine);
                    avflow_plan_destroy(own);
                }
            });
        }
        for (auto& user : users) user.join();
        avflow_plan_destroy(shared);
        expect(avflow_plan_create(&all.is, AVFLOW_CPU, 3, 2, nullptr, &none) == AVFLOW_INVALID && !none,
               "heads 3, kv 2");
        std::printf("%s: %d wrong\n", path, wrong.load());
    }
    return wrong != 0;
}
