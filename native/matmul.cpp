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

// How many rows ahead of their turn lines of the result are asked for.
constexpr int64_t kRowsAhead = 8;

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
    // Bytes of its prepared rows.
    int64_t nbytes() const { return rows_nbytes(jobs, 2); }
    // A single row is prepared by every thread for itself: cheaper than waiting for another to do
    // it.
    bool is_local() const { return rows == 1; }

    // The four below are called by every thread of the team, with the same memory, each with jobs
    // of its own.
    struct Jobs {
        Job jobs[2];
    };
    Jobs place(uint8_t* memory) const {
        Jobs mine{{jobs[0], jobs[1]}};
        place_rows(mine.jobs, 2, memory);
        return mine;
    }

    // A team's share of rows [first, rows).
    void prepare(const Team& team, const Jobs& mine, int64_t first) const {
        const auto [begin, end] = is_local() ? Team::Range{0, 1} : team.share(rows - first);
        if (norm.weight == nullptr) {
            prepare_rows(mine.jobs, 2, x + (first + begin) * weight.n_in, nullptr, first + begin,
                         first + end);
            return;
        }
        const int64_t dim = weight.n_in;
        float* normed = scratch_array<float>(ScratchSlot::kNormed, kBlockRows * dim);
        // A block at a time, so that the normalised rows are in the first cache.
        for (int64_t row = first + begin; row < first + end;) {
            const int64_t next = round_up(row + 1, kBlockRows);
            const int64_t stop = next < first + end ? next : first + end;
            for (int64_t r = row; r < stop; ++r)
                norm_row(normed + (r - row) * dim, x + r * dim, dim, norm);
            prepare_rows(mine.jobs, 2, normed, nullptr, row, stop);
            row = stop;
        }
    }

    // Uses up two of the team's sequences.
    template <class Epilogue>
    void run(const Team& team, int sequence, const Jobs& mine, const Epilogue& epilogue) const {
        for (int c = 0; c < 2; ++c)
            run_jobs(team, sequence + c, mine.jobs + c, mine.jobs[c].x.rows() > 0, weight, granule,
                     epilogue);
    }

    template <class Epilogue>
    void multiply(const Team& team, int sequence, uint8_t* memory, const Epilogue& epilogue) const {
        if (is_local()) memory = scratch_array<uint8_t>(ScratchSlot::kLocalActivations, nbytes());
        const Jobs mine = place(memory);
        prepare(team, mine, 0);
        if (!is_local()) team.barrier();
        run(team, sequence, mine, epilogue);
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

// Denormals may become zeros.
inline void store_bf16_flushed(uint16_t* p, f32x16 a) {
#if CIERZO_ISA_LEVEL >= 3
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(_mm512_cvtneps_pbh(a.v)));
#else
    store_bf16(p, a);
#endif
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
            const f32x16 v = silu(f32x16::load(sums.at(p, r))) * f32x16::load(sums.at(p + 1, r));
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
