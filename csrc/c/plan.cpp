// Plans from plain columns: everything is checked here, in the words of avflow_ext/problem.py and tokens.py.
#include "c/plan.h"

#include <climits>
#include <memory>
#include <optional>

#include "c/status.h"
#include "c/threads.h"
#include "core/plan.h"
#include "cuda/call.h"  // tile heights; host code that every build has

using namespace avflow;
using namespace avflow::c;

namespace {

constexpr int64_t kMostImpliedStreams = 1 << 20;  // of a layout without streams and with fewer tokens

void check_columns(const AvflowTokens& tokens, const char* name) {
    AVFLOW_REQUIRE(0 <= tokens.n && tokens.n <= INT32_MAX, "%s.n = %lld: the kernels count tokens in int32", name,
                   static_cast<long long>(tokens.n));
    AVFLOW_REQUIRE(!tokens.n || (tokens.order && tokens.group), "%s.order or %s.group is null", name, name);
}

void check_keep(const int32_t* keep, int64_t count, int64_t tokens, const char* name) {
    AVFLOW_REQUIRE(0 <= count && count <= INT32_MAX && (keep || !count), "n_%s = %lld, and %s is %s", name,
                   static_cast<long long>(count), name, keep ? "given" : "null");
    for (int64_t i = 0; i < count; ++i) {
        AVFLOW_REQUIRE(0 <= keep[i] && keep[i] < tokens, "%s[%lld] = %d: there are %lld tokens", name,
                       static_cast<long long>(i), keep[i], static_cast<long long>(tokens));
    }
}

// The tokens that take part.
std::vector<Token> gathered(const AvflowTokens& from, const int32_t* keep, int64_t kept, const char* name) {
    std::vector<Token> tokens(keep ? kept : from.n);
    for (size_t i = 0; i < tokens.size(); ++i) {
        const int64_t at = keep ? keep[i] : static_cast<int64_t>(i);
        const int32_t group = from.group[at], stream = from.stream ? from.stream[at] : 0;
        AVFLOW_REQUIRE(0 <= group && group < 64, "%s.group[%lld] = %d: groups are 0..63", name,
                       static_cast<long long>(at), group);
        AVFLOW_REQUIRE(stream >= -1, "%s.stream[%lld] = %d: streams count from 0, -1 is padding", name,
                       static_cast<long long>(at), stream);
        tokens[i] = {from.order[at], group, from.item ? from.item[at] : -1, stream};
    }
    return tokens;
}

// Of the tokens that take part; none where the column is null.
std::vector<int32_t> blocks_of(const int32_t* column, const AvflowTokens& from, const int32_t* keep, int64_t kept,
                               const char* name) {
    std::vector<int32_t> blocks(column ? (keep ? kept : from.n) : 0);
    for (size_t i = 0; i < blocks.size(); ++i) {
        const int64_t at = keep ? keep[i] : static_cast<int64_t>(i);
        AVFLOW_REQUIRE(column[at] >= -1, "%s[%lld] = %d: blocks count from 0, -1 is none", name,
                       static_cast<long long>(at), column[at]);
        blocks[i] = column[at];
    }
    return blocks;
}

void check_increasing(const std::vector<Token>& tokens, size_t streams, const char* name) {
    std::vector<int64_t> last(streams, INT64_MIN);
    for (size_t i = 0; i < tokens.size(); ++i) {
        const Token& token = tokens[i];
        if (token.stream < 0) continue;
        AVFLOW_REQUIRE(token.order > last[token.stream],
                       "%s: order must strictly increase within a stream; token %zu (stream %d) has order %d", name, i,
                       token.stream, token.order);
        last[token.stream] = token.order;
    }
}

std::vector<Stream> streams_of(const AvflowLayout& from, const Layout& in) {
    int64_t top = -1;
    for (const auto* side : {&in.rows, &in.keys}) {
        for (const Token& token : *side) top = std::max<int64_t>(top, token.stream);
    }
    const int64_t most = std::max(kMostImpliedStreams, from.rows.n + from.keys.n);
    AVFLOW_REQUIRE(
        from.n_streams || top < most,
        "a token belongs to stream %lld: without n_streams, each up to the largest is a root of its own, and "
        "%lld are the most here; number the streams from 0, or say how many there are",
        static_cast<long long>(top), static_cast<long long>(most));
    AVFLOW_REQUIRE(from.n_streams || (!from.parent && !from.start), "parent and start are given, and n_streams is 0");
    const int64_t count = from.n_streams ? from.n_streams : std::max<int64_t>(top + 1, 1);
    AVFLOW_REQUIRE(0 < count && count <= INT32_MAX, "n_streams = %lld", static_cast<long long>(from.n_streams));
    AVFLOW_REQUIRE(top < count, "a token belongs to stream %lld, but only %lld streams are given",
                   static_cast<long long>(top), static_cast<long long>(count));
    std::vector<Stream> streams(count, Stream{-1, 0});
    for (int64_t s = 0; from.parent && s < count; ++s) {
        const int32_t parent = from.parent[s];
        AVFLOW_REQUIRE(-1 <= parent && parent < count, "parent[%lld] = %d: it must lie in -1..%lld",
                       static_cast<long long>(s), parent, static_cast<long long>(count - 1));
        if (parent < 0) continue;
        AVFLOW_REQUIRE(from.parent[parent] < 0,
                       "parent[%lld] = %d, which has a parent itself: the parent of a stream must be a root, streams "
                       "are one level deep",
                       static_cast<long long>(s), parent);
        AVFLOW_REQUIRE(from.start, "stream %lld has a parent, and start is null", static_cast<long long>(s));
        AVFLOW_REQUIRE(from.start[s] != INT32_MIN,
                       "start[%lld] = -2147483648: no order is smaller, so such a stream has nothing of its parent; "
                       "start it later, or make it a root (parent -1)",
                       static_cast<long long>(s));
        streams[s] = {parent, from.start[s]};
    }
    return streams;
}

void add_cut(Layout& in, const AvflowCut& cut, int64_t number) {
    const auto at = static_cast<long long>(number);
    const auto streams = static_cast<int64_t>(in.streams.size());
    AVFLOW_REQUIRE(cut.threshold <= kAllEdges, "cuts[%lld].threshold is above AVFLOW_EVERY_EDGE", at);
    AVFLOW_REQUIRE(cut.n_streams >= 0 && (cut.streams || !cut.n_streams), "cuts[%lld].n_streams = %lld", at,
                   static_cast<long long>(cut.n_streams));
    in.cuts.push_back(
        {cut.source, cut.target, cut.heads, cut.threshold, cut.seed, cut.other_items != 0, cut.cut_self != 0, 0});
    for (int64_t i = 0; i < (cut.streams ? cut.n_streams : streams); ++i) {
        const int64_t stream = cut.streams ? cut.streams[i] : i;
        AVFLOW_REQUIRE(0 <= stream && stream < streams, "cuts[%lld].streams[%lld] = %lld: there are %lld streams", at,
                       static_cast<long long>(i), static_cast<long long>(stream), static_cast<long long>(streams));
        in.stream_cuts[stream].push_back(static_cast<int32_t>(number));
    }
}

int32_t tile_rows(int32_t kernel, int32_t heads_per_kv_head) {
    switch (kernel) {
        case AVFLOW_CPU: return avflow_tile_rows(heads_per_kv_head);
        case AVFLOW_CUDA: return cuda::tile_rows(heads_per_kv_head);
        case AVFLOW_CUDA_SM90A: return cuda::wide_tile_rows(heads_per_kv_head);
        default: fail(AVFLOW_INVALID, "no kernel %d: pass AVFLOW_CPU, AVFLOW_CUDA or AVFLOW_CUDA_SM90A", kernel);
    }
}

Layout layout_of(const AvflowLayout& from) {
    const bool shared = !from.keys.order && !from.keys.n;
    const AvflowTokens& keys = shared ? from.rows : from.keys;
    check_columns(from.rows, "rows");
    check_columns(keys, "keys");
    check_keep(from.keep_rows, from.n_keep_rows, from.rows.n, "keep_rows");
    check_keep(from.keep_keys, from.n_keep_keys, keys.n, "keep_keys");

    Layout in;
    in.rows = gathered(from.rows, from.keep_rows, from.n_keep_rows, "rows");
    in.keys = gathered(keys, from.keep_keys, from.n_keep_keys, "keys");
    in.streams = streams_of(from, in);
    check_increasing(in.rows, in.streams.size(), "rows");
    check_increasing(in.keys, in.streams.size(), "keys");
    in.stream_cuts.resize(in.streams.size());
    AVFLOW_REQUIRE(0 <= from.n_cuts && from.n_cuts <= INT32_MAX && (from.cuts || !from.n_cuts), "n_cuts = %lld",
                   static_cast<long long>(from.n_cuts));
    for (int64_t i = 0; i < from.n_cuts; ++i) add_cut(in, from.cuts[i], i);
    in.keeps_rows = from.keep_rows != nullptr;
    in.keeps_keys = from.keep_keys != nullptr;
    if (in.keeps_rows) in.keep_rows.assign(from.keep_rows, from.keep_rows + from.n_keep_rows);
    if (in.keeps_keys) in.keep_keys.assign(from.keep_keys, from.keep_keys + from.n_keep_keys);
    in.q_rows = static_cast<int32_t>(from.rows.n);
    in.k_rows = static_cast<int32_t>(keys.n);

    int32_t seen = 1;
    for (const Token& key : in.keys) seen = std::max(seen, key.group + 1);
    in.groups = from.groups ? from.groups : seen;
    AVFLOW_REQUIRE(seen <= in.groups && in.groups <= 64,
                   "groups = %d: pass %d .. 64, more than the keys' largest group", from.groups, seen);
    in.zero = from.zero != 0;
    const int32_t* key_block = shared && !from.key_block ? from.row_block : from.key_block;
    in.row_blocks = blocks_of(from.row_block, from.rows, from.keep_rows, from.n_keep_rows, "row_block");
    in.key_blocks = blocks_of(key_block, keys, from.keep_keys, from.n_keep_keys, "key_block");
    AVFLOW_REQUIRE(from.window >= 0, "window = %d: pass a number of orders, 0 for no window", from.window);
    in.window = from.window;
    in.window_in_blocks = from.window_in_blocks != 0;
    if (from.latest_order) {
        in.latest_order = *from.latest_order;
        for (const Token& row : in.rows) {
            AVFLOW_REQUIRE(row.order <= *in.latest_order,
                           "latest_order = %d: a row begins at %d; pass the largest order that any row may have",
                           *in.latest_order, row.order);
        }
    }
    return in;
}

}  // namespace

AvflowStatus avflow_plan_create(const AvflowLayout* layout, int32_t kernel, int32_t heads, int32_t kv_heads,
                                const AvflowThreads* threads, AvflowPlan** plan) {
    return guarded([&] {
        AVFLOW_REQUIRE(plan, "plan is null: it receives the plan");
        *plan = nullptr;
        const AvflowLayout from = read(layout, "AvflowLayout");
        AVFLOW_REQUIRE(kv_heads > 0 && heads > 0 && heads % kv_heads == 0 && heads <= 64,
                       "%d query heads over %d kv heads: must divide evenly, 64 at most", heads, kv_heads);
        const int32_t rows = tile_rows(kernel, heads / kv_heads);
        const Threads pool = for_packing(threads);
        Layout in = layout_of(from);
        in.tile_rows = rows;
        in.rows_apart = kernel == AVFLOW_CUDA;
        *plan = std::make_unique<AvflowPlan>(AvflowPlan{pack(in, &pool), kernel, heads, kv_heads}).release();
    });
}

void avflow_plan_destroy(AvflowPlan* plan) { delete plan; }

AvflowStatus avflow_plan_info(const AvflowPlan* plan, AvflowPlanInfo* out) {
    return guarded([&] {
        AVFLOW_REQUIRE(plan, "plan is null");
        const Header& h = plan->header();
        AvflowPlanInfo info{};
        info.data = plan->words.data();
        info.words = h.words;
        info.rows = h.rows, info.keys = h.keys, info.live_tiles = h.total_tiles;
        info.groups = h.groups, info.row_tiles = h.row_tiles, info.key_tiles = h.key_tiles;
        info.kernel = plan->kernel;
        write(out, info, "AvflowPlanInfo");
    });
}
