// What the copy engine is told of keys or values in device memory. Host code without CUDA types, so that tests can read
// as it does.
#pragma once

#include "cuda/call.h"

namespace avflow::cuda {

// A tensor [kv_heads, depth / 64, keys, 64] of 16-bit numbers, innermost dimension first.
struct MapShape {
    uint64_t sizes[4];
    uint64_t strides[3];  // in bytes, of all but the first
    uint32_t box[4];      // that one copy brings
};

// keys: mapped_keys(); row, head: strides in elements; blocks: of 64 columns, that one copy brings.
inline MapShape map_shape(const Call& c, int32_t keys, int64_t row, int64_t head, int32_t blocks) {
    // Of a dimension of one element torch may say any stride; the engine wants multiples of 16 bytes that are not 0.
    const auto bytes = [](int64_t stride, int64_t size) { return static_cast<uint64_t>(size > 1 ? stride * 2 : 128); };
    return {{64, static_cast<uint64_t>(keys), static_cast<uint64_t>(c.depth / 64), static_cast<uint64_t>(c.kv_heads)},
            {bytes(row, keys), 128, bytes(head, c.kv_heads)},
            {64, kKeyTile, static_cast<uint32_t>(blocks), 1}};
}

// Makes the maps of keys and values, each by encode(map, address, shape); where that fails for one (a stride of 0, from
// an expanded tensor), c.mapped becomes false, and keys come by cp.async.
template <typename Maps, typename Encode>
Maps make_maps(Call& c, const Header& h, int32_t blocks, const Encode& encode) {
    Maps maps{};
    const int32_t keys = mapped_keys(c, h);
    c.mapped = c.mapped && encode(&maps.keys, c.k, map_shape(c, keys, c.k_row, c.k_head, blocks)) &&
               encode(&maps.values, c.v, map_shape(c, keys, c.v_row, c.v_head, blocks));
    return maps;
}

}  // namespace avflow::cuda
