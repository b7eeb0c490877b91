// Runs the CUDA kernels on the host: what csrc/cuda/attention.cu, gather.cu and passes.cu launch, block after block.
#include "cuda/ptx.h"
// (the kernels' own include of cuda/ptx.h finds that one too: this folder comes first in the include path)
#include "cuda/attention_kernel.cuh"
#include "cuda/few_rows_kernel.cuh"
#include "cuda/gather_kernel.cuh"
#include "cuda/hopper_kernel.cuh"
#include "cuda/merge_kernel.cuh"
#include "cuda/pairs_kernel.cuh"
#include "cuda/passes_kernel.cuh"
#include "cuda/tall_kernel.cuh"

using namespace avflow;
using namespace avflow::cuda;

namespace {

// The first three: which kernel takes a plan of large tiles.
enum Kernel : int32_t { kHopper, kPairs, kTall, kAttend, kFew, kGather };

// A build for one kernel at one head_dim takes bfloat16 alone, and compiles in a quarter of the time.
#ifdef EMULATE_ALONE
constexpr bool has(Kernel kernel) { return kernel == EMULATE_ALONE; }
constexpr bool has_depth(int depth) { return depth == EMULATE_DEPTH; }
constexpr bool kHasFloat16 = false;
#else
constexpr bool has(Kernel) { return true; }
constexpr bool has_depth(int) { return true; }
#ifdef EMULATE_BF16_ALONE  // half of what there is to compile
constexpr bool kHasFloat16 = false;
#else
constexpr bool kHasFloat16 = true;
#endif
#endif

enum Status : int32_t { kDone, kNotTaken, kFailed };

template <typename... Of>
bool launch(int64_t blocks, emulator::Schedule schedule, int threads, void (*kernel)(Of...),
            const std::type_identity_t<Of>&... given) {
    for (int64_t i = 0; i < blocks; ++i) {
        blockIdx.x = static_cast<unsigned>(i);
        tile_copies.clear();
        if (!emulator::run_block(threads, schedule, [&] { kernel(given...); })) return false;
    }
    return true;
}

bool mapped = false;  // of the last call: keys came by the copy engine

template <bool kBf16, int kDepth>
Status attend_blocks(Call c, const Header& h, emulator::Schedule schedule, Kernel form) {
    const auto all = [&](bool fits, const Call& call, int threads, auto kernel, const auto&... given) {
        return fits && launch(blocks_of(call, h), schedule, threads, kernel, given...) ? kDone : kFailed;
    };
    if (c.tile_heads == kWideHeads && form == kTall) {
        if constexpr (has(kTall)) {
            const auto kernel = c.mass_groups ? attend_tall<kBf16, kDepth, true> : attend_tall<kBf16, kDepth, false>;
            const Call whole = in_one_part(c);
            return all(tall_shared_bytes(whole) <= int64_t{emulator::kAnySharedBytes}, whole, kThreads, kernel, whole);
        }
    } else if (c.tile_heads == kWideHeads) {
        const auto maps = make_maps<KeyMaps>(c, h, form == kPairs ? 1 : kDepth / 64, encode);
        mapped = c.mapped;
        if (form == kPairs && c.mapped) {
            if constexpr (has(kPairs)) {
                return all(pair_shared_bytes(c) <= int64_t{emulator::kSharedBytes}, c, kWideThreads,
                           attend_pairs<kBf16, kDepth>, c, maps);
            }
        } else if constexpr (has(kHopper)) {
            return all(wide_shared_bytes(c) <= int64_t{emulator::kSharedBytes}, c, kWideThreads,
                       attend_wide<kBf16, kDepth>, c, maps);
        }
    } else if (has_few(c)) {
        if constexpr (has(kFew)) {
            return all(few_shared_bytes(c) <= int64_t{emulator::kAnySharedBytes}, c, kThreads,
                       attend_few<kBf16, kDepth>, c);
        }
    } else if constexpr (has(kAttend)) {
        return all(shared_bytes(c) <= int64_t{emulator::kAnySharedBytes}, c, kThreads, attend<kBf16, kDepth>, c);
    }
    return kNotTaken;
}

template <bool kBf16, int kDepth>
Status run(const Call& c, const Header& h, emulator::Schedule schedule, Kernel form) {
    if constexpr (has_depth(kDepth) && (kBf16 || kHasFloat16)) {
        const Status attended = attend_blocks<kBf16, kDepth>(c, h, schedule, form);
        if (attended != kDone || c.splits == 1 || (c.tile_heads == kWideHeads && form == kTall)) return attended;
        const auto join = c.tile_heads == kFewHeads    ? merge<kBf16, kFewHeads>
                          : c.tile_heads == kTileHeads ? merge<kBf16, kTileHeads>
                                                       : merge<kBf16, kWideHeads>;
        const int64_t blocks = int64_t{h.row_tiles} * c.kv_heads * c.tile_heads;
        return launch(blocks, emulator::kInStep, kThreads, join, c) ? kDone : kFailed;
    }
    return kNotTaken;
}

// One thread writes to shared memory, another tells the copy engine to write over it, or reads it. Bits of `steps`: the
// writer fences before it arrives; after; the other fences before it waits; waits; fences after; reads and copies
// nothing.
void probe(int steps) {
    uint64_t* const barriers = reinterpret_cast<uint64_t*>(block.shared + 8192);
    if (threadIdx.x == 0) {
        barrier_init(&barriers[0], 1);
        barrier_init(&barriers[1], 1);
        show_to_async();
    }
    sync_block();
    if (threadIdx.x == 0) {
        block.shared[77] = 1;
        if (steps & 1) show_to_async();
        barrier_arrive(&barriers[0]);
        if (steps & 2) show_to_async();
    }
    if (threadIdx.x == 32) {
        if (steps & 4) show_to_async();
        if (steps & 8) barrier_wait(&barriers[0], 0);
        if (steps & 16) show_to_async();
        if (steps & 32) {
            if (block.shared[77] == 1) block.shared[78] = 1;
        } else {
            barrier_arrive_for(&barriers[1], 64 * 128);
            const MapShape nothing = {{64, 0, 1, 1}, {128, 128, 128}, {64, 64, 1, 1}};
            copy_block(0, {nullptr, nothing}, 0, 0, 0, &barriers[1]);
            barrier_wait(&barriers[1], 0);
        }
    }
}

enum Holder { kThreadsRead, kMatrixLoads, kProducts, kOwnCopies };  // who is at the bytes first
enum Refill { kThreadWrites, kOwnCopy, kEngine };                   // who writes over them

// A warpgroup is at the first bytes of shared memory and lets go of them, a lane a warp; a thread of another one has
// them written over. Bits of `steps`: products and copies are waited for before that, not after; the warp meets before
// its lane arrives; the other thread waits.
void probe_refill(Holder holder, Refill refill, int steps) {
    alignas(16) static const uint16_t source[8] = {};
    uint64_t* const barriers = reinterpret_cast<uint64_t*>(block.shared + 16384);
    if (threadIdx.x == 0) {
        barrier_init(&barriers[0], 4);
        barrier_init(&barriers[1], 1);
        show_to_async();
    }
    sync_block();
    if (threadIdx.x < 128) {
        const uint32_t lane = threadIdx.x % 32;
        uint32_t words[4] = {};
        float sum[8][4] = {};
        if (holder == kThreadsRead) memcpy(words, block.shared, 16);
        if (holder == kMatrixLoads) load_matrices(words, (31 - lane) * 16);
        if (holder == kProducts) multiply_add_tile<true, false>(sum, words, describe(0, 0), true);
        if (holder == kOwnCopies && lane < 2) copy_async(threadIdx.x / 32 * 32 + lane * 16, source, true);
        products_commit();
        copy_commit();
        const auto wait = [] { products_wait<0>(), copy_wait<0>(); };
        if (steps & 1) wait();
        if (steps & 2) sync_warp();
        if (lane == 0) barrier_arrive(&barriers[0]);
        if (!(steps & 1)) wait();
        volatile uint32_t used = words[0];
        (void)used;
    } else if (threadIdx.x == 128) {
        if (steps & 4) barrier_wait(&barriers[0], 0);
        show_to_async();  // what was written there before
        if (refill == kThreadWrites) block.shared[3] = 1;
        if (refill == kOwnCopy) copy_async(0, source, true);
        if (refill == kEngine) {
            barrier_arrive_for(&barriers[1], 64 * 128);
            const MapShape nothing = {{64, 0, 1, 1}, {128, 128, 128}, {64, 64, 1, 1}};
            copy_block(0, {nullptr, nothing}, 0, 0, 0, &barriers[1]);
            barrier_wait(&barriers[1], 0);
        }
        copy_commit();
        copy_wait<0>();
    }
}

}  // namespace

extern "C" {

// 0, or 2 where the emulator finds fault with the order.
int32_t emulated_probe(int32_t steps) { return launch(1, emulator::kInStep, 64, probe, steps) ? 0 : 2; }
int32_t emulated_probe_refill(int32_t holder, int32_t refill, int32_t steps) {
    const auto run = [&](int schedule) {
        return launch(1, static_cast<emulator::Schedule>(schedule), 256, probe_refill, static_cast<Holder>(holder),
                      static_cast<Refill>(refill), steps);
    };
    return run(emulator::kInStep) && run(emulator::kRandom + 1) ? 0 : 2;
}

int64_t emulated_workspace(const AvflowAttention* a) {
    const Header& h = *reinterpret_cast<const Header*>(a->problem);
    return workspace_bytes(make_call(*a, h), h);
}

// A Status: kNotTaken where it is not a call for this kernel, or not for this build; kFailed: emulated_error() says
// what went wrong. form: one of the first three kernels.
int32_t emulated_attention(const AvflowAttention* a, int32_t schedule, int32_t form) {
    const Header& h = *reinterpret_cast<const Header*>(a->problem);
    if (!accepts(*a, h)) return kNotTaken;
    if (h.rows == 0) return kDone;
    const Call c = make_call(*a, h);
    const auto order = static_cast<emulator::Schedule>(schedule);
    const bool bf16 = a->dtype == AVFLOW_BFLOAT16;
    const auto attend =
        c.depth == 64 ? (bf16 ? run<true, 64> : run<false, 64>) : (bf16 ? run<true, 128> : run<false, 128>);
    return attend(c, h, order, static_cast<Kernel>(form));
}

// 0 or 2, and the elements that a thread reads at once in `wide`.
int32_t emulated_gather_rms_norm(const AvflowGatherRmsNorm* a, int32_t schedule, int32_t* wide) {
    const GatherCall c = make_call(*a);
    const auto order = static_cast<emulator::Schedule>(schedule);
    const bool bf16 = a->dtype == AVFLOW_BFLOAT16;
    *wide = reads_wide(*a) ? kWide : 1;
    const auto kernel = *wide > 1 ? (bf16 ? gather_rms_norm<true, kWide> : gather_rms_norm<false, kWide>)
                                  : (bf16 ? gather_rms_norm<true, 1> : gather_rms_norm<false, 1>);
    return launch(a->m, order, c.threads, kernel, c) ? 0 : 2;
}

// 0 or 2, and the bytes that a thread copies in `unit`.
int32_t emulated_compact(const AvflowCompact* a, int32_t* unit) {
    const avflow::cuda::CompactCall c = make_call(*a);
    *unit = unit_of(*a);
    const auto kernel = *unit == 16 ? compact<16> : *unit == 8 ? compact<8> : *unit == 4 ? compact<4> : compact<2>;
    return launch(blocks_of(c), emulator::kInStep, kCompactThreads, kernel, c) ? 0 : 2;
}

// The same of the decoder's passes.
int32_t emulated_rotary(const AvflowRotary* a, int32_t* wide) {
    *wide = reads_wide(*a) ? kWide : 1;
    const avflow::cuda::RotaryCall c = make_call(*a);
    return launch(pass_blocks(c), emulator::kInStep, kPassThreads, rotary_for(*a), c) ? 0 : 2;
}

int32_t emulated_silu_mul(const AvflowSiluMul* a, int32_t* wide) {
    const bool bf16 = a->dtype == AVFLOW_BFLOAT16;
    *wide = reads_wide(*a) ? kWide : 1;
    const auto kernel = *wide > 1 ? (bf16 ? silu_mul<true, kWide> : silu_mul<false, kWide>)
                                  : (bf16 ? silu_mul<true, 1> : silu_mul<false, 1>);
    const avflow::cuda::SiluMulCall c = make_call(*a);
    return launch(pass_blocks(c), emulator::kInStep, kPassThreads, kernel, c) ? 0 : 2;
}

int32_t emulated_mapped() { return mapped; }

int32_t emulated_splits(const AvflowAttention* a) {
    return make_call(*a, *reinterpret_cast<const Header*>(a->problem)).splits;
}

int64_t emulated_wide_split_tiles(int64_t blocks, int64_t max_tiles, int64_t total_tiles) {
    return wide_split_tiles(blocks, max_tiles, total_tiles);
}

int64_t emulated_few_split_tiles(int64_t blocks, int64_t max_tiles, int64_t total_tiles) {
    return few_split_tiles(blocks, max_tiles, total_tiles);
}

const char* emulated_error() { return emulator::block.error; }

}  // extern "C"
