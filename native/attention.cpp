// Grouped-query attention over the paged KV cache; prefill and decode are the same code.
//
// The unit of work is a tile: consecutive rows of one (sequence, kv head), row r being query
// r / queries_per_kv_head and head r % queries_per_kv_head of the group, so that keys and values
// are read once per tile. A tile walks the context in segments of 256 positions counted from
// position 0. Per row and segment:
//     score_t = (Σ over even d of q_d k_d) + (Σ over odd d), each a chain of fma in ascending d
//     maximum = max score;  p_t = exp(score_t − maximum);  sum = Σ p in 16 lanes (lane = t mod 16)
//     o = Σ p_t v_t, a chain of fma in ascending t
// and segments are merged in ascending order by merge(). Segments, lanes and chains depend on a
// token's place in its context only, so neither the chunking nor who computes a segment can change
// a bit. Positions a row may not see are never multiplied: a reused block may hold anything.
#include <algorithm>
#include <limits>
#include <vector>

#include "forward_input.h"
#include "kernel_functions.h"
#include "kv_cache.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kBlockSize = KVCache::kBlockSize;
constexpr int64_t kMaxHeadDim = KVCache::kMaxHeadDim;
constexpr int64_t kSegment = 256;  // positions
constexpr int64_t kTileRows = 16;
constexpr int64_t kWorthSharing = 1 << 16;  // multiply-adds; less is done sooner than shared
static_assert(kBlockSize == kLanes, "a block's tokens are the lanes of a vector");

#if CIERZO_ISA_LEVEL >= 2
constexpr int kRows = 4;     // of a tile, in registers at a time
constexpr int kVectors = 4;  // of head_dim, in registers at a time
#else
constexpr int kRows = 2;
constexpr int kVectors = 2;
#endif

struct Tile {
    int64_t sequence, kv_head;
    int64_t row_begin, row_end;
    int64_t segment_begin, segment_end;
    int64_t first_unit;  // index of its first segment among all tiles' segments
    int64_t num_rows() const { return row_end - row_begin; }
};

struct Range {
    int64_t begin, end;
    bool empty() const { return begin >= end; }
};

Range intersect(Range a, Range b) {
    return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Unnormalised softmax of some of the context for the rows of a tile; sum 0 = nothing seen.
struct Partial {
    float* maximum;  // [kTileRows]
    float* sum;      // [kTileRows]
    float* o;        // [kTileRows, stride]
};

struct Problem {
    const AttentionArgs& a;
    const ForwardInput& input;
    const KVCache& cache;
    int64_t head_dim, stride;  // stride: head_dim rounded up to whole vectors
    int64_t queries_per_kv_head;

    explicit Problem(const AttentionArgs& args)
        : a(args),
          input(*args.input),
          cache(*args.kv_cache),
          head_dim(cache.head_dim()),
          stride(round_up(head_dim, kLanes)),
          queries_per_kv_head(args.n_heads / cache.n_kv_heads()) {}

    // Where a tile's row lies in q and out.
    int64_t offset(const Tile& tile, int64_t row) const {
        const int64_t token = input.query_starts[size_t(tile.sequence)] + row / queries_per_kv_head;
        const int64_t head = tile.kv_head * queries_per_kv_head + row % queries_per_kv_head;
        return (token * a.n_heads + head) * head_dim;
    }
    // Context positions a row sees: up to its own, and no further back than the window.
    Range visible(int64_t sequence, int64_t row) const {
        const int64_t end = input.context_lens[size_t(sequence)] - input.num_queries(sequence) +
                            row / queries_per_kv_head + 1;
        const bool cut = a.sliding_window > 0 && end > a.sliding_window;
        return {cut ? end - a.sliding_window : 0, end};
    }
    int64_t partial_floats() const { return kTileRows * (2 + stride); }
    Partial partial_at(float* base) const { return {base, base + kTileRows, base + 2 * kTileRows}; }
};

// One thread's working memory.
struct Workspace {
    alignas(64) float q[kTileRows * kMaxHeadDim];
    alignas(64) float block[kBlockSize * kMaxHeadDim];  // one block of keys or values, widened
    alignas(64) float scores[kTileRows * kSegment];
    alignas(64) float segment[kTileRows * (2 + kMaxHeadDim)];
    alignas(64) float merged[kTileRows * (2 + kMaxHeadDim)];
};

// out[head_dim][16 tokens]
void widen_keys(float* out, const uint16_t* keys, int64_t head_dim) {
    for (int64_t d = 0; d < head_dim; d += 2) {
        f32x16 even, odd;
        load_bf16_pairs(keys + d * kBlockSize, even, odd);
        even.store(out + d * kLanes);
        odd.store(out + (d + 1) * kLanes);
    }
}

// out[16 tokens][stride]; what lies past head_dim is never used.
void widen_values(float* out, const uint16_t* values, int64_t head_dim, int64_t stride) {
    for (int64_t t = 0; t < kBlockSize; ++t)
        for (int64_t d = 0; d < head_dim; d += kLanes)
            f32x16::load_bf16(values + t * head_dim + d).store(out + t * stride + d);
}

// scores[r][0..16) of ROWS rows for one block of widened keys.
template <int ROWS>
void score_block(float* scores, const float* q, const float* keys, const Problem& p) {
    f32x16 even[ROWS], odd[ROWS];
    for (int r = 0; r < ROWS; ++r) even[r] = odd[r] = f32x16::zero();
    for (int64_t d = 0; d < p.head_dim; d += 2) {
        const f32x16 k0 = f32x16::load(keys + d * kLanes);
        const f32x16 k1 = f32x16::load(keys + (d + 1) * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            even[r] = fma(f32x16::broadcast(q[r * p.stride + d]), k0, even[r]);
            odd[r] = fma(f32x16::broadcast(q[r * p.stride + d + 1]), k1, odd[r]);
        }
    }
    for (int r = 0; r < ROWS; ++r) (even[r] + odd[r]).store(scores + r * kSegment);
}

// o[r] += Σ weights[r][t] · values[t] over t in `tokens`, for ROWS rows and VECTORS vectors.
template <int ROWS, int VECTORS>
void add_values(float* o, const float* weights, const float* values, Range tokens, int64_t stride) {
    f32x16 sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = f32x16::load(o + r * stride + v * kLanes);
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
        f32x16 value[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) value[v] = f32x16::load(values + t * stride + v * kLanes);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const f32x16 weight = f32x16::broadcast(weights[r * kSegment + t]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = fma(weight, value[v], sum[r][v]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v].store(o + r * stride + v * kLanes);
}

template <int ROWS>
void add_values(float* o, const float* weights, const float* values, Range tokens, int64_t stride) {
    if (tokens.empty()) return;
    int64_t d = 0;
    for (; d + kVectors * kLanes <= stride; d += kVectors * kLanes)
        add_values<ROWS, kVectors>(o + d, weights, values + d, tokens, stride);
    for (; d < stride; d += kLanes) add_values<ROWS, 1>(o + d, weights, values + d, tokens, stride);
}

// Calls f<ROWS>(first row) over all rows, kRows at a time.
template <class F>
void for_rows(int64_t num_rows, F f) {
    int64_t r = 0;
    for (; r + kRows <= num_rows; r += kRows) f.template operator()<kRows>(r);
    if constexpr (kRows > 2)
        if (num_rows - r == 3) return f.template operator()<3>(r);
    if constexpr (kRows > 2)
        if (num_rows - r == 2) return f.template operator()<2>(r);
    if (num_rows - r == 1) f.template operator()<1>(r);
}

// A row's scores become its weights exp(score − maximum); `seen` counts from the segment's begin.
void softmax_row(float* scores, Range seen, float& maximum, float& sum) {
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

// The values of one block, for ROWS rows: what all of them see together, the rest row by row. Rows
// see further the later they come. `seen` and `block` count from the segment's begin.
template <int ROWS>
void attend_block(const Problem& p, const float* values, Range block, const Range* seen,
                  const float* weights, float* o) {
    const Range common = intersect(block, {seen[ROWS - 1].begin, seen[0].end});
    const float* origin = values - block.begin * p.stride;
    if (common.empty()) {
        for (int r = 0; r < ROWS; ++r)
            add_values<1>(o + r * p.stride, weights + r * kSegment, origin,
                          intersect(block, seen[r]), p.stride);
        return;
    }
    for (int r = 0; r < ROWS - 1; ++r)
        add_values<1>(o + r * p.stride, weights + r * kSegment, origin,
                      intersect(block, {seen[r].begin, common.begin}), p.stride);
    add_values<ROWS>(o, weights, origin, common, p.stride);
    for (int r = 1; r < ROWS; ++r)
        add_values<1>(o + r * p.stride, weights + r * kSegment, origin,
                      intersect(block, {common.end, seen[r].end}), p.stride);
}

void clear(const Problem& p, int64_t rows, const Partial& out) {
    std::fill_n(out.maximum, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(out.sum, rows, 0.0f);
    std::fill_n(out.o, rows * p.stride, 0.0f);
}

// One segment for the rows of one tile.
void attend_segment(const Problem& p, const Tile& tile, int64_t segment, Workspace& w,
                    const Partial& out) {
    const int64_t rows = tile.num_rows();
    const int64_t origin = segment * kSegment;
    Range seen[kTileRows];
    for (int64_t r = 0; r < rows; ++r) {
        const Range all = p.visible(tile.sequence, tile.row_begin + r);
        seen[r] = intersect({all.begin - origin, all.end - origin}, {0, kSegment});
    }
    clear(p, rows, out);

    const Range blocks = {std::max(seen[0].begin, int64_t(0)) / kBlockSize,
                          (seen[rows - 1].end + kBlockSize - 1) / kBlockSize};
    const int32_t* table = p.input.block_table(tile.sequence) + origin / kBlockSize;
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        widen_keys(w.block, p.cache.keys(p.a.layer, table[b], tile.kv_head), p.head_dim);
        for_rows(rows, [&]<int ROWS>(int64_t r) {
            score_block<ROWS>(w.scores + r * kSegment + b * kBlockSize, w.q + r * p.stride, w.block,
                              p);
        });
    }
    for (int64_t r = 0; r < rows; ++r)
        if (!seen[r].empty())
            softmax_row(w.scores + r * kSegment, seen[r], out.maximum[r], out.sum[r]);
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        widen_values(w.block, p.cache.values(p.a.layer, table[b], tile.kv_head), p.head_dim,
                     p.stride);
        const Range block = {b * kBlockSize, (b + 1) * kBlockSize};
        for_rows(rows, [&]<int ROWS>(int64_t r) {
            attend_block<ROWS>(p, w.block, block, seen + r, w.scores + r * kSegment,
                               out.o + r * p.stride);
        });
    }
}

// into = into ∪ next, where `next` covers later positions.
void merge(const Problem& p, int64_t rows, const Partial& into, const Partial& next) {
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

void write_out(const Problem& p, const Tile& tile, const Partial& merged) {
    for (int64_t r = 0; r < tile.num_rows(); ++r) {
        float* out = p.a.out + p.offset(tile, tile.row_begin + r);
        const f32x16 sum = f32x16::broadcast(merged.sum[r]);
        for (int64_t d = 0; d < p.head_dim; d += kLanes)
            (f32x16::load(merged.o + r * p.stride + d) / sum)
                .store_partial(out + d, int(std::min<int64_t>(kLanes, p.head_dim - d)));
    }
}

void load_queries(const Problem& p, const Tile& tile, Workspace& w) {
    for (int64_t r = 0; r < tile.num_rows(); ++r)
        std::memcpy(w.q + r * p.stride, p.a.q + p.offset(tile, tile.row_begin + r),
                    size_t(p.head_dim) * sizeof(float));
}

// All segments of a tile, one after another.
void attend_tile(const Problem& p, const Tile& tile, Workspace& w) {
    load_queries(p, tile, w);
    const Partial merged = p.partial_at(w.merged), next = p.partial_at(w.segment);
    clear(p, tile.num_rows(), merged);
    for (int64_t s = tile.segment_begin; s < tile.segment_end; ++s) {
        attend_segment(p, tile, s, w, next);
        merge(p, tile.num_rows(), merged, next);
    }
    write_out(p, tile, merged);
}

struct Plan {
    std::vector<Tile> tiles;
    std::vector<float> partials;  // of every segment of every tile, where these are shared out
    int64_t num_units = 0;        // segments of all tiles
    int64_t work = 0;             // multiply-adds
};

void plan_tiles(Plan& plan, const Problem& p) {
    plan.tiles.clear();
    plan.num_units = plan.work = 0;
    for (int64_t s = 0; s < p.input.num_sequences(); ++s) {
        const int64_t rows = p.input.num_queries(s) * p.queries_per_kv_head;
        for (int64_t h = 0; h < p.cache.n_kv_heads(); ++h)
            for (int64_t r = 0; r < rows; r += kTileRows) {
                const int64_t end = std::min(r + kTileRows, rows);
                const Range seen = {p.visible(s, r).begin, p.visible(s, end - 1).end};
                const Range segments = {seen.begin / kSegment,
                                        (seen.end + kSegment - 1) / kSegment};
                plan.tiles.push_back({s, h, r, end, segments.begin, segments.end, plan.num_units});
                plan.num_units += segments.end - segments.begin;
                plan.work += 2 * (end - r) * (seen.end - seen.begin) * p.head_dim;
            }
    }
}

const Tile& tile_of(const Plan& plan, int64_t unit) {
    const auto after =
        std::upper_bound(plan.tiles.begin(), plan.tiles.end(), unit,
                         [](int64_t u, const Tile& tile) { return u < tile.first_unit; });
    return *(after - 1);
}

void attend_by_tile(const Problem& p, const Plan& plan, const Team& team) {
    Workspace w;
    const int64_t n = int64_t(plan.tiles.size());
    for (int64_t i = team.next(); i < n; i = team.next()) attend_tile(p, plan.tiles[size_t(i)], w);
}

// Few tiles, long contexts: segments are shared out, then merged as attend_tile() would have.
void attend_by_segment(const Problem& p, Plan& plan, const Team& team) {
    Workspace w;
    const auto partial = [&](int64_t unit) {
        return p.partial_at(plan.partials.data() + unit * p.partial_floats());
    };
    for (int64_t u = team.next(); u < plan.num_units; u = team.next()) {
        const Tile& tile = tile_of(plan, u);
        load_queries(p, tile, w);
        attend_segment(p, tile, tile.segment_begin + u - tile.first_unit, w, partial(u));
    }
    team.barrier();
    const int64_t n = int64_t(plan.tiles.size());
    for (int64_t i = team.next(1); i < n; i = team.next(1)) {
        const Tile& tile = plan.tiles[size_t(i)];
        const Partial merged = p.partial_at(w.merged);
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
    const Problem p(args);
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
