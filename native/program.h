// Ops noted once and run at every step, with nothing of Python in between: a decode step of a small
// model is some 150 ops of 5 to 30 us, and calling each from Python costs one or two.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "forward_input.h"
#include "kv_cache.h"

namespace cierzo {

// What differs between two runs.
struct ProgramStep {
    const ForwardInput& input;
    KVCache& kv_cache;
    std::span<const int32_t> rows;  // those that gather_rows takes
};

class Program {
  public:
    using Op = std::function<void(const ProgramStep&)>;

    void add(Op op) { ops_.push_back(std::move(op)); }
    // Throws what an op throws; the ops behind it do not run.
    void run(const ProgramStep& step) const {
        for (const Op& op : ops_) op(step);
    }

  private:
    std::vector<Op> ops_;
};

}  // namespace cierzo
