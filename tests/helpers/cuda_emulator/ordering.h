// Which accesses to shared memory are in order, by clocks: a write of one thread and a read of another need a barrier
// between them; and where the other side is the async proxy (a product, or a copy of the copy engine), also
// a fence.proxy.async somewhere on the way: by the writer before it arrives, or by the reader after it has waited.
//
// Built with EMULATE_ORDERING alone, which is slower: all loads and stores of the kernels are then instrumented as for
// ThreadSanitizer, whose part ordering.cpp plays. Without it these functions are nothing.
//
// What the copy engine wrote, only a thread that has waited for its barrier may read, or one that is behind such a thread.
// Who writes over what others may still read is not found: values under the schedules of fibers.h have to show that.
//
// What sorts a thread's accesses behind another's: barriers of a warp, of a warpgroup and of the block, turns, and
// barriers in shared memory. Shuffles, votes of products and matrix loads do not.
#pragma once

#include <cstddef>
#include <cstdint>

namespace emulator::ordering {

#ifdef EMULATE_ORDERING

void begin_block();
void meet(int first, int size);        // threads first .. first + size - 1 pass a barrier together
void arrive(const void* barrier);      // by the running thread
void complete(const void* barrier);    // a phase has ended: who waits for it is behind all that have arrived
void wait(const void* barrier);        // by the running thread, when it is over
void fence(const char* file, int line);  // fence.proxy.async of the running thread, at that place of the source
void wrote(const void* at, size_t n);  // by the running thread, in the generic proxy
// The async proxy, told by the running thread, reads or overwrites these bytes; `what` is for the error.
void async_reads(uint32_t at, size_t n, const char* what);
void async_writes(uint32_t at, size_t n, const char* what);
void landed(uint32_t at, size_t n, const void* barrier);  // what the engine wrote: there for who waits at the barrier
bool skipped(const char* file, int line);                 // is the wait in this line of the source to be left out?

// While one is alive, what is written is the emulator's own or the async proxy's.
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
inline void wrote(const void*, size_t) {}
inline void async_reads(uint32_t, size_t, const char*) {}
inline void async_writes(uint32_t, size_t, const char*) {}
inline void landed(uint32_t, size_t, const void*) {}
inline bool skipped(const char*, int) { return false; }

struct Apart {
    Apart() {}
};

#endif

}  // namespace emulator::ordering
