// RMSNorm over rows: x / sqrt(mean(x²) + eps) · weight.
#include "norm.h"

#include <cmath>

#include "kernel_functions.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Below this many values the work takes less time than waking the other threads.
constexpr int64_t kWorthSharing = 16384;

}  // namespace

void norm_row(float* out, const float* x, int64_t dim, const Norm& norm) {
    const float* weight = norm.weight;
    const int64_t whole = dim / kLanes * kLanes;
    const int rest = int(dim - whole);
    f32x16 squares = f32x16::zero();
    for (int64_t i = 0; i < whole; i += kLanes) {
        const f32x16 v = f32x16::load(x + i);
        squares = fma(v, v, squares);
    }
    if (rest > 0) {
        const f32x16 v = f32x16::load_partial(x + whole, rest);
        squares = fma(v, v, squares);
    }
    const float mean = reduce_add(squares) / float(dim);
    const f32x16 scale = f32x16::broadcast(1.0f / std::sqrt(mean + norm.eps));
    for (int64_t i = 0; i < whole; i += kLanes)
        (f32x16::load(x + i) * scale * f32x16::load(weight + i)).store(out + i);
    if (rest > 0)
        (f32x16::load_partial(x + whole, rest) * scale * f32x16::load_partial(weight + whole, rest))
            .store_partial(out + whole, rest);
}

void rms_norm(float* out, const float* x, const float* weight, int64_t rows, int64_t dim,
              float eps) {
    auto work = [&](const Team& team) {
        const auto [begin, end] = team.share(rows);
        for (int64_t r = begin; r < end; ++r)
            norm_row(out + r * dim, x + r * dim, dim, {weight, eps});
    };
    if (rows * dim < kWorthSharing)
        ThreadPool::instance().run_alone(work);
    else
        ThreadPool::instance().run(work);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
