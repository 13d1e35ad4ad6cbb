// Which cores a thread may use. Systems that pack threads on few cores (some virtual machines do)
// leave two that spin on one core beside an idle one for tens of milliseconds: who computes
// together says so itself.
#pragma once

#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace cierzo {

// The core the calling thread is on; -1 where the system does not tell.
int current_core();

// The cores of one thread. Does nothing where the system has no such notion.
class Placement {
  public:
    // Called once, by the thread itself.
    void begin();
    // Keeps the thread off `cores`, unless it has no others. Free when that is so already.
    void keep_off(const std::vector<int>& cores);

  private:
#if defined(__linux__)
    pid_t thread_ = 0;
    cpu_set_t allowed_;  // what it was given
    cpu_set_t current_;
#endif
};

}  // namespace cierzo
