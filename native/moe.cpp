// The sparse feed-forward layer: route all rows, sort them by expert, one product per chosen expert
// over just its rows, and add up. Weights of an expert that no row chose are never touched.
//
// A slot is one (row, chosen expert) pair; slots are ordered by numerics (those of bf16 rows
// first), then by expert, then by row.
#include "kernel_functions.h"
#include "product_jobs.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Per row, in order of falling router logit; ties go to the lower id.
struct Choice {
    int32_t expert;
    int32_t slot;
    float weight;
};

float router_logit(const float* h, const float* weights, int64_t dim) {
    f32x16 sum = f32x16::zero();
    int64_t i = 0;
    for (; i + kLanes <= dim; i += kLanes)
        sum = fma(f32x16::load(h + i), f32x16::load(weights + i), sum);
    if (i < dim)
        sum = fma(f32x16::load_partial(h + i, int(dim - i)),
                  f32x16::load_partial(weights + i, int(dim - i)), sum);
    return reduce_add(sum);
}

// The best `count` experts of one row and the softmax over their logits. `logits` has one value per
// expert and is spent.
void route_row(Choice* choices, float* logits, int64_t num_experts, int64_t count) {
    for (int64_t c = 0; c < count; ++c) {
        int64_t best = -1;
        for (int64_t e = 0; e < num_experts; ++e) {
            bool taken = false;
            for (int64_t d = 0; d < c; ++d) taken = taken || choices[d].expert == e;
            // A NaN never wins, but some expert is always chosen.
            if (!taken && (best < 0 || logits[e] > logits[best])) best = e;
        }
        choices[c] = {int32_t(best), 0, logits[best]};
    }
    const float top = choices[0].weight;
    float total = 0.0f;
    for (int64_t c = 0; c < count; ++c) {
        alignas(64) float lanes[kLanes];
        exp(f32x16::broadcast(choices[c].weight - top)).store(lanes);
        choices[c].weight = lanes[0];
        total += lanes[0];
    }
    // The last weight is what is left of 1, so that equal experts give exactly their common output:
    // an upcycled model is its dense one, bit for bit, with two experts per token.
    float left = 1.0f;
    for (int64_t c = 0; c + 1 < count; ++c) {
        choices[c].weight = choices[c].weight / total;
        left -= choices[c].weight;
    }
    choices[count - 1].weight = left > 0.0f ? left : 0.0f;
}

void route(const MoeArgs& a, Choice* choices, int64_t num_experts) {
    const auto rows = [&](int64_t begin, int64_t end) {
        float* logits = scratch_array<float>(ScratchSlot::kAccumulators, num_experts);
        for (int64_t i = begin; i < end; ++i) {
            for (int64_t e = 0; e < num_experts; ++e)
                logits[e] = router_logit(a.h + i * a.dim, a.router + e * a.dim, a.dim);
            route_row(choices + i * a.num_experts_per_tok, logits, num_experts,
                      a.num_experts_per_tok);
        }
    };
    ThreadPool& pool = ThreadPool::instance();
    if (a.rows == 1)
        pool.run_alone([&](const Team&) { rows(0, 1); });
    else
        pool.parallel_for(a.rows, rows);
}

// What the layer's second region works on; every pointer is the caller's scratch.
struct SparsePlan {
    Choice* choices;       // [rows][num_experts_per_tok]
    int32_t* row_of_slot;  // [slots]
    int64_t num_slots;
    Job* up_jobs;    // gate and up, one per chosen expert and kind of numerics
    Job* down_jobs;  // the same slots
    int64_t num_jobs;
    int64_t num_bf16_jobs;  // the first ones
    float* hidden;          // [slots][hidden]
    float* expert_out;      // [slots][dim]
};

// Stable counting sort of all choices. `offsets` has room for one value per bucket, and one more.
void sort_slots(const MoeArgs& a, SparsePlan& plan, int32_t* offsets, int64_t num_experts) {
    const int64_t num_buckets = 2 * num_experts;
    const int64_t bf16_slots = a.num_prompt_rows * a.num_experts_per_tok;
    const auto bucket = [&](int64_t slot) {
        return plan.choices[slot].expert + (slot < bf16_slots ? 0 : num_experts);
    };
    for (int64_t b = 0; b <= num_buckets; ++b) offsets[b] = 0;
    for (int64_t s = 0; s < plan.num_slots; ++s) ++offsets[bucket(s) + 1];
    for (int64_t b = 0; b < num_buckets; ++b) {
        const bool bf16 = b < num_experts;
        const int64_t expert = bf16 ? b : b - num_experts;
        const int64_t rows = offsets[b + 1];
        if (a.expert_counts != nullptr) a.expert_counts[expert] += float(rows);
        if (rows > 0) {
            const auto format = [&](const PackedWeight& weight) {
                return bf16 ? WeightFormat::kBf16 : weight.format;
            };
            plan.up_jobs[plan.num_jobs] = {Activations(format(*a.gate_up), rows, a.dim), expert,
                                           offsets[b]};
            plan.down_jobs[plan.num_jobs] = {Activations(format(*a.down), rows, a.hidden), expert,
                                             offsets[b]};
            ++plan.num_jobs;
            plan.num_bf16_jobs += bf16;
        }
        offsets[b + 1] += offsets[b];
    }
    for (int64_t s = 0; s < plan.num_slots; ++s) {
        Choice& choice = plan.choices[s];
        choice.slot = offsets[bucket(s)]++;
        plan.row_of_slot[choice.slot] = int32_t(s / a.num_experts_per_tok);
    }
}

void place_activations(SparsePlan& plan) {
    const int64_t up_nbytes = rows_nbytes(plan.up_jobs, plan.num_jobs);
    const int64_t down_nbytes = rows_nbytes(plan.down_jobs, plan.num_jobs);
    uint8_t* memory = scratch_array<uint8_t>(ScratchSlot::kActivations, up_nbytes + down_nbytes);
    place_rows(plan.up_jobs, plan.num_jobs, memory);
    place_rows(plan.down_jobs, plan.num_jobs, memory + up_nbytes);
}

// Rows of jobs that are tiled in both products go from one to the other as such; the others by way
// of `hidden`.
bool is_direct(const SparsePlan& plan, int64_t job) {
    return plan.up_jobs[job].x.is_tiled() && plan.down_jobs[job].x.is_tiled();
}

void store_activated(const SparsePlan& plan, int64_t hidden, const Sums& sums) {
    const int64_t job = sums.job - plan.up_jobs;
    if (is_direct(plan, job))
        store_swiglu_tiles(plan.down_jobs[job], sums);
    else
        store_swiglu(plan.hidden, hidden, sums);
}

// Prepares the down rows of jobs that are not direct; false if there are none.
bool prepare_down(const Team& team, const SparsePlan& plan, int64_t hidden) {
    bool any = false;
    const auto [begin, end] = team.share(plan.num_slots);
    for (int64_t j = 0; j < plan.num_jobs; ++j) {
        if (is_direct(plan, j)) continue;
        any = true;
        prepare_rows(plan.down_jobs + j, 1, plan.hidden + begin * hidden, nullptr, begin, end);
    }
    return any;
}

// Both kinds of jobs; `sequence` and the next one are used up.
template <class Epilogue>
void run_sparse(const Team& team, int sequence, const Job* jobs, const SparsePlan& plan,
                const PackedWeight& weight, int64_t granule, const Epilogue& epilogue) {
    const int64_t num_bf16 = plan.num_bf16_jobs;
    run_jobs(team, sequence, jobs, num_bf16, weight, granule, epilogue);
    run_jobs(team, sequence + 1, jobs + num_bf16, plan.num_jobs - num_bf16, weight, granule,
             epilogue);
}

void add_experts(const MoeArgs& a, const SparsePlan& plan, int64_t begin, int64_t end) {
    const int64_t count = a.num_experts_per_tok;
    for (int64_t i = begin; i < end; ++i) {
        const Choice* choices = plan.choices + i * count;
        float* x = a.x + i * a.dim;
        for (int64_t d = 0; d < a.dim; d += kLanes) {
            const int n = a.dim - d < kLanes ? int(a.dim - d) : kLanes;
            f32x16 sum = f32x16::zero();
            for (int64_t c = 0; c < count; ++c)
                sum = fma(f32x16::broadcast(choices[c].weight),
                          f32x16::load_partial(plan.expert_out + choices[c].slot * a.dim + d, n),
                          sum);
            (f32x16::load_partial(x + d, n) + sum).store_partial(x + d, n);
        }
    }
}

}  // namespace

void moe(const MoeArgs& a) {
    if (a.rows == 0) return;
    const int64_t num_experts = a.gate_up->n_experts;
    SparsePlan plan = {};
    plan.num_slots = a.rows * a.num_experts_per_tok;
    const int64_t max_jobs = 2 * num_experts;
    uint8_t* memory = scratch_array<uint8_t>(
        ScratchSlot::kRouting, 2 * max_jobs * int64_t(sizeof(Job)) +
                                   plan.num_slots * int64_t(sizeof(Choice) + sizeof(int32_t)) +
                                   (max_jobs + 1) * int64_t(sizeof(int32_t)));
    plan.up_jobs = reinterpret_cast<Job*>(memory);
    plan.down_jobs = plan.up_jobs + max_jobs;
    plan.choices = reinterpret_cast<Choice*>(plan.down_jobs + max_jobs);
    plan.row_of_slot = reinterpret_cast<int32_t*>(plan.choices + plan.num_slots);
    plan.hidden = scratch_array<float>(ScratchSlot::kHidden, plan.num_slots * a.hidden);
    plan.expert_out = scratch_array<float>(ScratchSlot::kExpertOut, plan.num_slots * a.dim);
    route(a, plan.choices, num_experts);
    sort_slots(a, plan, plan.row_of_slot + plan.num_slots, num_experts);
    place_activations(plan);
    ThreadPool::instance().run([&](const Team& team) {
        const auto [slot_begin, slot_end] = team.share(plan.num_slots);
        prepare_rows(plan.up_jobs, plan.num_jobs, a.h, plan.row_of_slot, slot_begin, slot_end);
        team.barrier();
        run_sparse(team, 0, plan.up_jobs, plan, *a.gate_up, 2,
                   [&](const Sums& sums) { store_activated(plan, a.hidden, sums); });
        team.barrier();
        if (prepare_down(team, plan, a.hidden)) team.barrier();
        run_sparse(team, 2, plan.down_jobs, plan, *a.down, 1,
                   [&](const Sums& sums) { store_sums(plan.expert_out, a.dim, sums, false); });
        team.barrier();
        const auto [row_begin, row_end] = team.share(a.rows);
        add_experts(a, plan, row_begin, row_end);
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
