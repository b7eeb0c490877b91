// Keys and values that are read where the caller has them. Included by float_batch.h only, inside the
// per-instruction-set namespace.

// Can the kernel read the tile's keys and values where they lie: 64 rows of floats in one batch?
bool in_place(const TaskPlan& plan, int tile) {
    const bool whole = (tile + 1) * kKeyTile <= plan.p.header->keys;
    if (plan.a.dtype != AVFLOW_FLOAT32 || !whole || plan.p.keep_keys || plan.width != plan.depth) return false;
    return place_of(plan.slots(), tile * kKeyTile).slot + kKeyTile <= plan.a.slots;
}

// One tile's keys or values, or null where they are not in place.
const float* keys_in_place(const TaskPlan& plan, int tile, int kv_head) {
    if (!in_place(plan, tile)) return nullptr;
    return static_cast<const float*>(plan.a.k) + plan.key_offset(place_of(plan.slots(), tile * kKeyTile), kv_head);
}
const float* values_in_place(const TaskPlan& plan, int tile, int kv_head) {
    if (!in_place(plan, tile)) return nullptr;
    return static_cast<const float*>(plan.a.v) + plan.value_offset(place_of(plan.slots(), tile * kKeyTile), kv_head);
}
