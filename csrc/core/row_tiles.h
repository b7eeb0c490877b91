// How many rows a tile has where each sequence of a batch has few: as many as one sequence, not more.
//
// A tile of eight sequences walks the keys of all eight, each for an eighth of its rows, and every key tile needs words
// that hide it from the others. A tile of one walks its own, most of which it sees whole, and as many keys are read.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include "plan.h"

namespace avflow {

// The length of the stretches of rows that lie in one stream each, where there are several and all are that long; else
// 0. Rows of no stream fit anywhere.
inline int32_t rows_a_sequence(const std::vector<Token>& rows, int32_t most) {
    size_t length = 1;
    const auto together = [&](size_t r) { return rows[r].stream == rows[r - 1].stream; };
    while (length < rows.size() && static_cast<int64_t>(length) < most && together(length)) ++length;
    if (length >= rows.size()) return 0;
    for (size_t r = 1; r < rows.size(); ++r) {
        const bool known = rows[r].stream >= 0 && rows[r - 1].stream >= 0;
        if (known && together(r) != (r % length != 0)) return 0;
    }
    return static_cast<int32_t>(length);
}

// Rows a tile, in.tile_rows at most. first_tile, last_tile: of each stream's keys; last_tile is -1 where it has none.
inline int32_t rows_a_tile(const Layout& in, const std::vector<int32_t>& first_tile,
                           const std::vector<int32_t>& last_tile) {
    const int32_t most = in.tile_rows, length = in.rows_apart ? rows_a_sequence(in.rows, most) : 0;
    if (length == 0 || length >= most) return most;
    // Key tiles that sequences share, such as those of a common parent, would be read by each: a few are, where one
    // sequence ends and the next begins.
    int64_t apart = 0, together = 0;
    const auto count = static_cast<int32_t>(in.rows.size());
    std::vector<std::pair<int32_t, int32_t>> ranges;
    for (int64_t first = 0; first < count; first += most) {
        ranges.clear();
        int32_t previous = -1;
        for (int64_t r = first; r < std::min<int64_t>(first + most, count); ++r) {
            const int32_t stream = in.rows[r].stream;
            if (stream < 0 || stream == previous) continue;
            previous = stream;
            for (const int32_t of : {stream, in.streams[stream].parent}) {
                if (of >= 0 && last_tile[of] >= 0) ranges.emplace_back(first_tile[of], last_tile[of]);
            }
        }
        std::sort(ranges.begin(), ranges.end());
        int32_t next = 0;
        for (const auto& [begin, end] : ranges) {
            apart += end - begin + 1;
            together += std::max(0, end + 1 - std::max(begin, next));
            next = std::max(next, end + 1);
        }
    }
    return 2 * apart <= 3 * together ? length : most;
}

}  // namespace avflow
