// How the C interface fails: a status, and words that the calling thread may ask for.
#pragma once

#include <avflow/avflow.h>

#include <algorithm>
#include <cstdarg>
#include <cstring>
#include <exception>
#include <new>
#include <string>

namespace avflow::c {

// Of the calling thread.
void remember(const char* words);

struct Failure {
    AvflowStatus status;
};

[[noreturn]] __attribute__((format(printf, 2, 3))) void fail(AvflowStatus status, const char* format, ...);

#define AVFLOW_REQUIRE(condition, ...)                                    \
    do {                                                                  \
        if (!(condition)) ::avflow::c::fail(AVFLOW_INVALID, __VA_ARGS__); \
    } while (0)

// Runs body; nothing it throws gets out.
template <typename Body>
AvflowStatus guarded(const Body& body) noexcept {
    try {
        body();
        return AVFLOW_OK;
    } catch (const Failure& failure) {
        return failure.status;
    } catch (const std::bad_alloc&) {
        remember("out of memory");
        return AVFLOW_NO_MEMORY;
    } catch (const std::exception& error) {
        remember(error.what());
        return AVFLOW_INVALID;
    } catch (...) {
        remember("an exception that is no std::exception, of a thread pool's perhaps");
        return AVFLOW_INVALID;
    }
}

// The caller's struct, which may be of a newer header: then fields that this library lacks must be 0. Since ABI 1 has
// had one version of each struct so far, none may be smaller.
template <typename T>
T read(const T* from, const char* name) {
    AVFLOW_REQUIRE(from, "%s is null", name);
    AVFLOW_REQUIRE(from->size >= sizeof(T) && from->size <= 4096, "%s.size = %zu: set it to sizeof(%s)", name,
                   from->size, name);
    const char* bytes = reinterpret_cast<const char*>(from);
    AVFLOW_REQUIRE(std::all_of(bytes + sizeof(T), bytes + from->size, [](char byte) { return byte == 0; }),
                   "%s has a field set that libavflow " AVFLOW_VERSION_STRING " does not know: it is too old", name);
    return *from;
}

// Into the caller's struct; fields of a newer header than this library's become 0.
template <typename T>
void write(T* to, T value, const char* name) {
    AVFLOW_REQUIRE(to, "%s is null", name);
    const size_t size = to->size;
    AVFLOW_REQUIRE(size >= sizeof(T) && size <= 4096, "%s.size = %zu: set it to sizeof(%s)", name, size, name);
    value.size = size;
    std::memset(reinterpret_cast<char*>(to), 0, size);
    std::memcpy(to, &value, sizeof(T));
}

}  // namespace avflow::c
