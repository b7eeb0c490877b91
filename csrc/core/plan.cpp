#include "plan.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <exception>
#include <functional>
#include <numeric>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include "mask.h"
#include "row_classes.h"
#include "row_tiles.h"
#include "summary.h"

namespace avflow {
namespace {

constexpr int64_t kPairsAThread = 1 << 20;  // a thread starts in 50 us, and judges this many pairs in some 0.2 s

constexpr int64_t words_of(size_t bytes) { return static_cast<int64_t>((bytes + 15) / 16 * 4); }

enum class Kind { kSkip, kPartial, kFull };

struct Builder {
    const Layout& in;
    const Threads* given;
    const int64_t most_threads;  // of its own, without `given`
    int32_t key_tiles, tile_rows = 0, row_tiles = 0;
    std::vector<Run> runs;
    std::vector<int32_t> run_begin, cut_begin, cut_ids, span_begin, tile_order;
    std::vector<Span> spans;
    std::vector<Summary> key_summary;
    std::vector<int32_t> first_tile, last_tile;  // of each stream's keys
    std::vector<int32_t> plain_end;              // last tile of the stretch that add_plain takes from here
    std::vector<int32_t> tile_first, tile_last;  // smallest and largest order of a key that is no padding
    bool blocks = false;                         // some row has one, and some key
    Header header{};
    Problem problem{};

    Builder(const Layout& layout, const Threads* threads, int64_t most_own)
        : in(layout), given(threads), most_threads(most_own) {
        check_words(words_of(in.rows.size() * sizeof(Token)) + words_of(in.keys.size() * sizeof(Token)));
        key_tiles = static_cast<int32_t>((in.keys.size() + kKeyTile - 1) / kKeyTile);
        const auto some = [](const std::vector<int32_t>& of) {
            return std::any_of(of.begin(), of.end(), [](int32_t block) { return block >= 0; });
        };
        blocks = some(in.row_blocks) && some(in.key_blocks);
    }

    int32_t key_block(size_t key) const { return blocks ? in.key_blocks[key] : kNoBlock; }

    // The layout's window, or 0 where every key is near enough to every row.
    int32_t needed_window() const {
        int64_t last = INT32_MIN, first = INT32_MAX;
        for (const Token& row : in.rows) last = std::max<int64_t>(last, in.latest_order.value_or(row.order));
        for (const Token& key : in.keys) first = std::min<int64_t>(first, key.order);
        return last - first < in.window ? 0 : in.window;
    }

    // Before what has this many words is made: every offset and count below then fits in int32.
    void check_words(int64_t words) const {
        if (words <= in.most_words) return;
        throw std::length_error("the plan of " + std::to_string(in.rows.size()) + " rows and " +
                                std::to_string(in.keys.size()) + " keys needs " + std::to_string(words) +
                                " words or more, its offsets reach " + std::to_string(in.most_words) +
                                ": pass fewer rows at a time, or cuts whose groups lie in longer stretches");
    }

    void find_runs() {
        run_begin.assign(1, 0);
        key_summary.resize(key_tiles);
        tile_first.assign(key_tiles, INT32_MAX);
        tile_last.assign(key_tiles, INT32_MIN);
        first_tile.assign(in.streams.size(), INT32_MAX);
        last_tile.assign(in.streams.size(), -1);
        for (int32_t tile = 0; tile < key_tiles; ++tile) {
            const int32_t base = tile * kKeyTile;
            const int32_t count = std::min<int32_t>(kKeyTile, static_cast<int32_t>(in.keys.size()) - base);
            for (int32_t j = 0; j < count; ++j) {
                const Token& key = in.keys[base + j];
                const int32_t block = key_block(base + j);
                key_summary[tile].add(key, block, j == 0);
                if (key.stream >= 0) {
                    // Rows of a block see its keys whatever the orders.
                    tile_first[tile] = std::min(tile_first[tile], block < 0 ? key.order : INT32_MIN);
                    tile_last[tile] = std::max(tile_last[tile], block < 0 ? key.order : INT32_MAX);
                    first_tile[key.stream] = std::min(first_tile[key.stream], tile);
                    last_tile[key.stream] = tile;
                }
                Run* run = static_cast<int32_t>(runs.size()) > run_begin.back() ? &runs.back() : nullptr;
                if (run && run->group == key.group && run->item == key.item && run->stream == key.stream &&
                    run->block == block) {
                    run->consecutive = run->consecutive && key.order == int64_t{run->last_order} + 1;
                    run->last_order = key.order;
                    ++run->count;
                } else {
                    runs.push_back(
                        {static_cast<int16_t>(j), 1, key.group, key.item, key.stream, block, key.order, key.order, 1});
                }
            }
            run_begin.push_back(static_cast<int32_t>(runs.size()));
        }
        plain_end.resize(key_tiles);
        for (int32_t tile = key_tiles - 1; tile >= 0; --tile) {
            plain_end[tile] = is_plain(tile) ? tile : tile - 1;
            const bool goes_on = is_plain(tile) && tile + 1 < key_tiles && is_plain(tile + 1) &&
                                 key_summary[tile].stream == key_summary[tile + 1].stream &&
                                 key_summary[tile].last_order < key_summary[tile + 1].first_order;
            if (goes_on) plain_end[tile] = plain_end[tile + 1];
        }
    }

    // 64 keys of one stream. Their orders increase, so they are the summary's first to last.
    bool is_plain(int32_t tile) const {
        const bool whole = static_cast<size_t>(tile + 1) * kKeyTile <= in.keys.size();
        return whole && key_summary[tile].one_stream && key_summary[tile].stream >= 0;
    }

    void index_cuts() {
        size_t all = 0;
        for (const auto& ids : in.stream_cuts) all += ids.size();
        check_words(words_of(all * sizeof(int32_t)));
        cut_begin.assign(1, 0);
        for (const auto& ids : in.stream_cuts) {
            cut_ids.insert(cut_ids.end(), ids.begin(), ids.end());
            cut_begin.push_back(static_cast<int32_t>(cut_ids.size()));
        }
    }

    bool some_cut_concerns(int32_t stream, uint64_t row_groups, uint64_t key_groups) const {
        for (int32_t c = cut_begin[stream]; c < cut_begin[stream + 1]; ++c) {
            const CutRule& cut = in.cuts[cut_ids[c]];
            if ((cut.target & row_groups) && (cut.source & key_groups)) return true;
        }
        return false;
    }

    // row_words for a row of any order in its range: `seen` by one order at least; `open` unless cut in every order.
    Words possible_words(Row row, int32_t tile) const {
        const Token* tile_keys = in.keys.data() + static_cast<int64_t>(tile) * kKeyTile;
        const int32_t earliest = row.order;
        row.order = *in.latest_order;
        Words words = {0, 0};
        for (int32_t r = run_begin[tile]; r < run_begin[tile + 1]; ++r) {
            const Run& run = runs[r];
            const uint64_t seen = seen_bits(problem, row, run, tile_keys, earliest);
            const int32_t before = earliest == INT32_MIN ? 0 : keys_up_to(run, tile_keys, earliest - 1);
            // Keys that are the row's own in some order.
            const uint64_t range = low_bits(keys_up_to(run, tile_keys, row.order)) & ~low_bits(before);
            const uint64_t own = run.stream == row.stream ? seen & range << run.begin : 0;
            uint64_t open = seen;
            for (int32_t c = cut_begin[row.stream]; seen && c < cut_begin[row.stream + 1]; ++c) {
                const CutRule& cut = in.cuts[cut_ids[c]];
                const bool sure = cut.threshold >= kAllEdges && cut.heads == kAllHeads && concerns(cut, row, run);
                if (sure) open &= cut.cut_self ? 0 : own;
            }
            words.seen |= seen;
            words.open |= open;
        }
        return words;
    }

    // Does the row see all 64 keys, and is none of them cut, whatever its order?
    bool surely_open(Row row, int32_t tile) const {
        for (int32_t r = run_begin[tile]; r < run_begin[tile + 1]; ++r) {
            for (int32_t c = cut_begin[row.stream]; c < cut_begin[row.stream + 1]; ++c) {
                if (concerns(in.cuts[cut_ids[c]], row, runs[r])) return false;
            }
        }
        if (row_words(problem, row, tile, kEveryHead).open != ~uint64_t{0}) return false;
        row.order = *in.latest_order;  // what causality opens the window may close later
        return !header.window || row_words(problem, row, tile, kEveryHead).open == ~uint64_t{0};
    }

    // Every row of a stream sees a stream's keys of orders <= the first, none sees orders > the second; but for windows
    // and blocks.
    std::pair<int32_t, int32_t> limits(const Summary& rows, int32_t key_stream) const {
        const Stream& stream = in.streams[rows.stream];
        if (key_stream == rows.stream) return {rows.first_order, in.latest_order.value_or(rows.last_order)};
        if (key_stream >= 0 && key_stream == stream.parent) return {stream.start - 1, stream.start - 1};
        return {INT32_MIN, INT32_MIN};
    }

    // The window hides keys of orders <= the first from all of these rows, of orders <= the second from one at least.
    std::pair<int64_t, int64_t> hidden(const Summary& rows) const {
        if (!header.window) return {INT64_MIN, INT64_MIN};
        const int64_t last = in.latest_order.value_or(rows.last_order);
        return {int64_t{rows.first_order} - header.window, last - header.window};
    }

    Kind judge(int32_t row_first, int32_t row_last, const Summary& rows, int32_t tile) const {
        const Summary& keys = key_summary[tile];
        const bool whole = static_cast<size_t>(tile + 1) * kKeyTile <= in.keys.size();
        const bool apart = !may_share_block(rows, keys);
        const auto [by_all, by_some] = hidden(rows);
        if (keys.last_order <= by_all && (apart || header.window_in_blocks)) return Kind::kSkip;
        if (rows.one_stream && keys.one_stream) {
            if (rows.stream < 0 || keys.stream < 0) return Kind::kSkip;
            const auto [least, most] = limits(rows, keys.stream);
            if (apart && keys.first_order > most) return Kind::kSkip;
            if (!some_cut_concerns(rows.stream, rows.groups, keys.groups)) {
                const bool inside = keys.first_order > by_some;
                const bool together = !apart && rows.one_block && keys.one_block && keys.stream == rows.stream;
                if (whole && inside && (together || keys.last_order <= least)) return Kind::kFull;
                if (whole && together && !header.window_in_blocks) return Kind::kFull;
                if (apart && inside) return Kind::kPartial;
            }
        }
        // Token by token, as the kernels do it, so that the answer is exact.
        bool any = false, all = whole;
        for (int32_t r = row_first; r < row_last; ++r) {
            const Row row = row_of(problem, r);
            if (row.stream < 0) {
                all = false;
                continue;
            }
            const Words words = in.latest_order ? possible_words(row, tile) : row_words(problem, row, tile, kAnyHead);
            any = any || (in.zero ? words.seen : words.open);
            if (all && in.latest_order) {
                all = surely_open(row, tile);
            } else if (all) {
                const uint64_t open = header.head_cuts ? row_words(problem, row, tile, kEveryHead).open : words.open;
                all = open == ~uint64_t{0};
            }
            if (any && !all) return Kind::kPartial;
        }
        return !any ? Kind::kSkip : all ? Kind::kFull : Kind::kPartial;
    }

    // What one row tile reads, appended to a list that may hold those of other row tiles before.
    struct Reads {
        std::vector<Span>& spans;
        const size_t begin = spans.size();
        int64_t tiles = 0;

        void add(int32_t first, int32_t count, Kind kind) {
            if (kind == Kind::kSkip || count == 0) return;
            const int32_t code = kind == Kind::kFull ? kFull : kPartial;
            tiles += count;
            if (spans.size() > begin && spans.back().kind == code && spans.back().first + spans.back().count == first) {
                spans.back().count += count;
            } else {
                spans.push_back({first, count, code});
            }
        }
    };

    // Where no cut concerns the rows, none has a block, and the key tiles first .. last are whole tiles of one stream,
    // one after the other, their kinds change at four places only: skipped by the window, partial, full, then partial,
    // then skipped.
    void add_plain(int32_t row_first, int32_t row_last, const Summary& rows, int32_t first, int32_t last,
                   Reads& reads) const {
        const auto [least, most] = limits(rows, key_summary[first].stream);
        const auto [by_all, by_some] = hidden(rows);
        auto begin = key_summary.begin() + first;
        const auto end = key_summary.begin() + last + 1;
        const auto at = [&](auto tile) { return static_cast<int32_t>(tile - key_summary.begin()); };
        const auto seen = std::partition_point(begin, end, [most = most](auto& s) { return s.first_order <= most; });
        if (header.window) {
            begin = std::partition_point(begin, seen, [old = by_all](auto& s) { return s.last_order <= old; });
            const auto inside =
                std::partition_point(begin, seen, [old = by_some](auto& s) { return s.first_order <= old; });
            for (; begin != inside; ++begin) reads.add(at(begin), 1, judge(row_first, row_last, rows, at(begin)));
        }
        const auto full = std::partition_point(begin, seen, [least = least](auto& s) { return s.last_order <= least; });
        reads.add(at(begin), static_cast<int32_t>(full - begin), Kind::kFull);
        reads.add(at(full), static_cast<int32_t>(seen - full), Kind::kPartial);
    }

    // Key tiles from .. to - 1, which hold no key of the rows' own streams.
    static void add_classed(const RowClasses& classes, const std::vector<int32_t>& own, int32_t from, int32_t to,
                            Reads& reads) {
        for (int32_t word = from / 64; word * 64 < to; ++word) {
            auto [left, all] = classes.words(own, word);
            if (word == from / 64) left &= ~low_bits(from % 64);
            left &= low_bits(to - word * 64);
            while (left) {
                const int32_t at = std::countr_zero(left);
                const bool full = all >> at & 1;
                const int32_t count = std::countr_one((full ? left & all : left & ~all) >> at);
                reads.add(word * 64 + at, count, full ? Kind::kFull : Kind::kPartial);
                left &= ~(low_bits(count) << at);
            }
        }
    }

    int64_t find_reads(int32_t row_tile, const RowClasses& classes, std::vector<Span>& spans) const {
        const int32_t first = row_tile * tile_rows;
        const int32_t last = std::min<int32_t>(first + tile_rows, static_cast<int32_t>(in.rows.size()));
        Summary rows;
        std::vector<std::pair<int32_t, int32_t>> ranges;
        std::vector<int32_t> own;  // classes of the rows
        bool classed = !classes.of_row.empty();
        for (int32_t r = first; r < last; ++r) {
            rows.add(in.rows[r], blocks ? in.row_blocks[r] : kNoBlock, r == first);
            const int32_t c = classed ? classes.of_row[r] : RowClasses::kNone;
            classed = c != RowClasses::kNone;
            if (classed && (own.empty() || own.back() != c)) own.push_back(c);
        }
        int32_t previous = -1;
        for (int32_t r = first; r < last; ++r) {
            const int32_t s = in.rows[r].stream;
            if (s < 0 || s == previous) continue;
            previous = s;
            for (const int32_t of : {s, classed ? -1 : in.streams[s].parent}) {
                if (of >= 0 && last_tile[of] >= 0) ranges.emplace_back(first_tile[of], last_tile[of]);
            }
        }
        std::sort(ranges.begin(), ranges.end());
        int32_t next = classed ? INT32_MAX : 0, end_classed = 0;
        for (size_t i = 0; classed && i < own.size(); ++i) {
            next = std::min(next, 64 * classes.first_word(own[i]));
            end_classed = std::max(end_classed, 64 * classes.last_word(own[i]));
        }
        const bool plain = rows.one_stream && rows.stream >= 0 && rows.last_block < 0 &&
                           !some_cut_concerns(rows.stream, rows.groups, ~uint64_t{0});
        Reads reads{spans};
        for (const auto& range : ranges) {
            if (classed && range.first > next) add_classed(classes, own, next, range.first, reads);
            for (int32_t tile = std::max(range.first, next); tile <= range.second; ++tile) {
                const int32_t end = plain ? std::min(plain_end[tile], range.second) : tile;
                if (end > tile) {
                    add_plain(first, last, rows, tile, end, reads);
                    tile = end;
                } else {
                    reads.add(tile, 1, judge(first, last, rows, tile));
                }
            }
            next = std::max(next, range.second + 1);
        }
        if (next < end_classed) add_classed(classes, own, next, end_classed, reads);
        return reads.tiles;
    }

    template <typename Work>
    static void run_on_own_threads(int64_t parts, const Work& work) {
        int64_t begun = 1;
        std::vector<std::jthread> threads;
        threads.reserve(parts);
        try {
            for (; begun < parts; ++begun) threads.emplace_back(std::cref(work), begun);
        } catch (const std::system_error&) {  // no more threads are allowed: this one does what is left
        }
        work(0);
        for (; begun < parts; ++begun) work(begun);
    }

    // A hundred streams of a long prompt are tens of millions of pairs of tiles in every layer: more than one thread
    // keeps the plan out of a fast device's way. Each takes a stretch of row tiles, so the result is the same.
    void find_spans() {
        const int64_t pairs = static_cast<int64_t>(row_tiles) * key_tiles;
        const int64_t cores =
            given ? given->workers : std::min<int64_t>(std::thread::hardware_concurrency(), most_threads);
        const int64_t parts = std::clamp<int64_t>(pairs / kPairsAThread, 1, std::max<int64_t>(cores, 1));
        const RowClasses classes(in, problem, key_summary, first_tile, last_tile, row_tiles);
        std::vector<std::vector<Span>> found(parts);
        std::vector<int64_t> cost(row_tiles, 0);
        std::vector<int32_t> counts(row_tiles, 0);
        std::vector<std::exception_ptr> failed(parts);  // an exception that leaves a thread would end the process
        auto work = [&](int64_t part) noexcept {
            try {
                for (int64_t t = row_tiles * part / parts; t < row_tiles * (part + 1) / parts; ++t) {
                    const size_t before = found[part].size();
                    cost[t] = find_reads(static_cast<int32_t>(t), classes, found[part]);
                    counts[t] = static_cast<int32_t>(found[part].size() - before);
                    check_words(words_of(found[part].size() * sizeof(Span)));
                }
            } catch (...) {
                failed[part] = std::current_exception();
            }
        };
        if (given) {
            using Work = decltype(work);
            const auto body = [](void* arg, int64_t part) { (*static_cast<Work*>(arg))(part); };
            given->run(given->context, parts, body, &work);
        } else {
            run_on_own_threads(parts, work);
        }
        for (const auto& error : failed) {
            if (error) std::rethrow_exception(error);
        }
        size_t all = 0;
        for (const auto& part : found) all += part.size();
        check_words(words_of(all * sizeof(Span)));
        spans.reserve(all);
        for (const auto& part : found) spans.insert(spans.end(), part.begin(), part.end());
        span_begin.assign(1, 0);
        for (const int32_t count : counts) span_begin.push_back(span_begin.back() + count);
        tile_order.resize(row_tiles);
        std::iota(tile_order.begin(), tile_order.end(), 0);
        std::stable_sort(tile_order.begin(), tile_order.end(), [&](int32_t a, int32_t b) { return cost[a] > cost[b]; });
        for (const int64_t tiles : cost) {
            header.max_tiles = std::max(header.max_tiles, static_cast<int32_t>(tiles));
            header.total_tiles += tiles;
        }
    }

    std::vector<int32_t> run() {
        header.magic = kMagic;
        header.rows = static_cast<int32_t>(in.rows.size());
        header.keys = static_cast<int32_t>(in.keys.size());
        header.q_rows = in.q_rows;
        header.k_rows = in.k_rows;
        header.streams = static_cast<int32_t>(in.streams.size());
        header.cuts = static_cast<int32_t>(in.cuts.size());
        header.groups = in.groups;
        header.key_tiles = key_tiles;
        header.zero = in.zero;
        header.order_range = in.latest_order.has_value();
        header.latest_order = in.latest_order.value_or(0);
        header.window = in.window ? needed_window() : 0;
        header.window_in_blocks = header.window && blocks && in.window_in_blocks;
        for (const CutRule& cut : in.cuts) header.head_cuts |= cut.heads != kAllHeads;
        find_runs();
        tile_rows = rows_a_tile(in, first_tile, last_tile);
        row_tiles = static_cast<int32_t>((in.rows.size() + tile_rows - 1) / tile_rows);
        header.tile_rows = tile_rows;
        header.row_tiles = row_tiles;
        index_cuts();
        problem.header = &header;
        problem.rows = in.rows.data();
        problem.keys = in.keys.data();
        problem.streams = in.streams.data();
        problem.cuts = in.cuts.data();
        problem.cut_begin = cut_begin.data();
        problem.cut_ids = cut_ids.data();
        problem.run_begin = run_begin.data();
        problem.runs = runs.data();
        problem.row_blocks = blocks ? in.row_blocks.data() : nullptr;
        problem.window = header.window;
        problem.window_in_blocks = header.window_in_blocks;
        find_spans();
        return lay_out();
    }

    std::vector<int32_t> lay_out() {
        std::vector<int32_t> words(words_of(sizeof(Header)));
        const auto append = [&](const auto& section) {
            const size_t at = words.size();  // a multiple of 4 words: 16-byte aligned, as CutRule's 64-bit fields need
            const size_t bytes = section.size() * sizeof(section[0]);
            check_words(static_cast<int64_t>(at) + words_of(bytes));
            words.resize(at + words_of(bytes));
            if (bytes) std::memcpy(words.data() + at, section.data(), bytes);
            return static_cast<int32_t>(at);
        };
        header.row_tokens = append(in.rows);
        header.key_tokens = append(in.keys);
        header.stream_table = append(in.streams);
        header.cut_table = append(in.cuts);
        header.cut_begin = append(cut_begin);
        header.cut_ids = append(cut_ids);
        header.run_begin = append(run_begin);
        header.runs = append(runs);
        header.span_begin = append(span_begin);
        header.spans = append(spans);
        header.tile_order = append(tile_order);
        if (in.keeps_rows) header.keep_rows = append(in.keep_rows);
        if (in.keeps_keys) header.keep_keys = append(in.keep_keys);
        if (in.latest_order) header.tile_first = append(tile_first);
        if (in.latest_order && header.window) header.tile_last = append(tile_last);
        if (blocks) header.row_blocks = append(in.row_blocks);
        header.words = static_cast<int32_t>(words.size());
        std::memcpy(words.data(), &header, sizeof(header));
        return words;
    }
};

}  // namespace

std::vector<int32_t> pack(const Layout& layout, const Threads* threads, int64_t most_threads) {
    return Builder(layout, threads, most_threads).run();
}

}  // namespace avflow
