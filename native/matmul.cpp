// Dense products: normalise and prepare the rows, multiply, store. A feed-forward layer is two of
// them in one region.
#include "dense_product.h"
#include "kernel_functions.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Below this many multiply-adds (some 2 us of one thread) waking the others costs more than they
// save.
constexpr int64_t kAloneOps = 1 << 17;

// How many rows ahead of their turn lines of the result are asked for.
constexpr int64_t kRowsAhead = 8;

template <class F>
void run(int64_t ops, const F& region) {
    if (ops < kAloneOps)
        ThreadPool::instance().run_alone(region);
    else
        ThreadPool::instance().run(region);
}

template <class Epilogue>
void multiply(const Product& product, const Epilogue& epilogue) {
    if (product.rows == 0) return;
    uint8_t* memory = scratch_array<uint8_t>(ScratchSlot::kActivations, product.nbytes());
    run(product.ops(), [&](const Team& team) { product.multiply(team, 0, memory, epilogue); });
}

}  // namespace

void store_sums(float* out, int64_t n_out, const Sums& sums, bool accumulate) {
    for (int64_t r = 0; r < sums.num_rows; ++r) {
        for (int64_t p = 0; p < sums.num_panels; ++p) {
            const int64_t column = (sums.panel + p) * kPanel;
            float* to = out + (sums.row + r) * n_out + column;
            const int n = n_out - column < kPanel ? int(n_out - column) : int(kPanel);
            // Lines a row apart: the hardware foresees none of them.
            prefetch(to + kRowsAhead * n_out);
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
    const bool is_bf16 = sums.job->x.format() == WeightFormat::kBf16;
    for (int64_t r = 0; r < sums.num_rows; ++r) {
        for (int64_t p = 0; p < sums.num_panels; p += 2) {
            const int64_t column = (sums.panel + p) / 2 * kPanel;
            float* to = out + (sums.row + r) * hidden + column;
            const f32x16 gate = f32x16::load(sums.at(p, r));
            const f32x16 v =
                (is_bf16 ? silu_short(gate) : silu(gate)) * f32x16::load(sums.at(p + 1, r));
            if (hidden - column >= kPanel)
                v.store(to);
            else
                v.store_partial(to, int(hidden - column));
        }
    }
}

void store_swiglu_tiles(const Job& down, const Sums& sums) {
    const Activations& x = down.x;
    const int64_t first = sums.row - down.first_row;
    for (int64_t p = 0; p < sums.num_panels; p += 2) {
        const int64_t column = (sums.panel + p) / 2 * kPanel;
        const int64_t group = column / kGroup, half = column % kGroup / kPanel;
        // Nobody else writes what lies past the row's end.
        const bool is_rest_empty = half == 0 && column + kPanel >= x.n_in();
        const int n = x.n_in() - column < kPanel ? int(x.n_in() - column) : int(kPanel);
        uint16_t* to = nullptr;
        for (int64_t r = 0; r < sums.num_rows; ++r) {
            // The sums' rows begin with a block.
            if (r % kBlockRows == 0)
                to = reinterpret_cast<uint16_t*>(x.tile(group, (first + r) / kBlockRows)) +
                     half * kPanel;
            const f32x16 gate = f32x16::load(sums.at(p, r)), up = f32x16::load(sums.at(p + 1, r));
            const f32x16 v = silu_short(gate) * up;
            if (n == kPanel) {
                store_bf16_flushed(to, v);
            } else {
                alignas(64) float some[kPanel] = {};
                v.store_partial(some, n);
                store_bf16_flushed(to, f32x16::load(some));
            }
            if (is_rest_empty) store_bf16_flushed(to + kPanel, f32x16::zero());
            to += kGroup;
        }
    }
}

void matmul(const MatmulArgs& a) {
    multiply(Product(a.x, a.rows, a.num_prompt_rows, *a.weight, 1, a.norm),
             [&](const Sums& sums) { store_sums(a.out, a.weight->n_out, sums, a.accumulate); });
}

void matmul_swiglu(const MatmulSwigluArgs& a) {
    multiply(Product(a.x, a.rows, a.num_prompt_rows, *a.gate_up, 2, {}),
             [&](const Sums& sums) { store_swiglu(a.out, a.hidden, sums); });
}

void feed_forward(const FeedForwardArgs& a) {
    if (a.rows == 0) return;
    const int64_t hidden = a.down->n_in;
    float* activated = scratch_array<float>(ScratchSlot::kHidden, a.rows * hidden);
    const Product up(a.x, a.rows, a.num_prompt_rows, *a.gate_up, 2, a.norm);
    const Product down(activated, a.rows, a.num_prompt_rows, *a.down, 1, {});
    // Tiled rows of both products, if they are the same, go from one to the other as such.
    const bool direct = up.jobs[0].x.is_tiled() && up.jobs[0].x.rows() == down.jobs[0].x.rows();
    const int64_t num_direct = direct ? up.jobs[0].x.rows() : 0;
    uint8_t* memory =
        scratch_array<uint8_t>(ScratchSlot::kActivations, up.nbytes() + down.nbytes());
    run(up.ops() + down.ops(), [&](const Team& team) {
        const Product::Jobs down_jobs = down.place(memory + up.nbytes());
        const auto store_activated = [&](const Sums& sums) {
            if (sums.row < num_direct)
                store_swiglu_tiles(down_jobs.jobs[0], sums);
            else
                store_swiglu(activated, hidden, sums);
        };
        const auto add = [&](const Sums& sums) { store_sums(a.x, a.dim, sums, true); };
        up.multiply(team, 0, memory, store_activated);
        team.barrier();
        if (num_direct == 0) {
            down.multiply(team, 2, memory + up.nbytes(), add);
            return;
        }
        if (num_direct < a.rows) {
            down.prepare(team, down_jobs, num_direct);
            team.barrier();
        }
        down.run(team, 2, down_jobs, add);
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
