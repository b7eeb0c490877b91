// What a tile's tokens have in common; enough to decide most pairs of tiles without looking at tokens.
#pragma once

#include <algorithm>
#include <cstdint>

#include "problem.h"

namespace avflow {

struct Summary {
    uint64_t groups = 0;
    int32_t first_order = INT32_MAX, last_order = INT32_MIN;
    int32_t stream = -1;  // of all tokens, where one_stream
    bool one_stream = true;
    int32_t first_block = INT32_MAX, last_block = kNoBlock;  // smallest and largest; where none has one: last < first
    bool one_block = true;                                   // all tokens are of first_block

    void add(const Token& token, int32_t block, bool first) {
        groups |= uint64_t{1} << token.group;
        first_order = std::min(first_order, token.order);
        last_order = std::max(last_order, token.order);
        if (first) stream = token.stream;
        one_stream = one_stream && stream == token.stream;
        if (block >= 0) first_block = std::min(first_block, block);
        last_block = std::max(last_block, block);
        one_block = one_block && block >= 0 && first_block == last_block;
    }
};

// May a token here and a token there be of one block?
inline bool may_share_block(const Summary& a, const Summary& b) {
    return a.first_block <= b.last_block && b.first_block <= a.last_block;
}

}  // namespace avflow
