// Sharing products over threads: jobs (one per dense matrix, or per chosen expert) are cut into
// units of some rows x some panels, and free threads take the next one.
#pragma once

#include <optional>

#include "product.h"
#include "scratch.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

// Prepared rows for one expert's matrix; `first_row` is where they start in the caller's numbering.
struct Job {
    Activations x;
    int64_t expert;
    int64_t first_row;
};

// How many of a product's rows are multiplied in bf16; the others, after them, as integers.
inline int64_t num_bf16_rows(const PackedWeight& weight, int64_t rows, int64_t num_prompt_rows) {
    return weight.format == WeightFormat::kBf16 ? rows : num_prompt_rows;
}

// Prepares rows [begin, end) of the caller's numbering; row i is x + row_ids[i] * n_in, or without
// row_ids the next one of those at x.
inline void prepare_rows(const Job* jobs, int64_t num_jobs, const float* x, const int32_t* row_ids,
                         int64_t begin, int64_t end) {
    for (int64_t j = 0; j < num_jobs; ++j) {
        const Job& job = jobs[j];
        const int64_t from = begin > job.first_row ? begin - job.first_row : 0;
        const int64_t left = end - job.first_row;
        const int64_t to = left < job.x.rows() ? left : job.x.rows();
        if (from >= to) continue;
        if (row_ids != nullptr)
            job.x.prepare(x, row_ids + job.first_row, from, to);
        else
            job.x.prepare(x + (job.first_row + from - begin) * job.x.n_in(), nullptr, from, to);
    }
}

inline int64_t rows_nbytes(const Job* jobs, int64_t num_jobs) {
    int64_t nbytes = 0;
    for (int64_t j = 0; j < num_jobs; ++j) nbytes += jobs[j].x.nbytes();
    return nbytes;
}

// Gives the jobs' rows their memory, one after another.
inline void place_rows(Job* jobs, int64_t num_jobs, uint8_t* memory) {
    for (int64_t j = 0; j < num_jobs; ++j) {
        jobs[j].x.set_memory(memory);
        memory += jobs[j].x.nbytes();
    }
}

// Sums ready for the epilogue: rows [row, row + num_rows) in the caller's numbering, panels
// [panel, panel + num_panels); those of panel p, row r are at sums + p * pitch + r * 16.
struct Sums {
    const Job* job;
    const float* sums;
    int64_t pitch;
    int64_t row, num_rows;
    int64_t panel, num_panels;
    const float* at(int64_t p, int64_t r) const { return sums + p * pitch + r * kPanel; }
};

// Prepared rows that are walked together by a panel stay in L2 beside as many bytes of sums (2 MB
// on the machines with AMX, of which a good 1.3 keep their speed): each panel reads all of them
// again.
inline constexpr int64_t kRowsNbytes = 640 << 10;
// Weights of one unit where few rows make a product bound by memory: some 2 us of streaming, so
// that the last unit's wait stays small.
inline constexpr int64_t kUnitNbytes = 64 << 10;
// Tiled rows are walked in passes over some of their groups, so that those stay in L2; more rows
// than this would leave each pass too few groups, and their sums too little room.
inline constexpr int64_t kMaxTiledBlocks = 32;

struct UnitPlan {
    int64_t row_blocks;  // blocks of 16 rows per unit
    int64_t panels;      // panels per unit
};

// Of the even sizes of a unit, at most `cap` panels, that make `least` to 8 units a thread: the one
// that ends first, then the largest.
inline int64_t even_panels(int64_t num_ranges, int64_t num_panels, int64_t num_threads,
                           int64_t least, int64_t cap) {
    int64_t best = 2, best_end = INT64_MAX;
    for (int64_t share = least; share <= 8; ++share) {
        const int64_t fair = num_ranges * num_panels / (share * num_threads);
        const int64_t panels = fair < 2 ? 2 : fair >= cap ? cap / 2 * 2 : round_up(fair, 2);
        const int64_t units = num_ranges * ((num_panels + panels - 1) / panels);
        const int64_t end = (units + num_threads - 1) / num_threads * panels;
        if (end < best_end) {
            best_end = end;
            best = panels;
        }
    }
    return best;
}

// `granule`: panels that must stay together (2 for gate and up).
inline UnitPlan plan_units(const Job* jobs, int64_t num_jobs, const PackedWeight& weight,
                           int64_t granule, int64_t num_threads) {
    const int64_t row_nbytes =
        weight.num_groups() * (jobs[0].x.format() == WeightFormat::kBf16 ? 4 * kGroup : kGroup + 8);
    int64_t row_blocks = kRowsNbytes / (row_nbytes * kBlockRows);
    if (row_blocks < 2) row_blocks = 2;
    int64_t num_ranges = 0;
    for (int64_t j = 0; j < num_jobs; ++j)
        num_ranges += (jobs[j].x.num_blocks() + row_blocks - 1) / row_blocks;
    const int64_t cap = kUnitNbytes / weight.panel_nbytes();
    // Some blocks of rows take their panels two at a time anyway.
    if (num_jobs == 1 && jobs[0].x.num_blocks() > 1)
        return {row_blocks,
                even_panels(num_ranges, weight.num_panels(), num_threads, 4, cap < 2 ? 2 : cap)};
    // Four units a thread, as far as they are worth taking apart.
    const int64_t fair = num_ranges * weight.num_panels() / (4 * num_threads);
    const int64_t panels = fair < cap ? fair : cap;
    // Multiples of four, or at least two, keep the inner loops at their widest.
    const int64_t even = panels >= 4 ? panels / 4 * 4 : panels >= 2 ? 2 : granule;
    return {row_blocks, even};
}

// How often a unit walks its panels: each time with as many groups as leave its rows in L2.
inline int64_t num_passes(const Activations& x, int64_t num_blocks) {
    const int64_t nbytes = num_blocks * x.num_groups() * tile_nbytes(WeightFormat::kBf16);
    const int64_t passes = (nbytes + kRowsNbytes - 1) / kRowsNbytes;
    return passes < x.num_chunks() ? passes : x.num_chunks();
}

// The same for tiled rows.
inline UnitPlan plan_tiled_units(const Job* jobs, int64_t num_jobs, const PackedWeight& weight,
                                 int64_t num_threads) {
    int64_t most_blocks = 1;
    for (int64_t j = 0; j < num_jobs; ++j)
        if (jobs[j].x.num_blocks() > most_blocks) most_blocks = jobs[j].x.num_blocks();
    const int64_t ranges = (most_blocks + kMaxTiledBlocks - 1) / kMaxTiledBlocks;
    const int64_t row_blocks = (most_blocks + ranges - 1) / ranges;
    int64_t num_ranges = 0;
    for (int64_t j = 0; j < num_jobs; ++j)
        num_ranges += (jobs[j].x.num_blocks() + row_blocks - 1) / row_blocks;
    // Between passes the sums of all panels wait in L2, too.
    const int64_t sums_nbytes = row_blocks * kBlockRows * kPanel * int64_t(sizeof(float));
    const int64_t cap = num_passes(jobs[0].x, row_blocks) > 1 ? kRowsNbytes / sums_nbytes : 64;
    return {row_blocks, even_panels(num_ranges, weight.num_panels(), num_threads, 2, cap)};
}

// Few rows are bound by memory, and a core reads several streams faster than one. So a thread's
// share of the panels is cut into four runs that are read side by side. A single row on two cores,
// from L3: 25 to 33 GB/s with four neighbouring panels at a time, 42 to 54 with four runs.
inline constexpr int64_t kStreams = 4;
inline constexpr int64_t kMaxGranule = 2;
inline constexpr int64_t kFewRows = 8;

template <class Epilogue>
void run_few_rows(const Team& team, const Job& job, const PackedWeight& weight, int64_t granule,
                  const Epilogue& epilogue) {
    alignas(64) float sums[kStreams * kMaxGranule * kFewRows * kPanel];
    const int64_t rows = job.x.rows(), pitch = rows * kPanel;
    // `count` granules, `stride` apart.
    const auto multiply = [&](int64_t first, int64_t stride, int64_t count) {
        for (int64_t g = 0; g < granule; ++g)
            int_rows(sums + g * pitch, granule * pitch, job.x, weight.format,
                     weight.panel(job.expert, first * granule + g),
                     stride * granule * weight.panel_nbytes(), count);
        for (int64_t c = 0; c < count; ++c)
            epilogue(Sums{&job, sums + c * granule * pitch, pitch, job.first_row, rows,
                          (first + c * stride) * granule, granule});
    };
    const auto [begin, end] = team.share(weight.num_panels() / granule);
    const int64_t run = (end - begin) / kStreams;
    for (int64_t i = 0; i < run; ++i) multiply(begin + i, run, kStreams);
    multiply(begin + kStreams * run, 1, end - begin - kStreams * run);
}

// Asks for the weights that a thread will read first in run_few_rows() with a granule of 1, for
// one that has to wait anyway.
class FewRowsAhead {
  public:
    FewRowsAhead(const Team& team, const PackedWeight& weight)
        : stride_(0), end_(0), from_(nullptr) {
        const auto [begin, end] = team.share(weight.num_panels());
        stride_ = (end - begin) / kStreams * weight.panel_nbytes();
        end_ = stride_ < kAheadNbytes ? stride_ : kAheadNbytes;
        from_ = weight.panel(0, begin);
    }
    // A line of each run; false when there is none left.
    bool next() {
        if (at_ >= end_) return false;
        for (int64_t i = 0; i < kStreams; ++i) prefetch_far(from_ + i * stride_ + at_);
        at_ += 64;
        return true;
    }

  private:
    static constexpr int64_t kAheadNbytes = 64 << 10;  // of a run: all of them are an eighth of L2
    int64_t stride_, end_;
    const uint8_t* from_;
    int64_t at_ = 0;
};

inline bool are_few_int_rows(const Job* jobs, int64_t num_jobs) {
    for (int64_t j = 0; j < num_jobs; ++j)
        if (jobs[j].x.rows() > kFewRows) return false;
    return jobs[0].x.format() != WeightFormat::kBf16;
}

// Some blocks of one job's rows times some panels.
struct Unit {
    const Job* job;
    int64_t block_begin, block_end;
    int64_t panel_begin, panel_end;

    Sums sums(const float* memory, int64_t panel, int64_t num_panels) const {
        const int64_t row = block_begin * kBlockRows, end = block_end * kBlockRows;
        const int64_t num_rows = (end < job->x.rows() ? end : job->x.rows()) - row;
        return {job, memory, pitch(), job->first_row + row, num_rows, panel, num_panels};
    }
    int64_t pitch() const { return (block_end - block_begin) * kBlockRows * kPanel; }
};

// f(const Unit&) for the units this thread gets.
template <class F>
void for_each_unit(const Team& team, int sequence, const Job* jobs, int64_t num_jobs,
                   int64_t num_panels, const UnitPlan& plan, const F& f) {
    const int64_t units_across = (num_panels + plan.panels - 1) / plan.panels;
    int64_t job = 0, units_before = 0;
    for (int64_t unit = team.next(sequence);; unit = team.next(sequence)) {
        int64_t units_down = 0;
        for (; job < num_jobs; ++job) {
            units_down = (jobs[job].x.num_blocks() + plan.row_blocks - 1) / plan.row_blocks;
            if (unit < units_before + units_down * units_across) break;
            units_before += units_down * units_across;
        }
        if (job == num_jobs) return;
        // Panels outermost: while one piece of weights is warm, all rows use it.
        const int64_t across = (unit - units_before) % units_across;
        const int64_t down = (unit - units_before) / units_across;
        const auto at_most = [](int64_t end, int64_t limit) { return end < limit ? end : limit; };
        f(Unit{jobs + job, down * plan.row_blocks,
               at_most((down + 1) * plan.row_blocks, jobs[job].x.num_blocks()),
               across * plan.panels, at_most((across + 1) * plan.panels, num_panels)});
    }
}

template <class Epilogue>
void multiply_unit(const Unit& unit, const PackedWeight& weight, const Epilogue& epilogue) {
    // Not where nothing needs it: a core with live tiles runs slower.
    std::optional<TileScope> tiles;
    const int64_t rows = unit.sums(nullptr, 0, 0).num_rows;
    if (use_amx(rows)) tiles.emplace(unit.job->x.format(), rows);
    // With many rows two panels' sums already fill L1.
    const int64_t width = unit.block_end - unit.block_begin > 1 ? 2 : 4;
    float* sums = scratch_array<float>(ScratchSlot::kAccumulators, width * unit.pitch());
    for (int64_t p = unit.panel_begin; p < unit.panel_end; p += width) {
        const int64_t panels = unit.panel_end - p < width ? unit.panel_end - p : width;
        panel_products(sums, unit.job->x, unit.block_begin, unit.block_end, weight,
                       unit.job->expert, p, panels);
        epilogue(unit.sums(sums, p, panels));
    }
}

template <class Epilogue>
void multiply_tiled_unit(const Unit& unit, const PackedWeight& weight, const Epilogue& epilogue) {
    const Activations& x = unit.job->x;
    const int64_t passes = num_passes(x, unit.block_end - unit.block_begin);
    // With several passes every panel needs its own sums.
    const int64_t pitch = passes > 1 ? unit.pitch() : 0;
    float* sums =
        scratch_array<float>(ScratchSlot::kAccumulators,
                             (passes > 1 ? unit.panel_end - unit.panel_begin : 2) * unit.pitch());
    TileProducts products(x, unit.block_begin, unit.block_end, weight, unit.job->expert,
                          unit.panel_begin, unit.panel_end);
    for (int64_t pass = 0; pass < passes; ++pass) {
        const int64_t chunk_begin = x.num_chunks() * pass / passes;
        const int64_t chunk_end = x.num_chunks() * (pass + 1) / passes;
        for (int64_t p = unit.panel_begin; p < unit.panel_end; p += 2) {
            const int64_t panels = unit.panel_end - p < 2 ? unit.panel_end - p : 2;
            float* of_panels = sums + (p - unit.panel_begin) * pitch;
            products.multiply(of_panels, p, chunk_begin, chunk_end);
            if (pass + 1 == passes) epilogue(unit.sums(of_panels, p, panels));
        }
    }
}

// Multiplies every job's rows, all of one format, with every panel; epilogue(const Sums&) runs on
// the thread that has them.
template <class Epilogue>
void run_jobs(const Team& team, int sequence, const Job* jobs, int64_t num_jobs,
              const PackedWeight& weight, int64_t granule, const Epilogue& epilogue) {
    if (num_jobs == 0) return;
    if (are_few_int_rows(jobs, num_jobs)) {
        for (int64_t j = 0; j < num_jobs; ++j)
            run_few_rows(team, jobs[j], weight, granule, epilogue);
        return;
    }
    if constexpr (kHasTiles) {
        if (jobs[0].x.is_tiled()) {
            const TileScope tiles(jobs[0].x.format());
            const UnitPlan plan = plan_tiled_units(jobs, num_jobs, weight, team.num_threads());
            for_each_unit(team, sequence, jobs, num_jobs, weight.num_panels(), plan,
                          [&](const Unit& unit) { multiply_tiled_unit(unit, weight, epilogue); });
            return;
        }
    }
    const UnitPlan plan = plan_units(jobs, num_jobs, weight, granule, team.num_threads());
    for_each_unit(team, sequence, jobs, num_jobs, weight.num_panels(), plan,
                  [&](const Unit& unit) { multiply_unit(unit, weight, epilogue); });
}

// out[row, 16 * panel ...] (+)= sums; `out` has n_out columns.
void store_sums(float* out, int64_t n_out, const Sums& sums, bool accumulate);
// out[row, 16 * panel / 2 ...] = silu(gate) * up; `out` has `hidden` columns. Rows that were
// multiplied in bf16, which the next product rounds again, have a shorter silu.
void store_swiglu(float* out, int64_t hidden, const Sums& sums);
// The same as rows of `down`, a job that has the rows of the sums' own, where both are tiled: they
// are prepared then.
void store_swiglu_tiles(const Job& down, const Sums& sums);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
