// What the rows of knocked-out streams read of their parents' keys, judged once for all rows that read the same.
//
// A stream sees its parent's keys of orders below its start, whatever a row's own order and block. So what a row reads
// of a tile without keys of its own stream follows from its class: parent, start, cuts, group, and item where a cut
// compares items. The 430 streams of a sweep of ten knockouts hold some sixty classes: a class is judged once, and a
// row tile combines those of its rows, 64 key tiles at a time.
#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "mask.h"
#include "plan.h"
#include "summary.h"

namespace avflow {

class RowClasses {
  public:
    static constexpr int32_t kNone = -1;

    // Of each row; kNone: judge it with its tile. Empty where no row has a class.
    std::vector<int32_t> of_row;

    // first_tile, last_tile: of each stream's keys; last_tile is -1 where it has none.
    RowClasses(const Layout& layout, const Problem& packed, const std::vector<Summary>& tiles,
               const std::vector<int32_t>& first_tile, const std::vector<int32_t>& last_tile, int64_t row_tiles)
        : in_(layout), p_(packed), tiles_(tiles), first_tile_(first_tile), last_tile_(last_tile) {
        // Orders that come with each call decide which of a stream's own keys are cut, and a window asks each row for
        // its order: those plans judge every tile.
        if (in_.latest_order || packed.window || !name_classes(row_tiles)) return;
        for (Class& c : classes_) judge(c);
    }

    // Tiles 64 * first_word(c) .. 64 * last_word(c) - 1 may hold what rows of the class read.
    int32_t first_word(int32_t c) const { return classes_[c].begin; }
    int32_t last_word(int32_t c) const { return classes_[c].begin + static_cast<int32_t>(classes_[c].any.size()); }

    // Bits of tiles 64 * word ..: does some of these classes read the tile, and is it open to all of them?
    std::pair<uint64_t, uint64_t> words(const std::vector<int32_t>& classes, int32_t word) const {
        uint64_t any = 0, all = ~uint64_t{0};
        for (const int32_t c : classes) {
            const bool inside = word >= first_word(c) && word < last_word(c);
            any |= inside ? classes_[c].any[word - classes_[c].begin] : 0;
            all &= inside ? classes_[c].all[word - classes_[c].begin] : 0;
        }
        return {any, all};
    }

  private:
    // Below this many tiles of a parent its rows are judged with the rest. A stream that starts early in the media has
    // few, and a class for each of its frames.
    static constexpr int32_t kLeastTiles = 8;

    struct Class {
        Row row;  // one of its rows
        int32_t begin = 0;
        std::vector<uint64_t> any, all;
    };

    struct StreamClass {
        int32_t id = kNone;
        bool items = false;  // a cut compares items
    };

    // Classes of the rows; false where they would not pay.
    bool name_classes(int64_t row_tiles) {
        std::vector<StreamClass> of_stream(in_.streams.size());
        std::map<std::tuple<int32_t, int32_t, std::vector<int32_t>>, int32_t> known;
        bool some = false;
        for (size_t s = 0; s < in_.streams.size(); ++s) {
            const Stream& stream = in_.streams[s];
            const auto& ids = in_.stream_cuts[s];
            // A random cut asks for the orders of both tokens.
            const bool random =
                std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return in_.cuts[id].threshold < kAllEdges; });
            if (random || !sees_enough(stream)) continue;
            const auto key = std::make_tuple(stream.parent, stream.start, ids);
            of_stream[s].id = known.try_emplace(key, static_cast<int32_t>(known.size())).first->second;
            of_stream[s].items =
                std::any_of(ids.begin(), ids.end(), [&](int32_t id) { return in_.cuts[id].other_items; });
            some = true;
        }
        if (!some) return false;
        std::unordered_map<uint64_t, int32_t> found;  // of stream class and item
        std::vector<int32_t> of_row(in_.rows.size(), kNone);
        const Token* previous = nullptr;
        for (size_t r = 0; r < in_.rows.size(); ++r) {
            const Token& row = in_.rows[r];
            if (row.stream < 0 || of_stream[row.stream].id == kNone) continue;
            if (previous && previous == &row - 1 && previous->stream == row.stream && previous->group == row.group &&
                previous->item == row.item) {
                of_row[r] = of_row[r - 1];
            } else {
                const StreamClass& stream = of_stream[row.stream];
                // 26 bits of the stream's class, 6 of the group, 32 of the item.
                const uint64_t key = static_cast<uint64_t>(stream.id) << 38 | static_cast<uint64_t>(row.group) << 32 |
                                     static_cast<uint32_t>(stream.items ? row.item : 0);
                const auto [at, fresh] = found.try_emplace(key, static_cast<int32_t>(classes_.size()));
                if (fresh) classes_.push_back({{row, kNoBlock}, 0, {}, {}});
                of_row[r] = at->second;
                // As many classes as tiles: judging tiles is no dearer, since most end at their first row.
                if (static_cast<int64_t>(classes_.size()) > row_tiles) return false;
            }
            previous = &row;
        }
        this->of_row = std::move(of_row);
        return true;
    }

    // Has the stream a parent of which it sees many tiles?
    bool sees_enough(const Stream& stream) const {
        if (stream.parent < 0) return false;
        int32_t count = 0;
        for (int32_t t = first_tile_[stream.parent]; t <= last_tile_[stream.parent] && count < kLeastTiles; ++t) {
            count += tiles_[t].first_order < stream.start;
        }
        return count >= kLeastTiles;
    }

    void judge(Class& c) const {
        const Stream& stream = in_.streams[c.row.stream];
        uint64_t sure = 0, some = 0, groups = 0;  // sources cut for all heads; by any cut; by a cut that asks no items
        for (const int32_t id : in_.stream_cuts[c.row.stream]) {
            const CutRule& cut = in_.cuts[id];
            if (!has(cut.target, c.row.group)) continue;
            some |= cut.source;
            if (!cut.other_items) groups |= cut.source;
            if (!cut.other_items && cut.heads == kAllHeads) sure |= cut.source;
        }
        const int32_t first = first_tile_[stream.parent], last = last_tile_[stream.parent];
        c.begin = first / 64;
        c.any.assign(last / 64 - c.begin + 1, 0);
        c.all.assign(last / 64 - c.begin + 1, 0);
        for (int32_t t = first; t <= last; ++t) {
            const Summary& keys = tiles_[t];
            if (keys.first_order >= stream.start) continue;
            const bool whole = static_cast<size_t>(t + 1) * kKeyTile <= in_.keys.size();
            const bool seen = keys.one_stream && keys.stream == stream.parent && keys.last_order < stream.start;
            bool any, all;
            if (seen && !(keys.groups & some)) {
                any = true, all = whole;
            } else if (seen && !(keys.groups & ~sure)) {
                any = in_.zero, all = false;
            } else if (seen && (keys.groups & groups) && (keys.groups & ~some)) {
                any = true, all = false;
            } else {
                std::tie(any, all) = judge(c.row, stream.parent, t);
            }
            const int32_t word = t / 64 - c.begin;
            c.any[word] |= static_cast<uint64_t>(any) << t % 64;
            c.all[word] |= static_cast<uint64_t>(all) << t % 64;
        }
    }

    // By the parent's runs of the tile. Others of its keys are a sibling's, or of the row's own stream: the class is
    // not asked about a tile with those.
    std::pair<bool, bool> judge(const Row& row, int32_t parent, int32_t tile) const {
        const Token* tile_keys = p_.keys + static_cast<int64_t>(tile) * kKeyTile;
        uint64_t seen = 0, open = 0, every = 0;
        for (int32_t r = p_.run_begin[tile]; r < p_.run_begin[tile + 1]; ++r) {
            if (p_.runs[r].stream != parent) continue;
            const Words words = run_words(p_, row, p_.runs[r], tile_keys, kAnyHead);
            seen |= words.seen;
            open |= words.open;
            every |= run_words(p_, row, p_.runs[r], tile_keys, kEveryHead).open;
        }
        return {(in_.zero ? seen : open) != 0, every == ~uint64_t{0}};
    }

    const Layout& in_;
    const Problem& p_;
    const std::vector<Summary>& tiles_;
    const std::vector<int32_t>&first_tile_, &last_tile_;
    std::vector<Class> classes_;
};

}  // namespace avflow
