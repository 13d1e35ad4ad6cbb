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
#include <algorithm>
#include <limits>
#include <vector>

#include "amx.h"
#include "forward_input.h"
#include "kernel_functions.h"
#include "kv_cache.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kBlockSize = KVCache::kBlockSize;
constexpr int64_t kMaxHeadDim = KVCache::kMaxHeadDim;
constexpr int64_t kSegment = 256;           // positions
constexpr int64_t kTileRows = 16;           // what one AMX tile holds
constexpr int64_t kGroupDims = 32;          // of head_dim, summed before they join the rest
constexpr int64_t kWorthSharing = 1 << 16;  // multiply-adds; less is done sooner than shared
static_assert(kBlockSize == kLanes, "a block's tokens are the lanes of a vector");

// What is held in registers at a time.
#if CIERZO_ISA_LEVEL >= 2
constexpr int kRows = 4;     // of a tile
constexpr int kBlocks = 2;   // of keys
constexpr int kVectors = 4;  // of head_dim
#else
constexpr int kRows = 2;
constexpr int kBlocks = 1;
constexpr int kVectors = 2;
#endif
// Fewer rows than this read the cache as it is; more are worth a widened copy of the block.
constexpr int64_t kWorthWidening = 2 * kRows;

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
    bool operator==(const Range&) const = default;
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
    // Of block b of a segment.
    const uint16_t* keys(const Tile& tile, int64_t segment, int64_t b) const {
        return cache.keys(a.layer, block_id(tile, segment, b), tile.kv_head);
    }
    const uint16_t* values(const Tile& tile, int64_t segment, int64_t b) const {
        return cache.values(a.layer, block_id(tile, segment, b), tile.kv_head);
    }
    int32_t block_id(const Tile& tile, int64_t segment, int64_t b) const {
        return input.block_table(tile.sequence)[segment * (kSegment / kBlockSize) + b];
    }
    int64_t partial_floats() const { return kTileRows * (2 + stride); }
    Partial partial_at(float* base) const { return {base, base + kTileRows, base + 2 * kTileRows}; }
};

// One thread's working memory.
struct Workspace {
    alignas(64) uint16_t q_bf16[kTileRows * kMaxHeadDim];
    alignas(64) float q[kTileRows * kMaxHeadDim];                 // the same, widened
    alignas(64) float block[kBlocks * kBlockSize * kMaxHeadDim];  // keys or values, widened
    alignas(64) float scores[kTileRows * kSegment];
    alignas(64) float segment[kTileRows * (2 + kMaxHeadDim)];
    alignas(64) float merged[kTileRows * (2 + kMaxHeadDim)];
};

// Keys of kBlocks blocks, as stored or widened to float32 [head_dim][16 tokens].
struct StoredKeys {
    const uint16_t* block[kBlocks];
    void load(int b, int64_t d, f32x16& even, f32x16& odd) const {
        load_bf16_pairs(block[b] + d * kLanes, even, odd);
    }
};
struct WideKeys {
    const float* block[kBlocks];
    void load(int b, int64_t d, f32x16& even, f32x16& odd) const {
        even = f32x16::load(block[b] + d * kLanes);
        odd = f32x16::load(block[b] + (d + 1) * kLanes);
    }
};

// Values of one block, as stored or widened to float32 [16 tokens][stride].
struct StoredValues {
    const uint16_t* block;
    int64_t stride;
    f32x16 load(int64_t t, int64_t d) const { return f32x16::load_bf16(block + t * stride + d); }
};
struct WideValues {
    const float* block;
    int64_t stride;
    f32x16 load(int64_t t, int64_t d) const { return f32x16::load(block + t * stride + d); }
};

void widen_keys(float* out, const uint16_t* keys, int64_t head_dim) {
    for (int64_t d = 0; d < head_dim; d += 2) {
        f32x16 even, odd;
        load_bf16_pairs(keys + d * kLanes, even, odd);
        even.store(out + d * kLanes);
        odd.store(out + (d + 1) * kLanes);
    }
}

// What lies past head_dim is never used.
void widen_values(float* out, const uint16_t* values, int64_t head_dim, int64_t stride) {
    for (int64_t t = 0; t < kBlockSize; ++t)
        for (int64_t d = 0; d < head_dim; d += kLanes)
            f32x16::load_bf16(values + t * head_dim + d).store(out + t * stride + d);
}

// Scores of ROWS rows for BLOCKS blocks of keys.
template <int ROWS, int BLOCKS, class Keys>
void score_rows(const Problem& p, float* scores, const float* q, const Keys& keys) {
    f32x16 sum[ROWS][BLOCKS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int b = 0; b < BLOCKS; ++b) sum[r][b] = f32x16::zero();
    for (int64_t group = 0; group < p.head_dim; group += kGroupDims) {
        const int64_t end = std::min(group + kGroupDims, p.head_dim);
        f32x16 even[ROWS][BLOCKS], odd[ROWS][BLOCKS];
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int b = 0; b < BLOCKS; ++b) even[r][b] = odd[r][b] = f32x16::zero();
        for (int64_t d = group; d < end; d += 2) {
            f32x16 k_even[BLOCKS], k_odd[BLOCKS];
#pragma GCC unroll 8
            for (int b = 0; b < BLOCKS; ++b) keys.load(b, d, k_even[b], k_odd[b]);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; ++r) {
                const f32x16 q_even = f32x16::broadcast(q[r * p.stride + d]);
                const f32x16 q_odd = f32x16::broadcast(q[r * p.stride + d + 1]);
#pragma GCC unroll 8
                for (int b = 0; b < BLOCKS; ++b) {
                    even[r][b] = fma(q_even, k_even[b], even[r][b]);
                    odd[r][b] = fma(q_odd, k_odd[b], odd[r][b]);
                }
            }
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
            for (int b = 0; b < BLOCKS; ++b) sum[r][b] = sum[r][b] + (even[r][b] + odd[r][b]);
    }
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int b = 0; b < BLOCKS; ++b) sum[r][b].store(scores + r * kSegment + b * kBlockSize);
}

// Calls f<n>() with the compile-time n equal to `count`, 1 <= count <= kRows.
template <int N = kRows, class F>
void with_count(int64_t count, F f) {
    if constexpr (N > 1)
        if (count < N) return with_count<N - 1>(count, f);
    f.template operator()<N>();
}

template <int BLOCKS, class Keys>
void score_tile(const Problem& p, int64_t rows, float* scores, const float* q, const Keys& keys) {
    for (int64_t r = 0; r < rows; r += kRows)
        with_count(std::min<int64_t>(kRows, rows - r), [&]<int ROWS>() {
            score_rows<ROWS, BLOCKS>(p, scores + r * kSegment, q + r * p.stride, keys);
        });
}

// o[r] += Σ weights[r][t] · values[t] over t in `tokens`, for ROWS rows and VECTORS vectors from d
// on.
template <int ROWS, int VECTORS, class Values>
void add_vectors(float* o, int64_t stride, int64_t d, const float* weights, const Values& values,
                 Range tokens) {
    f32x16 sum[ROWS][VECTORS];
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = f32x16::load(o + r * stride + d + v * kLanes);
    for (int64_t t = tokens.begin; t < tokens.end; ++t) {
        f32x16 value[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) value[v] = values.load(t, d + v * kLanes);
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
        for (int v = 0; v < VECTORS; ++v) sum[r][v].store(o + r * stride + d + v * kLanes);
}

// The values of one block for the rows of a tile; `seen` and `weights` begin with the block. Rows
// that see the same tokens (all of them, or the heads of one query) go together.
template <class Values>
void add_block(const Problem& p, int64_t rows, float* o, const float* weights, const Values& values,
               const Range* seen, int64_t block_begin) {
    const auto tokens_of = [&](int64_t r) {
        return intersect({seen[r].begin - block_begin, seen[r].end - block_begin}, {0, kBlockSize});
    };
    for (int64_t r = 0, count = 0; r < rows; r += count) {
        const Range tokens = tokens_of(r);
        count = 1;
        while (count < kRows && r + count < rows && tokens_of(r + count) == tokens) ++count;
        if (tokens.empty()) continue;
        with_count(count, [&]<int ROWS>() {
            float* row_o = o + r * p.stride;
            const float* row_weights = weights + r * kSegment;
            int64_t d = 0;
            for (; d + kVectors * kLanes <= p.stride; d += kVectors * kLanes)
                add_vectors<ROWS, kVectors>(row_o, p.stride, d, row_weights, values, tokens);
            for (; d < p.stride; d += kLanes)
                add_vectors<ROWS, 1>(row_o, p.stride, d, row_weights, values, tokens);
        });
    }
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

void clear(const Problem& p, int64_t rows, const Partial& out) {
    std::fill_n(out.maximum, rows, -std::numeric_limits<float>::infinity());
    std::fill_n(out.sum, rows, 0.0f);
    std::fill_n(out.o, rows * p.stride, 0.0f);
}

// Raw scores of a tile for some blocks of a segment, from the vector unit.
void score_segment(const Problem& p, const Tile& tile, int64_t segment, Range blocks,
                   Workspace& w) {
    const int64_t rows = tile.num_rows();
    const bool widened = rows >= kWorthWidening;
    for (int64_t b = blocks.begin, count = 0; b < blocks.end; b += count) {
        count = b + kBlocks <= blocks.end ? kBlocks : 1;
        StoredKeys stored = {};
        WideKeys wide = {};
        for (int64_t i = 0; i < count; ++i) {
            stored.block[i] = p.keys(tile, segment, b + i);
            float* copy = w.block + i * kBlockSize * p.head_dim;
            if (widened) widen_keys(copy, stored.block[i], p.head_dim);
            wide.block[i] = copy;
        }
        float* scores = w.scores + b * kBlockSize;
        const auto score = [&](const auto& keys) {
            count == kBlocks ? score_tile<kBlocks>(p, rows, scores, w.q, keys)
                             : score_tile<1>(p, rows, scores, w.q, keys);
        };
        widened ? score(wide) : score(stored);
    }
}

#if CIERZO_ISA_LEVEL >= 3

// Tiles 0-3: scores of the rows for a block each. 4 and 6: 32 dims of queries and of a block's
// keys, which are stored as the unit reads them; 5 and 7: the dims left over.
TileConfig score_tiles(const Problem& p, int64_t rows) {
    const int64_t rest = p.head_dim % kGroupDims;
    TileConfig config;
    for (const int t : {0, 1, 2, 3, 4, 6}) {
        config.rows[t] = uint8_t(t == 6 ? kGroupDims / 2 : rows);
        config.row_nbytes[t] = 64;
    }
    if (rest > 0) {
        config.rows[5] = uint8_t(rows);
        config.row_nbytes[5] = uint16_t(rest * 2);
        config.rows[7] = uint8_t(rest / 2);
        config.row_nbytes[7] = 64;
    }
    return config;
}

// The dims from d on, for BLOCKS blocks from block B on.
template <int Q, int K, int B, int BLOCKS>
void add_tile_dots(const uint16_t* const* keys, int64_t d) {
    if constexpr (B < BLOCKS) {
        tile_load<K>(keys[B] + d * kBlockSize, 64);
        tile_dot_bf16<B, Q, K>();
        add_tile_dots<Q, K, B + 1, BLOCKS>(keys, d);
    }
}

template <int BLOCKS>
void score_blocks(const Problem& p, float* scores, const uint16_t* q, const uint16_t* const* keys) {
    constexpr int64_t kPitch = kSegment * int64_t(sizeof(float));
    const int64_t q_pitch = p.stride * int64_t(sizeof(uint16_t));
    const int64_t whole = p.head_dim / kGroupDims * kGroupDims;
    tile_zero<0>();
    if constexpr (BLOCKS == 4) {
        tile_zero<1>();
        tile_zero<2>();
        tile_zero<3>();
    }
    for (int64_t d = 0; d < whole; d += kGroupDims) {
        tile_load<4>(q + d, q_pitch);
        add_tile_dots<4, 6, 0, BLOCKS>(keys, d);
    }
    if (whole < p.head_dim) {
        tile_load<5>(q + whole, q_pitch);
        add_tile_dots<5, 7, 0, BLOCKS>(keys, whole);
    }
    tile_store<0>(scores, kPitch);
    if constexpr (BLOCKS == 4) {
        tile_store<1>(scores + kBlockSize, kPitch);
        tile_store<2>(scores + 2 * kBlockSize, kPitch);
        tile_store<3>(scores + 3 * kBlockSize, kPitch);
    }
}

// The same from the AMX unit.
void score_segment_in_tiles(const Problem& p, const Tile& tile, int64_t segment, Range blocks,
                            Workspace& w) {
    const TileScope scope(score_tiles(p, tile.num_rows()));
    for (int64_t b = blocks.begin, count = 0; b < blocks.end; b += count) {
        count = b + 4 <= blocks.end ? 4 : 1;
        const uint16_t* keys[4] = {};
        for (int64_t i = 0; i < count; ++i) keys[i] = p.keys(tile, segment, b + i);
        float* scores = w.scores + b * kBlockSize;
        count == 4 ? score_blocks<4>(p, scores, w.q_bf16, keys)
                   : score_blocks<1>(p, scores, w.q_bf16, keys);
    }
}

#endif

// o += weights · values over some blocks of a segment.
void add_segment(const Problem& p, const Tile& tile, int64_t segment, Range blocks,
                 const Range* seen, Workspace& w, float* o) {
    const int64_t rows = tile.num_rows();
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        const uint16_t* values = p.values(tile, segment, b);
        const int64_t begin = b * kBlockSize;
        if (rows >= kWorthWidening) {
            widen_values(w.block, values, p.head_dim, p.stride);
            add_block(p, rows, o, w.scores + begin, WideValues{w.block, p.stride}, seen, begin);
        } else {
            add_block(p, rows, o, w.scores + begin, StoredValues{values, p.head_dim}, seen, begin);
        }
    }
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
#if CIERZO_ISA_LEVEL >= 3
    score_segment_in_tiles(p, tile, segment, blocks, w);
#else
    score_segment(p, tile, segment, blocks, w);
#endif
    for (int64_t r = 0; r < rows; ++r)
        if (!seen[r].empty())
            softmax_row(w.scores + r * kSegment, seen[r], out.maximum[r], out.sum[r]);
    add_segment(p, tile, segment, blocks, seen, w, out.o);
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
