// Which accesses to shared memory are in order, by clocks. A write of one thread and a read of another need a barrier
// between them, whichever comes first, and so do two writes; and where the async proxy (a product, or a copy of the
// copy engine) comes after a write, also a fence.proxy.async somewhere on the way: by the writer before it arrives, or
// by the reader after it has waited. A write that comes after a read needs none, in either proxy.
//
// Built with EMULATE_ORDERING alone, which is slower: all loads and stores of the kernels are then instrumented as for
// ThreadSanitizer, whose part ordering.cpp plays. Without it these functions are nothing.
//
// What runs in the background:
// - A copy of the copy engine is a write from when it is told of until somebody waits for its barrier: what it writes
//   over must have been let go of when it is told, and what it wrote, only a thread that has waited, or one that is
//   behind such a thread, may read or write over.
// - A thread's own copies (cp.async) are writes from when they are begun until that thread waits for them.
// - A product reads from when it is begun until its warp waits for it. Each warp of the warpgroup reads all of both
//   sides, and a barrier that one warp passes tells nothing of the others' products.
//
// What sorts a thread's accesses behind another's: barriers of a warp, of a warpgroup and of the block, turns, and
// barriers in shared memory. Shuffles, votes of products and matrix loads do not, though they wait for all of a warp.
// Memory of the device is not followed: no block of a kernel reads there what another thread of it writes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator::ordering {

#ifdef EMULATE_ORDERING

void begin_block();
void meet(int first, int size);                 // threads first .. first + size - 1 pass a barrier together
void arrive(const void* barrier);               // by the running thread
void complete(const void* barrier);             // a phase has ended: who waits for it is behind all that have arrived
void wait(const void* barrier);                 // by the running thread, when it is over
void fence(const char* file, int line);         // fence.proxy.async of the running thread, at that place of the source
void reads(uint32_t at, size_t n, int thread);  // a matrix load: that thread, of those it runs for, names these bytes
void copies(uint32_t at, size_t n);             // the running thread begins a copy of its own
void copied(uint32_t at, size_t n);             // and has waited for it
// The running thread begins a product, in that group of its warp's (the first is 1), that reads these bytes; `what` is
// for the error.
void product_reads(uint32_t at, size_t n, int group, const char* what);
void products_done(int group);  // the running thread has waited for its warp's products, up to that group
// The running thread tells the copy engine of a barrier, and to write over these bytes.
void engine_counts(uint32_t barrier, size_t n);
void engine_writes(uint32_t at, size_t n);
void landed(uint32_t at, size_t n, const void* barrier);  // what the engine wrote: there for who waits at the barrier
// Is what stands in this line of the source left out? Asked each time that the running thread comes there.
bool skipped(const char* file, int line);

// While one is alive, accesses are the emulator's own, or have been told of.
struct Apart {
    Apart();
    ~Apart();
};

#else

inline void begin_block() {}
inline void meet(int, int) {}
inline void arrive(const void*) {}
inline void complete(const void*) {}
inline void wait(const void*) {}
inline void fence(const char*, int) {}
inline void reads(uint32_t, size_t, int) {}
inline void copies(uint32_t, size_t) {}
inline void copied(uint32_t, size_t) {}
inline void product_reads(uint32_t, size_t, int, const char*) {}
inline void products_done(int) {}
inline void engine_counts(uint32_t, size_t) {}
inline void engine_writes(uint32_t, size_t) {}
inline void landed(uint32_t, size_t, const void*) {}
inline bool skipped(const char*, int) { return false; }

struct Apart {
    Apart() {}
};

#endif

}  // namespace emulator::ordering
