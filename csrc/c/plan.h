// What an AvflowPlan is: the words of a packed problem, and what they were planned for.
#pragma once

#include <avflow/avflow.h>

#include <cstdint>
#include <vector>

#include "core/problem.h"

struct AvflowPlan {
    std::vector<int32_t> words;
    int32_t kernel, heads, kv_heads;

    const avflow::Header& header() const { return *reinterpret_cast<const avflow::Header*>(words.data()); }
};
