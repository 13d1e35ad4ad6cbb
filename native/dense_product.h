// One dense product inside a region: rows normalised and prepared, multiplied, handed to an
// epilogue.
#pragma once

#include "norm.h"
#include "product_jobs.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

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
    // it. It needs no memory of the caller's.
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

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
