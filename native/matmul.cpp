// Dense products: prepare the rows, multiply, store.
#include "kernel_functions.h"
#include "product_jobs.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Below this many multiply-adds (some 2 us of one thread) waking the others costs more than they
// save.
constexpr int64_t kAloneOps = 1 << 17;

template <class Epilogue>
void multiply(const float* x, int64_t rows, int64_t num_prompt_rows, const PackedWeight& weight,
              int64_t granule, const Epilogue& epilogue) {
    if (rows == 0) return;
    const int64_t split = num_bf16_rows(weight, rows, num_prompt_rows);
    Job jobs[2] = {{Activations(WeightFormat::kBf16, split, weight.n_in), 0, 0},
                   {Activations(weight.format, rows - split, weight.n_in), 0, split}};
    const int64_t nbytes = rows_nbytes(jobs, 2);
    // A single row is prepared by every thread for itself: cheaper than waiting for another to do
    // it.
    const bool local = rows == 1;
    if (!local) place_rows(jobs, 2, scratch_array<uint8_t>(ScratchSlot::kActivations, nbytes));
    const auto region = [&](const Team& team) {
        Job mine[2] = {jobs[0], jobs[1]};
        if (local) {
            place_rows(mine, 2, scratch_array<uint8_t>(ScratchSlot::kLocalActivations, nbytes));
            prepare_rows(mine, 2, x, nullptr, 0, rows);
        } else {
            const auto [begin, end] = team.share(rows);
            prepare_rows(mine, 2, x, nullptr, begin, end);
            team.barrier();
        }
        for (int c = 0; c < 2; ++c)
            run_jobs(team, c, mine + c, mine[c].x.rows() > 0, weight, granule, epilogue);
    };
    if (rows * weight.n_out * weight.n_in < kAloneOps)
        ThreadPool::instance().run_alone(region);
    else
        ThreadPool::instance().run(region);
}

}  // namespace

void store_sums(float* out, int64_t n_out, const Sums& sums, bool accumulate) {
    for (int64_t r = 0; r < sums.num_rows; ++r) {
        for (int64_t p = 0; p < sums.num_panels; ++p) {
            const int64_t column = (sums.panel + p) * kPanel;
            float* to = out + (sums.row + r) * n_out + column;
            const int n = n_out - column < kPanel ? int(n_out - column) : int(kPanel);
            f32x16 v = f32x16::load(sums.at(p, r));
            if (n == kPanel) {
                if (accumulate) v = f32x16::load(to) + v;
                v.store(to);
            } else {
                if (accumulate) v = f32x16::load_partial(to, n) + v;
                v.store_partial(to, n);
            }
        }
    }
}

void store_swiglu(float* out, int64_t hidden, const Sums& sums) {
    for (int64_t r = 0; r < sums.num_rows; ++r) {
        for (int64_t p = 0; p < sums.num_panels; p += 2) {
            const int64_t column = (sums.panel + p) / 2 * kPanel;
            float* to = out + (sums.row + r) * hidden + column;
            const f32x16 v = silu(f32x16::load(sums.at(p, r))) * f32x16::load(sums.at(p + 1, r));
            if (hidden - column >= kPanel)
                v.store(to);
            else
                v.store_partial(to, int(hidden - column));
        }
    }
}

void matmul(const MatmulArgs& a) {
    multiply(a.x, a.rows, a.num_prompt_rows, *a.weight, 1,
             [&](const Sums& sums) { store_sums(a.out, a.weight->n_out, sums, a.accumulate); });
}

void matmul_swiglu(const MatmulSwigluArgs& a) {
    multiply(a.x, a.rows, a.num_prompt_rows, *a.gate_up, 2,
             [&](const Sums& sums) { store_swiglu(a.out, a.hidden, sums); });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
