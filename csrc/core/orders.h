// Orders that come with a call, for a problem that was made for a range of them.
#pragma once

#include "problem.h"

namespace avflow {

// The first row whose order lies outside of what the problem was made for, or -1. Padding may say anything.
inline int32_t first_order_outside(const Problem& p, const int32_t* order) {
    for (int32_t r = 0; r < p.header->rows; ++r) {
        if (p.rows[r].stream < 0) continue;
        if (order[r] < p.rows[r].order || order[r] > p.header->latest_order) return r;
    }
    return -1;
}

}  // namespace avflow
