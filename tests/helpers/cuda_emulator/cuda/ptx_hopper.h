// Stands in for csrc/cuda/ptx_hopper.h. A product reads its operands when it is waited for, as late as it may; until
// then NaN stands in its sums.
#pragma once

#include "cuda/key_map.h"
#include "cuda/ptx.h"

namespace avflow::cuda {

struct PhaseBarrier {
    uint8_t arrivals, left;
    uint16_t phase;
    int32_t bytes;  // still to come
};
static_assert(sizeof(PhaseBarrier) == sizeof(uint64_t));

AVFLOW_DEVICE void barrier_init(uint64_t* barrier, uint32_t arrivals) {
    const PhaseBarrier fresh{static_cast<uint8_t>(arrivals), static_cast<uint8_t>(arrivals), 0, 0};
    memcpy(barrier, &fresh, sizeof(fresh));
}
AVFLOW_DEVICE void barrier_change(uint64_t* barrier, int arrivals, int bytes, bool sorts = true) {
    const ordering::Apart its_own_access;
    if (arrivals && sorts) ordering::arrive(barrier);
    PhaseBarrier now;
    memcpy(&now, barrier, sizeof(now));
    now.left = static_cast<uint8_t>(now.left - arrivals);
    now.bytes += bytes;
    if (now.left == 0 && now.bytes == 0) {
        now.left = now.arrivals, ++now.phase;
        ordering::complete(barrier);
    }
    memcpy(barrier, &now, sizeof(now));
    block.idle = 0;
}
AVFLOW_DEVICE void barrier_arrive(uint64_t* barrier, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    barrier_change(barrier, 1, 0, !ordering::skipped(file, line));
    emulator::pause();
}
AVFLOW_DEVICE void barrier_arrive_for(uint64_t* barrier, uint32_t bytes, const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
    barrier_change(barrier, 1, static_cast<int>(bytes), !ordering::skipped(file, line));
}

struct KeyMap {
    const uint16_t* at;
    MapShape shape;
};

// What stands for the driver's function. It refuses what that one does.
AVFLOW_DEVICE bool encode(KeyMap* map, const uint16_t* at, const MapShape& shape) {
    bool taken = reinterpret_cast<uintptr_t>(at) % 16 == 0 && shape.box[0] * 2 == 128;
    for (const uint64_t size : shape.sizes) taken = taken && size >= 1 && size <= uint64_t{1} << 32;
    for (const uint64_t stride : shape.strides) {
        taken = taken && stride && stride % 16 == 0 && stride < uint64_t{1} << 40;
    }
    for (const uint32_t box : shape.box) taken = taken && box >= 1 && box <= 256;
    *map = {at, shape};
    return taken;
}

// A box of a map that is under way: it arrives when its barrier is waited for; until then its place holds NaN.
struct TileCopy {
    char* to;
    KeyMap map;
    uint32_t from[4];
    uint64_t* barrier;
};
inline std::vector<TileCopy> tile_copies;

AVFLOW_DEVICE uint32_t box_bytes(const KeyMap& map) {
    return map.shape.box[0] * map.shape.box[1] * map.shape.box[2] * map.shape.box[3] * 2;
}
AVFLOW_DEVICE void copy_block(uint32_t to, const KeyMap& map, int head, int of, int first, uint64_t* barrier) {
    const uint32_t bytes = box_bytes(map);
    if (to % 1024 || to + bytes > sizeof(block.shared)) emulator::fail("tile to a bad address");
    ordering::engine_writes(to, bytes);
    ordering::engine_counts(shared_address(barrier), sizeof(*barrier));
    const ordering::Apart of_the_engine;
    memset(block.shared + to, 0xFF, bytes);
    const TileCopy copy = {block.shared + to,
                           map,
                           {0, static_cast<uint32_t>(first), static_cast<uint32_t>(of), static_cast<uint32_t>(head)},
                           barrier};
    tile_copies.push_back(copy);
}
AVFLOW_DEVICE void copy_tile(uint32_t to, const KeyMap& map, int head, int first, uint64_t* barrier) {
    copy_block(to, map, head, 0, first, barrier);
}
AVFLOW_DEVICE void land(const TileCopy& copy) {
    const ordering::Apart of_the_engine;
    const MapShape& shape = copy.map.shape;
    const uint32_t rows = box_bytes(copy.map) / 128;
    for (uint32_t row = 0; row < rows; ++row) {  // of 64 columns
        const uint64_t at[3] = {copy.from[1] + row % shape.box[1], copy.from[2] + row / shape.box[1] % shape.box[2],
                                copy.from[3] + row / shape.box[1] / shape.box[2]};
        bool inside = true;
        uint64_t bytes = 0;
        for (int i = 0; i < 3; ++i) {
            inside = inside && at[i] < shape.sizes[i + 1];
            bytes += at[i] * shape.strides[i];
        }
        for (uint32_t column = 0; column < 64; ++column) {
            const uint16_t value = inside ? copy.map.at[bytes / 2 + column] : uint16_t{0};
            const uint32_t to = row * 128 + column * 2;
            memcpy(copy.to + (to ^ (to >> 7 & 7) << 4), &value, 2);
        }
    }
    ordering::landed(shared_address(copy.to), box_bytes(copy.map), copy.barrier);
    barrier_change(copy.barrier, 0, -static_cast<int>(box_bytes(copy.map)));
}
AVFLOW_DEVICE void barrier_wait(uint64_t* barrier, uint32_t parity, const char* file = __builtin_FILE(),
                                int line = __builtin_LINE()) {
    if (ordering::skipped(file, line)) return;
    emulator::pause();
    emulator::fiber().waits_for = "barrier in shared memory";
    for (;;) {
        PhaseBarrier now;
        memcpy(&now, barrier, sizeof(now));
        if ((now.phase & 1) != parity) break;
        std::vector<TileCopy> left;
        for (const TileCopy& copy : tile_copies) {
            if (copy.barrier == barrier) {
                land(copy);
            } else {
                left.push_back(copy);
            }
        }
        tile_copies.swap(left);
        emulator::yield(true);
    }
    ordering::wait(barrier);
}

// kArrivals: of the warpgroup's last warps.
template <int kArrivals = 128>
AVFLOW_DEVICE bool sync_warpgroup_any(int number, bool mine, const char* file = __builtin_FILE(),
                                      int line = __builtin_LINE()) {
    if (number != block.current / 128) emulator::fail("the barrier of another warpgroup");
    struct Argument {
        bool mine, any;
    } argument{mine, false};
    const int first = number * 128 + 128 - kArrivals;
    const bool sorts = !ordering::skipped(file, line);
    emulator::meet("warpgroup", block.warpgroups[number], first, kArrivals, &argument, [&] {
        const auto of = [&](int i) { return static_cast<Argument*>(block.fibers[first + i].argument); };
        bool any = false;
        for (int i = 0; i < kArrivals; ++i) any = any || of(i)->mine;
        for (int i = 0; i < kArrivals; ++i) of(i)->any = any;
        if (sorts) ordering::meet(first, kArrivals);
    });
    return argument.any;
}
AVFLOW_DEVICE void sync_warpgroup(int number, const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    sync_warpgroup_any(number, false, file, line);
}

// A named barrier of 256: the 128 that wait and the 128 that pass the turn.
AVFLOW_DEVICE void turn_pass(int i) {
    emulator::Crowd& turn = block.turns[i];
    ordering::arrive(&turn);
    if (++turn.arrived == 256) {
        turn.arrived = 0, ++turn.generation;
        ordering::complete(&turn);
    }
    if (turn.arrived > 256) emulator::fail("a turn was passed twice");
    block.idle = 0;
}
AVFLOW_DEVICE void turn_wait(int i) {
    const uint64_t generation = block.turns[i].generation;
    turn_pass(i);
    emulator::fiber().waits_for = "turn";
    while (block.turns[i].generation == generation) emulator::yield(true);
    ordering::wait(&block.turns[i]);
}

template <int>
AVFLOW_DEVICE void fewer_registers() {}
template <int>
AVFLOW_DEVICE void more_registers() {}
AVFLOW_DEVICE void show_to_async(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    ordering::fence(file, line);
}
AVFLOW_DEVICE void products_begin() {}
AVFLOW_DEVICE void products_commit() { ++emulator::fiber().product_groups; }

template <int kColumns>
AVFLOW_DEVICE void sums_ready(float (&)[kColumns][4]) {}

AVFLOW_DEVICE uint64_t describe(uint32_t address, uint32_t block_bytes) {
    if (address % 16) emulator::fail("a product's right side at a bad address");
    return uint64_t{1} << 62 | uint64_t{64} << 32 | uint64_t{block_bytes / 16} << 16 | address / 16;
}

AVFLOW_DEVICE uint64_t further(uint64_t description, uint32_t bytes) {
    if (bytes % 16) emulator::fail("a product's right side at a bad address");
    return description + bytes / 16;
}

// Where element (n, k) of a right side lies, as the PTX ISA lays out its canonical layouts of 128-byte swizzle.
AVFLOW_DEVICE uint32_t place_of_right(uint64_t b, bool along_k, int n, int k) {
    const uint32_t start = (b & 0x3FFF) << 4, block_bytes = (b >> 16 & 0x3FFF) << 4;
    const uint32_t eight_rows = (b >> 32 & 0x3FFF) << 4;
    const uint32_t at = start + (along_k ? n % 64 * 2 + n / 64 * block_bytes + k % 8 * 128 + k / 8 * eight_rows
                                         : k * 2 + n % 8 * 128 + n / 8 * eight_rows);
    return at ^ (at >> 7 & 7) << 4;
}

// What a product reads in shared memory from when it is begun: `size` rows or columns by 16 along k, 16 bytes at a
// time.
AVFLOW_DEVICE void order_side(uint64_t b, bool along_k, int size, const char* what) {
#ifdef EMULATE_ORDERING
    for (int n = 0; n < size; n += along_k ? 8 : 1) {
        for (int k = 0; k < 16; k += along_k ? 1 : 8) {
            ordering::product_reads(place_of_right(b, along_k, n, k), 16, emulator::fiber().product_groups + 1, what);
        }
    }
#else
    (void)b, (void)along_k, (void)size, (void)what;
#endif
}

template <bool kBf16, bool kAlongK, int kColumns>
AVFLOW_DEVICE void multiply_add_tile(float (&sum)[kColumns][4], const uint32_t (&a)[4], uint64_t b, bool add) {
    order_side(b, kAlongK, 8 * kColumns, "begins a product of a right side that is not shown to it:");
    emulator::Fiber& me = emulator::fiber();
    emulator::Product product{sum, a, {}, b, kColumns, me.product_groups, add, kAlongK, kBf16};
    bool pending = false;  // the sums of a product before it: they are not there yet
    for (const emulator::Product& other : me.products) pending = pending || other.sum == sum;
    if (!pending) product.held.assign(&sum[0][0], &sum[0][0] + 4 * kColumns);
    for (int i = 0; i < 4 * kColumns; ++i) (&sum[0][0])[i] = NAN;
    me.products.push_back(product);
}

template <bool kBf16>
AVFLOW_DEVICE void multiply_shared(float (&sum)[16][4], uint64_t a, uint64_t b, bool add) {
    static const uint32_t nothing[4] = {};
    order_side(a, false, 64, "begins a product of a left side that is not shown to it:");
    multiply_add_tile<kBf16, false>(sum, nothing, b, add);
    emulator::fiber().products.back().a = nullptr;
    emulator::fiber().products.back().left = a;
}

// Element (n, k) of a right side.
AVFLOW_DEVICE float right_side(const emulator::Product& product, int n, int k) {
    uint16_t bits;
    memcpy(&bits, block.shared + place_of_right(product.b, product.along_k, n, k), 2);
    return product.bf16 ? widen<true>(bits) : widen<false>(bits);
}

template <int kPending>
AVFLOW_DEVICE void products_wait(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
    emulator::Fiber* mine = &emulator::fiber();
    if (!ordering::skipped(file, line)) ordering::products_done(mine->product_groups - kPending);
    emulator::meet_warpgroup("products", mine, [](emulator::Fiber*** threads) {
        const ordering::Apart of_the_products;
        std::vector<emulator::Product>& first = (*threads[0])->products;
        while (!first.empty() && first[0].group < (*threads[0])->product_groups - kPending) {
            const int columns = first[0].columns;
            std::vector<float> right(16 * 8 * columns);
            for (int k = 0; k < 16; ++k) {
                for (int n = 0; n < 8 * columns; ++n) right[k * 8 * columns + n] = right_side(first[0], n, k);
            }
            float left[64][16];
            for (int t = 0; t < 128; ++t) {
                emulator::Fiber& thread = **threads[t];
                if (thread.products.empty() || thread.products[0].b != first[0].b) emulator::fail("products differ");
                const emulator::Product& product = thread.products[0];
                const int row = t / 32 * 16 + t % 32 / 4, c = 2 * (t % 4);
                for (int i = 0; product.a && i < 4; ++i) {
                    for (int half = 0; half < 2; ++half) {
                        const uint16_t bits = static_cast<uint16_t>(product.a[i] >> 16 * half);
                        left[row + 8 * (i % 2)][c + 8 * (i / 2) + half] =
                            product.bf16 ? widen<true>(bits) : widen<false>(bits);
                    }
                }
            }
            if (!first[0].a) {  // laid out as a right side whose rows run along the columns
                emulator::Product side = first[0];
                side.b = side.left;
                for (int m = 0; m < 64; ++m) {
                    for (int k = 0; k < 16; ++k) left[m][k] = right_side(side, m, k);
                }
            }
            for (int t = 0; t < 128; ++t) {
                std::vector<emulator::Product>& products = (*threads[t])->products;
                const emulator::Product product = products[0];
                products.erase(products.begin());
                const int row = t / 32 * 16 + t % 32 / 4;
                std::vector<float> sums(4 * columns);
                for (int n = 0; n < columns; ++n) {
                    for (int i = 0; i < 4; ++i) {
                        float total = product.add ? product.held[4 * n + i] : 0.0f;
                        for (int k = 0; k < 16; ++k) {
                            total += left[row + 8 * (i / 2)][k] * right[k * 8 * columns + 8 * n + 2 * (t % 4) + i % 2];
                        }
                        sums[4 * n + i] = total;
                    }
                }
                emulator::Product* next = nullptr;  // on the same sums
                for (emulator::Product& other : products) {
                    if (!next && other.sum == product.sum) next = &other;
                }
                if (next) {
                    next->held = sums;
                } else {
                    memcpy(product.sum, sums.data(), sums.size() * sizeof(float));
                }
            }
        }
    });
}

}  // namespace avflow::cuda
