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

    void add(const Token& token, bool first) {
        groups |= uint64_t{1} << token.group;
        first_order = std::min(first_order, token.order);
        last_order = std::max(last_order, token.order);
        if (first) stream = token.stream;
        one_stream = one_stream && stream == token.stream;
    }
};

}  // namespace avflow
