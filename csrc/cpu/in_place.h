// Keys and values that are read where the caller has them, as he stores them. Included by float_batch.h and bf16_few.h
// only, inside the per-instruction-set namespace.

// Can the kernel read the tile's keys and values where they lie: 64 whole rows of one batch, stored as Number?
template <typename Number>
bool in_place(const TaskPlan& plan, int tile) {
    const bool whole = (tile + 1) * kKeyTile <= plan.p.header->keys;
    if (plan.a.dtype != kTypeOf<Number> || !whole || plan.p.keep_keys || plan.width != plan.depth) return false;
    return place_of(plan.slots(), tile * kKeyTile).slot + kKeyTile <= plan.a.slots;
}

// One tile's keys or values, or null where they are not in place.
template <typename Number>
const Number* keys_in_place(const TaskPlan& plan, int tile, int kv_head) {
    if (!in_place<Number>(plan, tile)) return nullptr;
    return static_cast<const Number*>(plan.a.k) + plan.key_offset(place_of(plan.slots(), tile * kKeyTile), kv_head);
}
template <typename Number>
const Number* values_in_place(const TaskPlan& plan, int tile, int kv_head) {
    if (!in_place<Number>(plan, tile)) return nullptr;
    return static_cast<const Number*>(plan.a.v) + plan.value_offset(place_of(plan.slots(), tile * kKeyTile), kv_head);
}

// The values of one key tile.
template <typename Number>
struct TileValues {
    const Number* at;  // [64, width]
    int64_t stride;    // between keys
    int slot;          // the tile's place in the weights
};

// Values of one tile and one kv head: panel [64, width], zero beyond head_dim and beyond the last key. As floats, or as
// they are stored where Number is that.
template <typename Number>
static void gather_values(const TaskPlan& plan, int tile, int kv_head, int width, Number* panel) {
    const AvflowAttention& a = plan.a;
    const int d = a.head_dim;
    for (int j = 0; j < kKeyTile; ++j) {
        Number* const to = panel + j * width;
        const Place at = plan.place_in(tile, j);
        const int filled = at.slot < 0 ? 0 : d;
        if constexpr (std::is_same_v<Number, float>) {
            if (filled) load_row(a.v, plan.value_offset(at, kv_head), a.dtype, d, 1.0f, to);
        } else if (filled) {
            std::memcpy(to, static_cast<const Number*>(a.v) + plan.value_offset(at, kv_head), sizeof(Number) * d);
        }
        std::memset(to + filled, 0, sizeof(Number) * (width - filled));
    }
}

template <typename Number>
Ahead ahead(const Number* at, int64_t stride, int width) {
    constexpr int64_t kBytes = sizeof(Number);
    return {reinterpret_cast<const char*>(at), stride * kBytes, width * kBytes};
}

// The values of one tile that nobody packed beforehand; `finite`: do they hold no NaN and no infinity.
template <typename Number>
TileValues<Number> values_here(const TaskPlan& plan, int tile, int kv_head, Number* packed, bool& finite) {
    TileValues<Number> values{values_in_place<Number>(plan, tile, kv_head), plan.a.v_row, 0};
    if (!values.at) {
        gather_values(plan, tile, kv_head, plan.width, packed);
        values = {packed, plan.width, 0};
    }
    finite = all_finite(values.at, values.stride, plan.width,
                        ahead(keys_in_place<Number>(plan, tile + 1, kv_head), plan.a.k_row, plan.width));
    return values;
}

// o += weights x values of a tile with NaN or infinite values: only where the weight is not exactly 0.
template <typename Number>
void add_nonfinite_values(const float* s, const TileValues<Number>& values, int count, int width, float* o) {
    float row[256];
    for (int j = 0; j < kKeyTile; ++j) {
        load_row(values.at, j * values.stride, kTypeOf<Number>, width, 1.0f, row);
        for (int m = 0; m < count; ++m) {
            const float weight = s[static_cast<int64_t>(m) * kBatch * kKeyTile + j];
            if (weight == 0.0f) continue;
            for (int c = 0; c < width; ++c) o[m * width + c] += weight * row[c];
        }
    }
}
