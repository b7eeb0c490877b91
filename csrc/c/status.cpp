// The last failure of each thread.
#include "c/status.h"

#include <cstdio>

namespace avflow::c {
namespace {

thread_local char last[512];

}  // namespace

void remember(const char* words) { std::snprintf(last, sizeof last, "%s", words); }

void fail(AvflowStatus status, const char* format, ...) {
    va_list values;
    va_start(values, format);
    std::vsnprintf(last, sizeof last, format, values);
    va_end(values);
    throw Failure{status};
}

}  // namespace avflow::c

const char* avflow_last_error(void) { return avflow::c::last; }
