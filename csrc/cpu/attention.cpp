// Cuts an attention call into tasks and runs them on the instruction set chosen at run time.
#include <algorithm>

#include "cpu/dispatch.h"
#include "cpu/tasks.h"
#include "kernels.h"

namespace avflow::cpu {
namespace {

// Below this many (row tile, kv head) pairs the keys are split too. The split depends on the shape alone, never on the
// number of workers, so results do not either.
constexpr int kFewUnits = 16;
constexpr int kSplitTasks = 32;
constexpr int kMinTilesPerSplit = 4;

// Packing pays from this many row tiles on, if they read the same tiles: a panel is written once and read by each. Rows
// of a batch that decode each read keys of their own, and then a panel would be a copy for nothing.
constexpr int kPackFrom = 3;
constexpr int kReadersToPack = 2;

int32_t live_tiles(const Problem& p, int32_t row_tile) {
    int32_t tiles = 0;
    for (int32_t s = p.span_begin[row_tile]; s < p.span_begin[row_tile + 1]; ++s) tiles += p.spans[s].count;
    return tiles;
}

void make_tasks(TaskPlan& plan) {
    const Header& h = *plan.p.header;
    const int32_t kv_heads = plan.a.kv_heads;
    const int64_t units = static_cast<int64_t>(h.row_tiles) * kv_heads;
    int32_t tiles_per_split = INT32_MAX;
    if (units < kFewUnits) {
        tiles_per_split = static_cast<int32_t>((h.total_tiles * kv_heads + kSplitTasks - 1) / kSplitTasks);
        tiles_per_split = static_cast<int32_t>(round_up(std::max(tiles_per_split, kMinTilesPerSplit), kBatch));
    }
    int32_t parts = 0;
    for (int32_t i = 0; i < h.row_tiles; ++i) {
        const int32_t row_tile = plan.p.tile_order[i], live = live_tiles(plan.p, row_tile);
        if (live <= tiles_per_split) {
            for (int32_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
                plan.tasks.push_back({row_tile, kv_head, 0, live, -1});
            }
            continue;
        }
        const int32_t splits =
            static_cast<int32_t>((static_cast<int64_t>(live) + tiles_per_split - 1) / tiles_per_split);
        for (int32_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
            plan.merges.push_back({row_tile, kv_head, parts + kv_head * splits, splits});
        }
        for (int32_t s = 0; s < splits; ++s) {  // the heads of one stretch of keys lie next to each other in memory
            for (int32_t kv_head = 0; kv_head < kv_heads; ++kv_head) {
                const int32_t end = std::min(live, (s + 1) * tiles_per_split);
                plan.tasks.push_back({row_tile, kv_head, s * tiles_per_split, end, parts + kv_head * splits + s});
            }
        }
        parts += kv_heads * splits;
    }
}

// Key tiles that some row tile reads.
std::vector<int32_t> tiles_in_use(const Problem& p) {
    std::vector<int32_t> change(p.header->key_tiles + 1, 0), live;
    for (int32_t s = 0; s < p.span_begin[p.header->row_tiles]; ++s) {
        ++change[p.spans[s].first];
        --change[p.spans[s].first + p.spans[s].count];
    }
    for (int32_t tile = 0, readers = 0; tile < p.header->key_tiles; ++tile) {
        readers += change[tile];
        if (readers) live.push_back(tile);
    }
    return live;
}

// Fills in the plan and returns the bytes of workspace it needs; with a workspace, also places everything in it.
int64_t make_plan(const AvflowAttention& a, TaskPlan& plan) {
    plan.a = a;
    plan.p = view(a.problem);
    const Header& h = *plan.p.header;
    plan.depth = a.head_dim;
    plan.width = static_cast<int>(round_up(a.head_dim, 16));
    plan.bf16 = isa_for(a.dtype).bf16;
    plan.deep = plan.bf16 ? static_cast<int>(round_up(a.head_dim, 32)) : a.head_dim;
    plan.groups = a.group_mass ? h.groups : 0;
    plan.tile_heads = static_cast<int64_t>(std::min(h.tile_rows, h.rows)) * (a.heads / a.kv_heads);
    plan.live = tiles_in_use(plan.p);
    plan.packed = h.row_tiles >= kPackFrom && h.total_tiles >= kReadersToPack * static_cast<int64_t>(plan.live.size());
    make_tasks(plan);
    int32_t parts = 0;
    for (const Merge& merge : plan.merges) parts += merge.parts;

    char* const base = static_cast<char*>(a.workspace);
    int64_t used = 0;
    const auto place = [&](int64_t bytes) {
        char* at = base + used;
        used += round_up(bytes, 64);
        return at;
    };
    plan.scratch = nullptr, plan.scratch_bytes = 0;
    plan.scratch_bytes = Scratch(plan, 0).bytes;
    plan.scratch = place(plan.scratch_bytes * a.workers);
    const int64_t panels = plan.packed ? static_cast<int64_t>(h.key_tiles) * a.kv_heads : 0;
    plan.panels = reinterpret_cast<float*>(place(panels * plan.panel_floats() * 4));
    plan.finite = reinterpret_cast<uint8_t*>(place(panels));
    plan.parts = reinterpret_cast<float*>(place(parts * plan.part_floats() * 4));
    return used;
}

}  // namespace
}  // namespace avflow::cpu

using namespace avflow::cpu;

extern "C" {

int32_t avflow_tile_rows(int32_t heads_per_kv_head) { return std::max(1, kTileHeads / heads_per_kv_head); }

int64_t avflow_attention_workspace(const AvflowAttention* problem) {
    TaskPlan plan;
    AvflowAttention a = *problem;
    a.workspace = nullptr;
    return make_plan(a, plan);
}

void avflow_attention_cpu(const AvflowAttention* problem) {
    TaskPlan plan;
    make_plan(*problem, plan);
    const Isa& path = isa_for(plan.a.dtype);
    if (plan.packed) {
        const int32_t kv_heads = plan.a.kv_heads;
        for_each(plan.a, static_cast<int64_t>(plan.live.size()) * kv_heads, [&](int64_t i, int64_t) {
            path.pack_tile(plan, static_cast<int64_t>(plan.live[i / kv_heads]) * kv_heads + i % kv_heads);
        });
    }
    for_each(plan.a, static_cast<int64_t>(plan.tasks.size()),
             [&](int64_t i, int64_t worker) { path.attend(plan, i, worker); });
    for_each(plan.a, static_cast<int64_t>(plan.merges.size()),
             [&](int64_t i, int64_t worker) { path.merge(plan, i, worker); });
}

}  // extern "C"
