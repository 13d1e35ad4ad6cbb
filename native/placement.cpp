#include "placement.h"

#if defined(__linux__)
#include <unistd.h>
#endif

namespace cierzo {

#if defined(__linux__)

int current_core() {
    return sched_getcpu();
}

void Placement::begin() {
    CPU_ZERO(&allowed_);
    if (sched_getaffinity(0, sizeof allowed_, &allowed_) != 0) return;
    current_ = allowed_;
    thread_ = gettid();
}

void Placement::keep_off(const std::vector<int>& cores) {
    if (thread_ == 0) return;
    cpu_set_t wanted = allowed_;
    for (const int core : cores)
        if (core >= 0 && core < CPU_SETSIZE) CPU_CLR(core, &wanted);
    if (CPU_COUNT(&wanted) == 0 || CPU_EQUAL(&wanted, &current_)) return;
    // A core that the system has taken away since makes this fail: the thread stays where it is.
    if (sched_setaffinity(thread_, sizeof wanted, &wanted) == 0) current_ = wanted;
}

#else

int current_core() {
    return -1;
}

void Placement::begin() {}

void Placement::keep_off(const std::vector<int>&) {}

#endif

}  // namespace cierzo
