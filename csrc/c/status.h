// How the C interface fails: a status, and words that the calling thread may ask for.
#pragma once

#include <avflow/avflow.h>

#include <algorithm>
#include <cstdarg>
#include <cstddef>
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

// How large a struct was in the first header of ABI 1.
template <typename T>
constexpr size_t kFirstSize = sizeof(T);
template <>
inline constexpr size_t kFirstSize<AvflowLayout> = offsetof(AvflowLayout, row_block);

// The caller's struct. Of an older header: fields that came later are 0. Of a newer one: fields that this library lacks
// must be 0.
template <typename T>
T read(const T* from, const char* name) {
    AVFLOW_REQUIRE(from, "%s is null", name);
    const size_t size = from->size;
    AVFLOW_REQUIRE(size == kFirstSize<T> || (size >= sizeof(T) && size <= 4096), "%s.size = %zu: set it to sizeof(%s)",
                   name, size, name);
    const char* bytes = reinterpret_cast<const char*>(from);
    AVFLOW_REQUIRE(std::all_of(bytes + std::min(size, sizeof(T)), bytes + size, [](char byte) { return byte == 0; }),
                   "%s has a field set that libavflow " AVFLOW_VERSION_STRING " does not know: it is too old", name);
    T known{};
    std::memcpy(&known, bytes, std::min(size, sizeof(T)));
    return known;
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
