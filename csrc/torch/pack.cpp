// Packing as an operator, so that a graph holds it: tokens go in, the problem is made where the graph runs.
#include <avflow/avflow.h>
#include <torch/csrc/stable/library.h>

#include <cstring>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "registration.h"
#include "tensors.h"

namespace {

using avflow::ScalarType;
using avflow::Tensor;

// The columns of [n, count], or of one more, each by itself: what C takes.
std::vector<std::vector<int32_t>> columns(const char* name, const Tensor& any, int64_t count, bool one_more = false) {
    const bool known = any.is_cpu() && any.scalar_type() == ScalarType::Int && any.dim() == 2 &&
                       (any.size(1) == count || (one_more && any.size(1) == count + 1));
    STD_TORCH_CHECK(known, name, " must be int32 [n, ", count, "] on the CPU",
                    one_more ? ", or [n, 5] with blocks in the end" : "");
    const Tensor t = avflow::whole(any);
    const int32_t* from = t.const_data_ptr<int32_t>();
    const int64_t width = t.size(1);
    std::vector<std::vector<int32_t>> out(width, std::vector<int32_t>(t.size(0)));
    for (int64_t i = 0; i < t.size(0); ++i) {
        for (int64_t c = 0; c < width; ++c) out[c][i] = from[i * width + c];
    }
    return out;
}

AvflowTokens tokens_of(const std::vector<std::vector<int32_t>>& c) {
    return {static_cast<int64_t>(c[0].size()), c[0].data(), c[1].data(), c[2].data(), c[3].data()};
}

// Kept alive as long as the layout that points to it. An empty list is a list: its pointer is not null.
std::vector<int32_t> positions(const char* name, const Tensor& any) {
    STD_TORCH_CHECK(any.is_cpu() && any.scalar_type() == ScalarType::Int && any.dim() == 1, name,
                    " must be int32 [m] on the CPU");
    const Tensor t = avflow::whole(any);
    std::vector<int32_t> out;
    out.reserve(t.size(0) + 1);
    out.assign(t.const_data_ptr<int32_t>(), t.const_data_ptr<int32_t>() + t.size(0));
    return out;
}

struct Cuts {
    std::vector<std::vector<int32_t>> streams;  // of each cut
    std::vector<AvflowCut> rules;

    Cuts(const Tensor& any, const Tensor& pairs) {
        STD_TORCH_CHECK(any.is_cpu() && any.scalar_type() == ScalarType::Long && any.dim() == 2 && any.size(1) == 8,
                        "cuts must be int64 [cuts, 8] on the CPU, as avflow_ext.cut_columns returns them");
        const Tensor t = avflow::whole(any);
        const auto of = columns("cut_streams", pairs, 2);
        streams.resize(t.size(0));
        for (auto& list : streams) list.reserve(of[0].size() + 1);
        for (size_t i = 0; i < of[0].size(); ++i) {
            if (of[0][i] < 0 || of[0][i] >= t.size(0)) {
                avflow::refuse("cut_streams[", i, "] names cut ", of[0][i], ": there are ", t.size(0));
            }
            streams[of[0][i]].push_back(of[1][i]);
        }
        for (int64_t i = 0; i < t.size(0); ++i) {
            const int64_t* c = t.const_data_ptr<int64_t>() + 8 * i;
            AvflowCut rule{};
            rule.source = static_cast<uint64_t>(c[0]);
            rule.target = static_cast<uint64_t>(c[1]);
            rule.heads = static_cast<uint64_t>(c[2]);
            rule.threshold = static_cast<uint64_t>(c[3]);
            rule.seed = static_cast<uint32_t>(c[4]);
            rule.other_items = c[5] != 0, rule.cut_self = c[6] != 0;
            if (c[7]) rule.streams = streams[i].data(), rule.n_streams = static_cast<int64_t>(streams[i].size());
            rules.push_back(rule);
        }
    }
};

int32_t kernel_named(const std::string& name) {
    if (name == "cpu") return AVFLOW_CPU;
    if (name == "cuda") return AVFLOW_CUDA;
    if (name == "hopper") return AVFLOW_CUDA_SM90A;
    avflow::refuse("no kernel named ", name, ": cpu, cuda and hopper are known");
}

Tensor pack(const Tensor& rows, const Tensor& cuts, const Tensor& cut_streams, int64_t heads, int64_t kv_heads,
            const std::optional<Tensor>& keys, const std::optional<Tensor>& streams,
            const std::optional<Tensor>& keep_rows, const std::optional<Tensor>& keep_keys, int64_t groups, bool zero,
            const std::optional<int64_t>& latest_order, const std::string& kernel, int64_t window,
            bool window_in_blocks) {
    AvflowLayout layout{};
    layout.size = sizeof layout;
    const auto row_columns = columns("rows", rows, 4, true);
    layout.rows = tokens_of(row_columns);
    if (row_columns.size() == 5) layout.row_block = row_columns[4].data();
    std::vector<std::vector<int32_t>> key_columns, stream_columns;
    std::vector<int32_t> kept_rows, kept_keys;
    if (keys) {
        key_columns = columns("keys", *keys, 4, true);
        for (auto& column : key_columns) column.reserve(1);
        layout.keys = tokens_of(key_columns);
        if (key_columns.size() == 5) layout.key_block = key_columns[4].data();
    }
    if (streams) {
        stream_columns = columns("streams", *streams, 2);
        layout.parent = stream_columns[0].data(), layout.start = stream_columns[1].data();
        layout.n_streams = static_cast<int64_t>(stream_columns[0].size());
        if (!layout.n_streams) layout.n_streams = -1;  // 0 would mean: as many as the tokens name
    }
    if (keep_rows) {
        kept_rows = positions("keep_rows", *keep_rows);
        layout.keep_rows = kept_rows.data(), layout.n_keep_rows = static_cast<int64_t>(kept_rows.size());
    }
    if (keep_keys) {
        kept_keys = positions("keep_keys", *keep_keys);
        layout.keep_keys = kept_keys.data(), layout.n_keep_keys = static_cast<int64_t>(kept_keys.size());
    }
    const Cuts of(cuts, cut_streams);
    layout.cuts = of.rules.data(), layout.n_cuts = static_cast<int64_t>(of.rules.size());
    if (groups < 0 || groups > 64) avflow::refuse("groups = ", groups, ": 0 (as many as the keys have) .. 64");
    layout.groups = static_cast<int32_t>(groups);
    layout.zero = zero;
    int32_t latest = 0;
    if (latest_order) {
        latest = static_cast<int32_t>(*latest_order);
        if (latest != *latest_order) avflow::refuse("latest_order = ", *latest_order, ": it must fit in int32");
        layout.latest_order = &latest;
    }
    layout.window = static_cast<int32_t>(window);
    if (layout.window != window) avflow::refuse("window = ", window, ": it must fit in int32");
    layout.window_in_blocks = window_in_blocks;
    if (heads > 64 || kv_heads > heads) avflow::refuse(heads, " query heads over ", kv_heads, " kv heads: 64 at most");

    const AvflowThreads threads = {avflow::parallel, nullptr, static_cast<int32_t>(torch::stable::get_num_threads())};
    AvflowPlan* made = nullptr;
    if (avflow_plan_create(&layout, kernel_named(kernel), static_cast<int32_t>(heads), static_cast<int32_t>(kv_heads),
                           &threads, &made)) {
        avflow::refuse(avflow_last_error());
    }
    const std::unique_ptr<AvflowPlan, void (*)(AvflowPlan*)> plan(made, avflow_plan_destroy);
    AvflowPlanInfo info{};
    info.size = sizeof info;
    avflow_plan_info(made, &info);
    Tensor words = avflow::empty_beside(rows, {info.words}, aoti_torch_dtype_int32());
    std::memcpy(words.data_ptr(), info.data, info.words * sizeof(int32_t));
    return words;
}

}  // namespace

void avflow::register_pack(Library& cpu) { cpu.impl("pack", TORCH_BOX(&pack)); }
