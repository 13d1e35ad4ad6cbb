// Grouped-query attention over the paged KV cache.
//
// Rows are grouped by (sequence, kv head), so that keys and values are read once for many rows;
// completion rows of all kv heads go through a segment together, as memory lies. A row walks the
// context in segments of 256 positions counted from position 0. For every row
//     score_t = Σ over groups of 32 d, ascending, of (Σ over even d of q_d k_d) + (Σ over odd d),
//     each a chain of fma in ascending d over q and k rounded to bf16: the order of the AMX unit.
// Then, for a completion row, per segment
//     maximum = max score;  p_t = exp(score_t − maximum);  sum = Σ p in 16 lanes (lane = t mod 16)
//     o = Σ p_t v_t, a chain of fma in ascending t
// and segments are merged in ascending order by merge(). For a prompt row, per step of 64
// positions counted from position 0
//     p_t = 2^(score_t log2 e − reference): the reference is max score · log2 e of the first step
//     in which the row sees anything. Where the step's p sum up to more than 2^16 in some of 16
//     lanes, it becomes that of the present step, and sum and o so far are multiplied by
//     2^(old − new).
//     sum += the step's sums in 16 lanes;  o += p_t v_t with p rounded to bf16, 32 positions at a
//     time, in the order of the AMX unit: (Σ over even t) + (Σ over odd t).
// Segments, steps, lanes and chains depend on a token's place in its context only, so neither the
// chunking nor who computes what can change a bit. What another request may have left in a block is
// never multiplied, not even by zero: it may be infinite.
#include "attention.h"

#include "attention_completion.h"
#include "attention_prompt.h"
#include "scratch.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kWorthSharing = 1 << 17;  // multiply-adds; less is done sooner than shared
constexpr int64_t kSegmentsPerThread = 4;   // so that the threads end together

void plan_prompt(AttentionPlan& plan, const AttentionProblem& p, int64_t sequence,
                 int64_t unit_rows) {
    const int64_t rows = p.input.num_queries(sequence) * p.queries_per_kv_head;
    // The last rows see most: they go first, so that the threads end together.
    for (int64_t end = rows; end > 0; end = (end - 1) / unit_rows * unit_rows)
        for (int64_t h = 0; h < p.cache.n_kv_heads(); ++h) {
            const AttentionRows unit = {sequence, h, (end - 1) / unit_rows * unit_rows, end};
            const Positions seen = p.visible(unit);
            plan.prompt_units.push_back(unit);
            plan.work += 2 * unit.count() * (seen.end - seen.begin) * p.head_dim;
        }
}

Positions segments_of(Positions seen) {
    return {seen.begin / kSegment, (seen.end + kSegment - 1) / kSegment};
}

// Memory gives most when it is read as it lies, all heads of a segment before the next one. Where
// there are too few segments to share out, a tile has one head.
int64_t kv_heads_per_tile(const AttentionProblem& p, int64_t num_threads) {
    int64_t num_segments = 0;
    for (int64_t s = 0; s < p.input.num_sequences(); ++s) {
        if (p.input.is_prompt(s)) continue;
        const Positions seen = segments_of(p.visible_to_query(s, p.input.num_queries(s) - 1));
        num_segments += seen.end - seen.begin;
    }
    return num_segments >= kSegmentsPerThread * num_threads ? p.cache.n_kv_heads() : 1;
}

void plan_completion(AttentionPlan& plan, const AttentionProblem& p, int64_t sequence) {
    const int64_t rows = p.input.num_queries(sequence) * p.queries_per_kv_head;
    for (int64_t h = 0; h < p.cache.n_kv_heads(); h += plan.num_kv_heads)
        for (int64_t r = 0; r < rows; r += kTileRows) {
            const AttentionRows tile = {sequence, h, r, std::min(r + kTileRows, rows)};
            const Positions seen = p.visible(tile), segments = segments_of(seen);
            plan.tiles.push_back(
                {tile, plan.num_kv_heads, segments.begin, segments.end, plan.num_segments});
            plan.num_segments += segments.end - segments.begin;
            plan.work +=
                2 * plan.num_kv_heads * tile.count() * (seen.end - seen.begin) * p.head_dim;
        }
}

// Large units read the context less often, small ones share more evenly.
int64_t prompt_unit_rows(const AttentionProblem& p, int64_t num_threads) {
    constexpr int64_t kPair = kTilePair * kTileRows;
    const int64_t rows = p.input.num_prompt_tokens * p.queries_per_kv_head * p.cache.n_kv_heads();
    return std::clamp(round_up(rows / (4 * num_threads), kPair), kPair, kPromptUnitRows);
}

}  // namespace

void make_plan(AttentionPlan& plan, const AttentionProblem& p, int64_t num_threads) {
    plan.prompt_units.clear();
    plan.tiles.clear();
    plan.num_segments = plan.work = 0;
    plan.num_kv_heads = kv_heads_per_tile(p, num_threads);
    const int64_t unit_rows = prompt_unit_rows(p, num_threads);
    for (int64_t s = 0; s < p.input.num_sequences(); ++s)
        p.input.is_prompt(s) ? plan_prompt(plan, p, s, unit_rows) : plan_completion(plan, p, s);
    const int64_t num_tiles = int64_t(plan.tiles.size());
    plan.shares_segments = num_threads > 1 && plan.work >= kWorthSharing &&
                           num_tiles < 4 * num_threads && plan.num_segments > num_tiles;
    const size_t needed =
        size_t(plan.num_segments * plan.num_kv_heads) * size_t(PartialAttention::num_floats(p));
    if (plan.shares_segments && plan.partials.size() < needed) plan.partials.resize(needed);
}

namespace {

// Fills one counter's indices from 0 to n with f.
template <class F>
void for_each_taken(const Team& team, int counter, int64_t n, const F& f) {
    for (int64_t i = team.next(counter); i < n; i = team.next(counter)) f(i);
}

void attend_tile(const AttentionProblem& p, const CompletionTile& tile, CompletionWorkspace& w) {
    const PartialAttention merged(w.merged), next(w.next);
    attend_segment(p, tile, tile.segment_begin, w, merged);
    for (int64_t s = tile.segment_begin + 1; s < tile.segment_end; ++s) {
        attend_segment(p, tile, s, w, next);
        for (int64_t h = 0; h < tile.num_kv_heads; ++h)
            merge(p, tile.rows.count(), merged.of_head(p, h), next.of_head(p, h));
    }
    for (int64_t h = 0; h < tile.num_kv_heads; ++h)
        write_out(p, tile.of_head(h), merged.of_head(p, h));
}

const CompletionTile& tile_of(const AttentionPlan& plan, int64_t segment) {
    const auto after = std::upper_bound(
        plan.tiles.begin(), plan.tiles.end(), segment,
        [](int64_t s, const CompletionTile& tile) { return s < tile.first_segment; });
    return *(after - 1);
}

// Few tiles, long contexts: segments are shared out, then merged as attend_tile() would have.
void attend_by_segment(const AttentionProblem& p, AttentionPlan& plan, const Team& team,
                       CompletionWorkspace& w) {
    const auto partial = [&](int64_t segment) {
        return PartialAttention(plan.partials.data() +
                                segment * plan.num_kv_heads * PartialAttention::num_floats(p));
    };
    for_each_taken(team, 1, plan.num_segments, [&](int64_t i) {
        const CompletionTile& tile = tile_of(plan, i);
        attend_segment(p, tile, tile.segment_begin + i - tile.first_segment, w, partial(i));
    });
    team.barrier();
    for_each_taken(team, 2, int64_t(plan.tiles.size()) * plan.num_kv_heads, [&](int64_t i) {
        const CompletionTile& tile = plan.tiles[size_t(i / plan.num_kv_heads)];
        const int64_t h = i % plan.num_kv_heads;
        const PartialAttention merged = partial(tile.first_segment).of_head(p, h);
        for (int64_t s = 1; s < tile.segment_end - tile.segment_begin; ++s)
            merge(p, tile.rows.count(), merged, partial(tile.first_segment + s).of_head(p, h));
        write_out(p, tile.of_head(h), merged);
    });
}

}  // namespace

void attend(const AttentionProblem& p, AttentionPlan& plan, const Team& team) {
    if (!plan.prompt_units.empty()) {
        auto& w = *scratch_array<PromptWorkspace>(ScratchSlot::kAttention, 1);
        for_each_taken(team, 0, int64_t(plan.prompt_units.size()),
                       [&](int64_t i) { attend_prompt_unit(p, plan.prompt_units[size_t(i)], w); });
    }
    if (plan.tiles.empty()) return;
    CompletionWorkspace w(p, plan.num_kv_heads);
    if (plan.shares_segments)
        attend_by_segment(p, plan, team, w);
    else
        for_each_taken(team, 1, int64_t(plan.tiles.size()),
                       [&](int64_t i) { attend_tile(p, plan.tiles[size_t(i)], w); });
}

void attention(const AttentionArgs& args) {
    static thread_local AttentionPlan plan;  // kept: a step allocates nothing
    AttentionPlan& shared = plan;
    const AttentionProblem p(args);
    ThreadPool& pool = ThreadPool::instance();
    make_plan(shared, p, pool.num_threads());
    if (shared.prompt_units.empty() && shared.tiles.empty()) return;
    const auto work = [&](const Team& team) { attend(p, shared, team); };
    shared.work < kWorthSharing ? pool.run_alone(work) : pool.run(work);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
