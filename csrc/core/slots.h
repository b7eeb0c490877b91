// Keys of a batch by slot: key j is slot j % capacity of batch j / capacity, and the tensors hold slots 0 .. held - 1.
//
// A cache thus goes in as it lies in memory, and one problem serves while it fills. A key whose slot is not held is
// absent: no row sees it, and nothing is read.
#pragma once

#include "problem.h"

namespace avflow {

struct Slots {
    int32_t capacity, held;  // capacity >= 1
};

struct Place {
    int32_t batch, slot;
};

AVFLOW_HD Place place_of(Slots slots, int32_t key) {
    if (key < slots.capacity) return {0, key};  // the usual case spares a division
    return {key / slots.capacity, key % slots.capacity};
}

// How many of the keys from `first` on take part, of one tile.
AVFLOW_HD int32_t keys_in_tile(const Problem& p, int32_t tile) {
    const int32_t left = p.header->keys - tile * kKeyTile;
    return left < kKeyTile ? left : kKeyTile;
}

// Is every key of the tile held? False where a keep list leaves that open.
AVFLOW_HD bool all_held(const Problem& p, Slots slots, int32_t tile) {
    if (slots.held == slots.capacity) return true;
    return !p.keep_keys && place_of(slots, tile * kKeyTile).slot + keys_in_tile(p, tile) <= slots.held;
}

// Is no key of the tile held? False where a keep list leaves that open.
AVFLOW_HD bool none_held(const Problem& p, Slots slots, int32_t tile) {
    if (slots.held == slots.capacity || p.keep_keys) return false;
    const int32_t first = place_of(slots, tile * kKeyTile).slot;
    return first >= slots.held && first + keys_in_tile(p, tile) <= slots.capacity;
}

AVFLOW_HD bool is_held(const Problem& p, Slots slots, int32_t index) {
    return place_of(slots, p.keep_keys ? p.keep_keys[index] : index).slot < slots.held;
}

}  // namespace avflow
