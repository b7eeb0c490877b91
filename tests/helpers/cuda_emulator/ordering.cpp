// The clocks of ordering.h, and what ThreadSanitizer's instrumentation calls. Not instrumented itself.
#include "ordering.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "fibers.h"

namespace emulator::ordering {
namespace {

// A time of each clock: of the threads, of the copy engine, and of each warp's products. Of a thread's time so much is
// known: an access of its at a later one may not have happened yet.
using Times = std::vector<uint32_t>;

int engine() { return block.threads; }
int products(int warp) { return block.threads + 1 + warp; }
int clocks() { return products(block.threads / 32); }

struct View {
    Times seen = Times(clocks()), shown = seen;  // shown: to the async proxy
};

struct Rendezvous {
    View arrived, over;
};

struct Write {
    uint16_t bytes;  // of the chunk of 16
    uint16_t clock;
    uint32_t time;
};

using Read = Write;

struct ManyReads {
    uint16_t bytes;
    Times times;
};

// Reads since the last write to their bytes, without those that another of the same bytes is behind.
struct Chunk {
    std::vector<Write> writes;  // the last to each byte
    std::vector<Read> reads;
    std::vector<ManyReads> crowds;  // where more than kFewReads read the same bytes
    bool touched = false;
};

constexpr uint32_t kUnderWay = UINT32_MAX;  // later than all that is known
constexpr int kFewReads = 16;

std::vector<View> views;
std::unordered_map<const void*, Rendezvous> barriers;
Chunk chunks[kSharedBytes / 16];
std::vector<size_t> touched;  // chunks
int apart = 0;
uint32_t landings = 0;  // the copy engine's time
std::string skipped_file;
int skipped_line = 0, skipped_visit = -1;
std::vector<int> visits;  // of each thread to that line

View& mine() { return views[block.current]; }

void join(Times& to, const Times& from) {
    for (size_t i = 0; i < to.size(); ++i) to[i] = std::max(to[i], from[i]);
}

void join(View& to, const View& from) {
    join(to.seen, from.seen);
    join(to.shown, from.shown);
}

// What the thread does from here on is later than what it told others of.
void go_on(int thread) { ++views[thread].seen[thread]; }

void complain(const char* what, const Write& write) {
    static char text[160];
    if (write.clock == engine()) {
        snprintf(text, sizeof(text), "%s of the copy engine, which is not waited for", what);
    } else if (write.time == kUnderWay) {
        snprintf(text, sizeof(text), "%s of a copy of thread %d, which is not waited for", what, write.clock);
    } else {
        snprintf(text, sizeof(text), "%s that thread %d wrote", what, write.clock);
    }
    fail(text);
}

void complain_of_read(const char* what, int clock) {
    static char text[160];
    if (clock < block.threads) {
        snprintf(text, sizeof(text), "%s thread %d may still read", what, clock);
    } else {
        snprintf(text, sizeof(text), "%s a product of warp %d may still read", what, clock - products(0));
    }
    fail(text);
}

template <typename Access>
void forget(std::vector<Access>& accesses, uint16_t bytes) {
    for (Access& access : accesses) access.bytes &= static_cast<uint16_t>(~bytes);
    std::erase_if(accesses, [](const Access& access) { return !access.bytes; });
}

// Calls of(chunk, its bytes) for each chunk of these bytes of shared memory.
template <typename Of>
void each_chunk(size_t at, size_t n, const Of& of) {
    for (const size_t end = at + n; at < end;) {
        const size_t first = at % 16, count = std::min(end - at, 16 - first);
        Chunk& chunk = chunks[at / 16];
        if (!chunk.touched) chunk.touched = true, touched.push_back(at / 16);
        of(chunk, static_cast<uint16_t>(((1u << count) - 1) << first));
        at += count;
    }
}

// `shown`: by the async proxy, which sees nothing else. What the engine wrote is there when its barrier is waited for.
void check_writes(const Chunk& chunk, uint16_t bytes, const View& view, int thread, bool shown, const char* what) {
    for (const Write& write : chunk.writes) {
        if (!(write.bytes & bytes)) continue;
        if (!shown && write.clock == thread && write.time != kUnderWay) continue;
        const Times& known = shown && write.clock != engine() ? view.shown : view.seen;
        if (write.time > known[write.clock]) complain(what, write);
    }
}

void check_reads(const Chunk& chunk, uint16_t bytes, const View& view, const char* what) {
    for (const Read& read : chunk.reads) {
        if (read.bytes & bytes && read.time > view.seen[read.clock]) complain_of_read(what, read.clock);
    }
    for (const ManyReads& crowd : chunk.crowds) {
        if (!(crowd.bytes & bytes)) continue;
        for (size_t i = 0; i < crowd.times.size(); ++i) {
            if (crowd.times[i] > view.seen[i]) complain_of_read(what, static_cast<int>(i));
        }
    }
}

// Has that clock, at this very time, read these bytes, and nobody written there since?
bool knows(const Chunk& chunk, uint16_t bytes, int clock, uint32_t time) {
    for (const Read& read : chunk.reads) {
        if (read.bytes == bytes && read.clock == clock && read.time == time) return true;
    }
    for (const ManyReads& crowd : chunk.crowds) {
        if (crowd.bytes == bytes && crowd.times[clock] == time) return true;
    }
    return false;
}

void note_read(Chunk& chunk, uint16_t bytes, const View& view, int clock, uint32_t time) {
    for (ManyReads& crowd : chunk.crowds) {
        if (crowd.bytes == bytes) {
            crowd.times[clock] = time;
            return;
        }
    }
    int others = 0;
    for (Read& read : chunk.reads) {
        if (read.bytes != bytes) continue;
        if (read.clock == clock || read.time <= view.seen[read.clock]) {
            read = {bytes, static_cast<uint16_t>(clock), time};
            return;
        }
        ++others;
    }
    if (others < kFewReads) {
        chunk.reads.push_back({bytes, static_cast<uint16_t>(clock), time});
        return;
    }
    ManyReads crowd = {bytes, Times(clocks())};
    crowd.times[clock] = time;
    for (const Read& read : chunk.reads) {
        if (read.bytes == bytes) crowd.times[read.clock] = std::max(crowd.times[read.clock], read.time);
    }
    std::erase_if(chunk.reads, [&](const Read& read) { return read.bytes == bytes; });
    chunk.crowds.push_back(std::move(crowd));
}

void put(size_t at, size_t n, int clock, uint32_t time) {
    each_chunk(at, n, [&](Chunk& chunk, uint16_t bytes) {
        forget(chunk.writes, bytes);
        forget(chunk.reads, bytes);
        forget(chunk.crowds, bytes);
        chunk.writes.push_back({bytes, static_cast<uint16_t>(clock), time});
    });
}

void read_by(int thread, size_t at, size_t n) {
    const View& view = views[thread];
    const uint32_t now = view.seen[thread];
    each_chunk(at, n, [&](Chunk& chunk, uint16_t bytes) {
        if (knows(chunk, bytes, thread, now)) return;
        check_writes(chunk, bytes, view, thread, false, "reads, without a barrier between, what is there");
        note_read(chunk, bytes, view, thread, now);
    });
}

// By the running thread, in the generic proxy.
void check_over(size_t at, size_t n, const char* of_writes, const char* of_reads) {
    each_chunk(at, n, [&](const Chunk& chunk, uint16_t bytes) {
        check_writes(chunk, bytes, mine(), block.current, false, of_writes);
        check_reads(chunk, bytes, mine(), of_reads);
    });
}

bool in_shared(const void* at, size_t& offset) {
    offset = static_cast<size_t>(static_cast<const char*>(at) - block.shared);
    return offset < kSharedBytes && !apart;
}

void write(const void* at, size_t n) {
    size_t offset;
    if (!in_shared(at, offset)) return;
    check_over(offset, n, "writes, without a barrier between, over what is there",
               "writes, without a barrier between, over what");
    put(offset, n, block.current, mine().seen[block.current]);
}

void read(const void* at, size_t n) {
    size_t offset;
    if (in_shared(at, offset)) read_by(block.current, offset, n);
}

}  // namespace

void begin_block() {
    views.assign(block.threads, View());
    for (int i = 0; i < block.threads; ++i) go_on(i);
    barriers.clear();
    for (const size_t i : touched) {
        chunks[i].writes.clear();
        chunks[i].reads.clear();
        chunks[i].crowds.clear();
        chunks[i].touched = false;
    }
    touched.clear();
    apart = 0;
    landings = 0;
    visits.assign(block.threads, 0);
}

void meet(int first, int size) {
    View all = views[first];
    for (int i = first + 1; i < first + size; ++i) join(all, views[i]);
    for (int i = first; i < first + size; ++i) {
        views[i] = all;
        go_on(i);
    }
}

void arrive(const void* barrier) {
    join(barriers[barrier].arrived, mine());
    go_on(block.current);
}

void complete(const void* barrier) { barriers[barrier].over = barriers[barrier].arrived; }

void wait(const void* barrier) { join(mine(), barriers[barrier].over); }

void fence(const char* file, int line) {
    if (skipped(file, line)) return;
    join(mine().shown, mine().seen);
    go_on(block.current);
}

void reads(uint32_t at, size_t n, int thread) { read_by(thread, at, n); }

void copies(uint32_t at, size_t n) {
    check_over(at, n, "begins a copy, without a barrier between, over what is there",
               "begins a copy, without a barrier between, over what");
    put(at, n, block.current, kUnderWay);
}

void copied(uint32_t at, size_t n) { put(at, n, block.current, mine().seen[block.current]); }

void product_reads(uint32_t at, size_t n, int group, const char* what) {
    const int clock = products(block.current / 32);
    each_chunk(at, n, [&](Chunk& chunk, uint16_t bytes) {
        check_writes(chunk, bytes, mine(), block.current, true, what);
        if (block.current % 32 == 0) note_read(chunk, bytes, mine(), clock, group);  // once a warp
    });
}

void products_done(int group) {
    uint32_t& known = mine().seen[products(block.current / 32)];
    known = std::max(known, static_cast<uint32_t>(std::max(group, 0)));
}

void engine_counts(uint32_t barrier, size_t n) {
    each_chunk(barrier, n, [&](const Chunk& chunk, uint16_t bytes) {
        check_writes(chunk, bytes, mine(), block.current, true,
                     "tells the copy engine of a barrier that is not shown to it:");
    });
}

void engine_writes(uint32_t at, size_t n) {
    each_chunk(at, n, [&](const Chunk& chunk, uint16_t bytes) {
        check_writes(chunk, bytes, mine(), block.current, true,
                     "tells the copy engine to write over what is not shown to it:");
        check_reads(chunk, bytes, mine(), "tells the copy engine to write over what");
    });
    put(at, n, engine(), kUnderWay);
}

void landed(uint32_t at, size_t n, const void* barrier) {
    put(at, n, engine(), ++landings);
    barriers[barrier].arrived.seen[engine()] = landings;
}

bool skipped(const char* file, int line) {
    if (line != skipped_line || !std::string_view(file).ends_with(skipped_file)) return false;
    const int visit = visits[block.current]++;
    return skipped_visit < 0 || visit == skipped_visit;
}

Apart::Apart() { ++apart; }
Apart::~Apart() { --apart; }

}  // namespace emulator::ordering

using namespace emulator::ordering;

extern "C" {

// From now on what stands in this line of the source is left out, each time or (visit >= 0) at a thread's visit of that
// number alone; line 0: nothing is. Waits at a barrier in shared memory and fences really are. All else does what it
// does, but puts nothing in order, so that the clocks alone can tell: barriers of threads; arrivals, which then count
// as if they came before all that their thread has done; waits for products and copies.
void emulated_skip(const char* file, int32_t line, int32_t visit) {
    skipped_file = file;
    skipped_line = line;
    skipped_visit = visit;
}

#define ACCESSES(n)                                          \
    void __tsan_read##n(void* at) { read(at, n); }           \
    void __tsan_write##n(void* at) { write(at, n); }         \
    void __tsan_unaligned_read##n(void* at) { read(at, n); } \
    void __tsan_unaligned_write##n(void* at) { write(at, n); }
ACCESSES(1)
ACCESSES(2)
ACCESSES(4)
ACCESSES(8)
ACCESSES(16)
#undef ACCESSES

void __tsan_read_range(void* at, size_t n) { read(at, n); }
void __tsan_write_range(void* at, size_t n) { write(at, n); }
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}

}  // extern "C"
