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

// Of each thread's time how much is known: a write of thread t at a later time may not have happened yet.
using Times = std::vector<uint32_t>;

struct View {
    Times seen = Times(block.threads + 1), shown = seen;  // shown: to the async proxy. The last: the copy engine
};

struct Rendezvous {
    View arrived, over;
};

struct Write {
    uint16_t bytes;  // of the chunk of 16
    uint16_t thread;
    uint32_t time;
};

std::vector<View> views;
std::unordered_map<const void*, Rendezvous> barriers;
std::vector<Write> chunks[kSharedBytes / 16];  // the last write to each byte
std::vector<size_t> written;                   // chunks that have some
int apart = 0;
uint32_t engine = 0;  // the copy engine's time: copies that have landed
std::string skipped_file;
int skipped_line = 0;

View& mine() { return views[block.current]; }

void join(Times& to, const Times& from) {
    for (int i = 0; i <= block.threads; ++i) to[i] = std::max(to[i], from[i]);
}

void join(View& to, const View& from) {
    join(to.seen, from.seen);
    join(to.shown, from.shown);
}

// What the thread writes from here on is later than what it told others of.
void go_on(int thread) { ++views[thread].seen[thread]; }

void complain(const char* what, int thread) {
    static char text[160];
    if (thread == block.threads) {
        snprintf(text, sizeof(text), "%s of the copy engine, which is not waited for", what);
    } else {
        snprintf(text, sizeof(text), "%s that thread %d wrote", what, thread);
    }
    fail(text);
}

void forget(std::vector<Write>& chunk, uint16_t bytes) {
    for (Write& write : chunk) write.bytes &= static_cast<uint16_t>(~bytes);
    std::erase_if(chunk, [](const Write& write) { return !write.bytes; });
}

// Calls of(chunk, its bytes) for each chunk of these bytes of shared memory.
template <typename Of>
void each_chunk(size_t at, size_t n, const Of& of) {
    for (const size_t end = at + n; at < end;) {
        const size_t first = at % 16, count = std::min(end - at, 16 - first);
        of(at / 16, static_cast<uint16_t>(((1u << count) - 1) << first));
        at += count;
    }
}

// `shown`: by the async proxy, which sees nothing else. What the engine wrote is there when its barrier is waited for.
void check(size_t at, size_t n, bool shown, const char* what) {
    const View& view = mine();
    each_chunk(at, n, [&](size_t chunk, uint16_t bytes) {
        for (const Write& write : chunks[chunk]) {
            if (!(write.bytes & bytes) || (!shown && write.thread == block.current)) continue;
            const Times& known = shown && write.thread < block.threads ? view.shown : view.seen;
            if (write.time > known[write.thread]) complain(what, write.thread);
        }
    });
}

void put(size_t at, size_t n, int thread, uint32_t time) {
    each_chunk(at, n, [&](size_t i, uint16_t bytes) {
        std::vector<Write>& chunk = chunks[i];
        if (chunk.empty()) written.push_back(i);
        forget(chunk, bytes);
        chunk.push_back({bytes, static_cast<uint16_t>(thread), time});
    });
}

bool in_shared(const void* at, size_t& offset) {
    offset = static_cast<size_t>(static_cast<const char*>(at) - block.shared);
    return offset < kSharedBytes && !apart;
}

void write(const void* at, size_t n) {
    size_t offset;
    if (!in_shared(at, offset)) return;
    check(offset, n, false, "writes, without a barrier between, over what is there");
    put(offset, n, block.current, mine().seen[block.current]);
}

void read(const void* at, size_t n) {
    size_t offset;
    if (in_shared(at, offset)) check(offset, n, false, "reads, without a barrier between, what is there");
}

}  // namespace

void begin_block() {
    views.assign(block.threads, View());
    for (int i = 0; i < block.threads; ++i) go_on(i);
    barriers.clear();
    for (const size_t i : written) chunks[i].clear();
    written.clear();
    apart = 0;
    engine = 0;
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

void wrote(const void* at, size_t n) { write(at, n); }

void async_reads(uint32_t at, size_t n, const char* what) { check(at, n, true, what); }

void async_writes(uint32_t at, size_t n, const char* what) {
    check(at, n, true, what);
    put(at, n, block.threads, UINT32_MAX);
}

void landed(uint32_t at, size_t n, const void* barrier) {
    put(at, n, block.threads, ++engine);
    barriers[barrier].arrived.seen[block.threads] = engine;
}

bool skipped(const char* file, int line) {
    return line == skipped_line && std::string_view(file).ends_with(skipped_file);
}

Apart::Apart() { ++apart; }
Apart::~Apart() { --apart; }

}  // namespace emulator::ordering

using namespace emulator::ordering;

extern "C" {

// The fence, or the wait at a barrier in shared memory, in this line of the source is left out from now on; 0: none is.
void emulated_skip(const char* file, int32_t line) {
    skipped_file = file;
    skipped_line = line;
}

#define ACCESSES(n)                                   \
    void __tsan_read##n(void* at) { read(at, n); }    \
    void __tsan_write##n(void* at) { write(at, n); }  \
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
