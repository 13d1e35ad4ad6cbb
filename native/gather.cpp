#include <cstring>

#include "kernel_functions.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

void gather_rows(float* out, const float* x, int64_t cols, const int32_t* rows, int64_t num_rows) {
    ThreadPool::instance().run_alone([&](const Team&) {
        for (int64_t r = 0; r < num_rows; ++r)
            std::memcpy(out + r * cols, x + rows[r] * cols, size_t(cols) * sizeof(float));
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
