// Grouped-query attention over the paged KV cache; prefill and decode are the same code.
//
// The unit of work is a tile: consecutive rows of one (sequence, kv head), row r being query
// r / queries_per_kv_head and head r % queries_per_kv_head of the group, so that keys and values
// are read once per tile. A tile walks the context in segments of 256 positions counted from
// position 0. Per row and segment:
//     score_t = Σ over groups of 32 d, ascending, of (Σ over even d of q_d k_d) + (Σ over odd d),
//     each a chain of fma in ascending d over q and k rounded to bf16: the order of the AMX unit
//     maximum = max score;  p_t = exp(score_t − maximum);  sum = Σ p in 16 lanes (lane = t mod 16)
//     o = Σ p_t v_t, a chain of fma in ascending t
// and segments are merged in ascending order by merge(). Segments, lanes and chains depend on a
// token's place in its context only, so neither the chunking nor who computes a segment can change
// a bit. Positions a row may not see are never multiplied: a reused block may hold anything.
#include "attention.h"

#include <limits>
#include <vector>

#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kWorthSharing = 1 << 16;  // multiply-adds; less is done sooner than shared

// A row's scores become its weights exp(score − maximum); `seen` counts from the segment's begin.
void softmax_row(float* scores, Positions seen, float& maximum, float& sum) {
    const int64_t begin = seen.begin / kBlockSize * kBlockSize;
    const int64_t end = round_up(seen.end, kBlockSize);
    constexpr float kNever = -std::numeric_limits<float>::infinity();
    for (int64_t t = begin; t < seen.begin; ++t) scores[t] = kNever;
    for (int64_t t = seen.end; t < end; ++t) scores[t] = kNever;
    f32x16 top = f32x16::broadcast(kNever);
    for (int64_t t = begin; t < end; t += kLanes) top = max(top, f32x16::load(scores + t));
    maximum = reduce_max(top);
    const f32x16 shift = f32x16::broadcast(maximum);
    f32x16 total = f32x16::zero();
    for (int64_t t = begin; t < end; t += kLanes) {
        const f32x16 weight = exp(f32x16::load(scores + t) - shift);
        weight.store(scores + t);
        total = total + weight;
    }
    sum = reduce_add(total);
}

void clear(const AttentionProblem& p, int64_t rows, const PartialAttention& out) {
    std::fill_n(out.maximum, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(out.sum, rows, 0.0f);
    std::fill_n(out.o, rows * p.stride, 0.0f);
}

// One segment for the rows of one tile.
void attend_segment(const AttentionProblem& p, const AttentionTile& tile, int64_t segment,
                    AttentionWorkspace& w, const PartialAttention& out) {
    const int64_t rows = tile.num_rows();
    const int64_t origin = segment * kSegment;
    Positions seen[kTileRows];
    for (int64_t r = 0; r < rows; ++r) {
        const Positions all = p.visible(tile.sequence, tile.row_begin + r);
        seen[r] = intersect({all.begin - origin, all.end - origin}, {0, kSegment});
    }
    clear(p, rows, out);

    const Positions blocks = {std::max(seen[0].begin, int64_t(0)) / kBlockSize,
                              (seen[rows - 1].end + kBlockSize - 1) / kBlockSize};
    score_segment(p, tile, segment, blocks, w);
    for (int64_t r = 0; r < rows; ++r)
        if (!seen[r].empty())
            softmax_row(w.scores + r * kSegment, seen[r], out.maximum[r], out.sum[r]);
    add_segment(p, tile, segment, blocks, seen, w, out.o);
}

// into = into ∪ next, where `next` covers later positions.
void merge(const AttentionProblem& p, int64_t rows, const PartialAttention& into,
           const PartialAttention& next) {
    for (int64_t r = 0; r < rows; ++r) {
        if (next.sum[r] == 0.0f) continue;
        const float maximum = std::max(into.maximum[r], next.maximum[r]);
        const f32x16 a = exp(f32x16::broadcast(into.maximum[r] - maximum));
        const f32x16 b = exp(f32x16::broadcast(next.maximum[r] - maximum));
        const f32x16 sum =
            fma(f32x16::broadcast(into.sum[r]), a, f32x16::broadcast(next.sum[r]) * b);
        into.maximum[r] = maximum;
        sum.store_partial(into.sum + r, 1);
        for (int64_t d = r * p.stride; d < (r + 1) * p.stride; d += kLanes)
            fma(f32x16::load(into.o + d), a, f32x16::load(next.o + d) * b).store(into.o + d);
    }
}

void write_out(const AttentionProblem& p, const AttentionTile& tile,
               const PartialAttention& merged) {
    for (int64_t r = 0; r < tile.num_rows(); ++r) {
        float* out = p.a.out + p.offset(tile, tile.row_begin + r);
        const f32x16 sum = f32x16::broadcast(merged.sum[r]);
        for (int64_t d = 0; d < p.head_dim; d += kLanes)
            (f32x16::load(merged.o + r * p.stride + d) / sum)
                .store_partial(out + d, int(std::min<int64_t>(kLanes, p.head_dim - d)));
    }
}

void load_queries(const AttentionProblem& p, const AttentionTile& tile, AttentionWorkspace& w) {
    for (int64_t r = 0; r < tile.num_rows(); ++r) {
        const float* q = p.a.q + p.offset(tile, tile.row_begin + r);
        for (int64_t d = 0; d < p.head_dim; d += kLanes) {
            uint16_t* rounded = w.q_bf16 + r * p.stride + d;
            const int lanes = int(std::min<int64_t>(kLanes, p.head_dim - d));
            store_bf16(rounded, f32x16::load_partial(q + d, lanes));
            f32x16::load_bf16(rounded).store(w.q + r * p.stride + d);
        }
    }
}

// All segments of a tile, one after another.
void attend_tile(const AttentionProblem& p, const AttentionTile& tile, AttentionWorkspace& w) {
    load_queries(p, tile, w);
    const PartialAttention merged = p.partial_at(w.merged), next = p.partial_at(w.segment);
    clear(p, tile.num_rows(), merged);
    for (int64_t s = tile.segment_begin; s < tile.segment_end; ++s) {
        attend_segment(p, tile, s, w, next);
        merge(p, tile.num_rows(), merged, next);
    }
    write_out(p, tile, merged);
}

struct Plan {
    std::vector<AttentionTile> tiles;
    std::vector<float> partials;  // of every segment of every tile, where these are shared out
    int64_t num_units = 0;        // segments of all tiles
    int64_t work = 0;             // multiply-adds
};

void plan_tiles(Plan& plan, const AttentionProblem& p) {
    plan.tiles.clear();
    plan.num_units = plan.work = 0;
    for (int64_t s = 0; s < p.input.num_sequences(); ++s) {
        const int64_t rows = p.input.num_queries(s) * p.queries_per_kv_head;
        for (int64_t h = 0; h < p.cache.n_kv_heads(); ++h)
            for (int64_t r = 0; r < rows; r += kTileRows) {
                const int64_t end = std::min(r + kTileRows, rows);
                const Positions seen = {p.visible(s, r).begin, p.visible(s, end - 1).end};
                const Positions segments = {seen.begin / kSegment,
                                            (seen.end + kSegment - 1) / kSegment};
                plan.tiles.push_back({s, h, r, end, segments.begin, segments.end, plan.num_units});
                plan.num_units += segments.end - segments.begin;
                plan.work += 2 * (end - r) * (seen.end - seen.begin) * p.head_dim;
            }
    }
}

const AttentionTile& tile_of(const Plan& plan, int64_t unit) {
    const auto after =
        std::upper_bound(plan.tiles.begin(), plan.tiles.end(), unit,
                         [](int64_t u, const AttentionTile& tile) { return u < tile.first_unit; });
    return *(after - 1);
}

void attend_by_tile(const AttentionProblem& p, const Plan& plan, const Team& team) {
    AttentionWorkspace w;
    const int64_t n = int64_t(plan.tiles.size());
    for (int64_t i = team.next(); i < n; i = team.next()) attend_tile(p, plan.tiles[size_t(i)], w);
}

// Few tiles, long contexts: segments are shared out, then merged as attend_tile() would have.
void attend_by_segment(const AttentionProblem& p, Plan& plan, const Team& team) {
    AttentionWorkspace w;
    const auto partial = [&](int64_t unit) {
        return p.partial_at(plan.partials.data() + unit * p.partial_floats());
    };
    for (int64_t u = team.next(); u < plan.num_units; u = team.next()) {
        const AttentionTile& tile = tile_of(plan, u);
        load_queries(p, tile, w);
        attend_segment(p, tile, tile.segment_begin + u - tile.first_unit, w, partial(u));
    }
    team.barrier();
    const int64_t n = int64_t(plan.tiles.size());
    for (int64_t i = team.next(1); i < n; i = team.next(1)) {
        const AttentionTile& tile = plan.tiles[size_t(i)];
        const PartialAttention merged = p.partial_at(w.merged);
        clear(p, tile.num_rows(), merged);
        for (int64_t s = 0; s < tile.segment_end - tile.segment_begin; ++s)
            merge(p, tile.num_rows(), merged, partial(tile.first_unit + s));
        write_out(p, tile, merged);
    }
}

}  // namespace

void attention(const AttentionArgs& args) {
    static thread_local Plan plan;  // kept: a step allocates nothing
    Plan& shared = plan;
    const AttentionProblem p(args);
    plan_tiles(shared, p);
    if (shared.tiles.empty()) return;
    ThreadPool& pool = ThreadPool::instance();
    const int64_t n = int64_t(shared.tiles.size());
    if (shared.work < kWorthSharing || pool.num_threads() == 1) {
        pool.run_alone([&](const Team& team) { attend_by_tile(p, shared, team); });
    } else if (n >= 4 * pool.num_threads() || shared.num_units == n) {
        pool.run([&](const Team& team) { attend_by_tile(p, shared, team); });
    } else {
        const size_t needed = size_t(shared.num_units * p.partial_floats());
        if (shared.partials.size() < needed) shared.partials.resize(needed);
        pool.run([&](const Team& team) { attend_by_segment(p, shared, team); });
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
