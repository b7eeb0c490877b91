// What GCC's own archives ask of glibc, and 2.28 does not have: linked into each library where a release is made on a
// machine with a newer glibc (old_glibc.py).
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdint.h>
#include <string.h>
#include <sys/random.h>

// Since 2.32. Zero is right for any process: libstdc++ then counts its references atomically.
char __libc_single_threaded = 0;

struct search {
    uintptr_t address;
    struct dl_find_object* object;
};

static int look(struct dl_phdr_info* info, size_t size, void* given) {
    struct search* search = (struct search*)given;
    uintptr_t low = UINTPTR_MAX, high = 0, frames = 0;
    int within = 0;
    (void)size;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr)* part = &info->dlpi_phdr[i];
        uintptr_t begin = info->dlpi_addr + part->p_vaddr, end = begin + part->p_memsz;
        if (part->p_type == PT_GNU_EH_FRAME) frames = begin;
        if (part->p_type != PT_LOAD) continue;
        if (begin < low) low = begin;
        if (end > high) high = end;
        within |= search->address >= begin && search->address < end;
    }
    if (!within) return 0;
    memset(search->object, 0, sizeof *search->object);
    search->object->dlfo_map_start = (void*)low;
    search->object->dlfo_map_end = (void*)high;
    search->object->dlfo_eh_frame = (void*)frames;
    return frames ? 1 : -1;
}

// Since 2.35: the file that an address lies in, and its table of frames. The unwinder of GCC 12 asks nothing else.
int _dl_find_object(void* address, struct dl_find_object* object) {
    struct search search = {(uintptr_t)address, object};
    return dl_iterate_phdr(look, &search) == 1 ? 0 : -1;
}

// Since 2.36. libstdc++'s std::random_device names it; nothing here makes one.
uint32_t arc4random(void) {
    uint32_t bits = 0;
    while (getrandom(&bits, sizeof bits, 0) != sizeof bits) {
    }
    return bits;
}
