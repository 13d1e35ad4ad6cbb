// Dense products: normalise and prepare the rows, multiply, store. A feed-forward layer is two of
// them in one region.
#include "kernel_functions.h"
#include "norm.h"
#include "product_jobs.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Below this many multiply-adds (some 2 us of one thread) waking the others costs more than they
// save.
constexpr int64_t kAloneOps = 1 << 17;

// x[rows, n_in] · Wᵀ, or rms_norm(x) · Wᵀ.
struct Product {
    const float* x;
    int64_t rows;
    const PackedWeight& weight;
    int64_t granule;  // panels that must stay together
    Norm norm;
    Job jobs[2];  // the rows multiplied in bf16, and the others

    Product(const float* x_, int64_t rows_, int64_t num_prompt_rows, const PackedWeight& weight_,
            int64_t granule_, Norm norm_)
        : Product(x_, rows_, weight_, granule_, norm_,
                  num_bf16_rows(weight_, rows_, num_prompt_rows)) {}

    int64_t ops() const { return rows * weight.n_out * weight.n_in; }
    // Bytes of its prepared rows, and before these of its normalised ones.
    int64_t nbytes() const { return normed_nbytes() + rows_nbytes(jobs, 2); }

    // Called by every thread of the team, with the same memory. Uses up two of its sequences.
    template <class Epilogue>
    void multiply(const Team& team, int sequence, uint8_t* memory, const Epilogue& epilogue) const {
        Job mine[2] = {jobs[0], jobs[1]};
        // A single row is prepared by every thread for itself: cheaper than waiting for another to
        // do it.
        const bool local = rows == 1;
        if (local) memory = scratch_array<uint8_t>(ScratchSlot::kLocalActivations, nbytes());
        place_rows(mine, 2, memory + normed_nbytes());
        const auto [begin, end] = local ? Team::Range{0, 1} : team.share(rows);
        prepare_rows(mine, 2, normalise(reinterpret_cast<float*>(memory), begin, end), nullptr,
                     begin, end);
        if (!local) team.barrier();
        for (int c = 0; c < 2; ++c)
            run_jobs(team, sequence + c, mine + c, mine[c].x.rows() > 0, weight, granule, epilogue);
    }

  private:
    Product(const float* x_, int64_t rows_, const PackedWeight& weight_, int64_t granule_,
            Norm norm_, int64_t split)
        : x(x_),
          rows(rows_),
          weight(weight_),
          granule(granule_),
          norm(norm_),
          jobs{{Activations(WeightFormat::kBf16, split, weight_.n_in), 0, 0},
               {Activations(weight_.format, rows_ - split, weight_.n_in), 0, split}} {}

    int64_t normed_nbytes() const {
        return norm.weight == nullptr ? 0 : round_up(rows * weight.n_in * 4, kAlignment);
    }

    // Rows [begin, end) as they are multiplied: those of x, or normalised in `memory`.
    const float* normalise(float* memory, int64_t begin, int64_t end) const {
        if (norm.weight == nullptr) return x;
        const int64_t dim = weight.n_in;
        for (int64_t r = begin; r < end; ++r) norm_row(memory + r * dim, x + r * dim, dim, norm);
        return memory;
    }
};

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
    const int64_t nbytes = up.nbytes() > down.nbytes() ? up.nbytes() : down.nbytes();
    uint8_t* memory = scratch_array<uint8_t>(ScratchSlot::kActivations, nbytes);
    run(up.ops() + down.ops(), [&](const Team& team) {
        up.multiply(team, 0, memory,
                    [&](const Sums& sums) { store_swiglu(activated, hidden, sums); });
        team.barrier();
        down.multiply(team, 2, memory,
                      [&](const Sums& sums) { store_sums(a.x, a.dim, sums, true); });
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
