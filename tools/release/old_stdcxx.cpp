// What the headers of GCC 12 ask of libstdc++, and that of GCC 8 (manylinux_2_28) does not have. Weak: where libstdc++
// itself is linked in, its own go first.
#include <exception>
#include <new>

#define AVFLOW_WEAK __attribute__((weak, visibility("hidden")))

extern "C" {
// The copy constructor and the destructor of std::exception_ptr, which that library has.
void avflow_copy_exception(void* self, const void* from) __asm__("_ZNSt15__exception_ptr13exception_ptrC1ERKS0_");
void avflow_drop_exception(void* self) __asm__("_ZNSt15__exception_ptr13exception_ptrD1Ev");

// std::exception_ptr::_M_addref() and _M_release(): the first and the last thing that these two do.
AVFLOW_WEAK void avflow_add_reference(void* self) __asm__("_ZNSt15__exception_ptr13exception_ptr9_M_addrefEv");
AVFLOW_WEAK void avflow_release(void** self) __asm__("_ZNSt15__exception_ptr13exception_ptr10_M_releaseEv");
AVFLOW_WEAK void avflow_bad_length() __asm__("_ZSt28__throw_bad_array_new_lengthv");

void avflow_add_reference(void* self) {
    void* copy = nullptr;  // an exception_ptr is one pointer; this one is never destroyed
    avflow_copy_exception(&copy, self);
}

void avflow_release(void** self) {
    avflow_drop_exception(self);
    *self = nullptr;
}

void avflow_bad_length() { throw std::bad_array_new_length(); }
}
