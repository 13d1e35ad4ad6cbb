// What the files of attention share: the tile of work and its memory. attention.cpp says what is
// computed; attention_scores.cpp and attention_values.cpp hold the two products.
#pragma once

#include <algorithm>

#include "forward_input.h"
#include "kernel_functions.h"
#include "kv_cache.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int64_t kBlockSize = KVCache::kBlockSize;
inline constexpr int64_t kMaxHeadDim = KVCache::kMaxHeadDim;
inline constexpr int64_t kSegment = 256;  // positions
inline constexpr int64_t kTileRows = 16;  // what one AMX tile holds
static_assert(kBlockSize == kLanes, "a block's tokens are the lanes of a vector");

// What is held in registers at a time.
#if CIERZO_ISA_LEVEL >= 2
inline constexpr int kRows = 4;     // of a tile
inline constexpr int kBlocks = 2;   // of keys
inline constexpr int kVectors = 4;  // of head_dim
#else
inline constexpr int kRows = 2;
inline constexpr int kBlocks = 1;
inline constexpr int kVectors = 2;
#endif
// Fewer rows than this read the cache as it is; more are worth a widened copy of the block.
inline constexpr int64_t kWorthWidening = 2 * kRows;

struct AttentionTile {
    int64_t sequence, kv_head;
    int64_t row_begin, row_end;
    int64_t segment_begin, segment_end;
    int64_t first_unit;  // index of its first segment among all tiles' segments
    int64_t num_rows() const { return row_end - row_begin; }
};

struct Positions {
    int64_t begin, end;
    bool empty() const { return begin >= end; }
    bool operator==(const Positions&) const = default;
};

inline Positions intersect(Positions a, Positions b) {
    return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Unnormalised softmax of some of the context for the rows of a tile; sum 0 = nothing seen.
struct PartialAttention {
    float* maximum;  // [kTileRows]
    float* sum;      // [kTileRows]
    float* o;        // [kTileRows, stride]
};

struct AttentionProblem {
    const AttentionArgs& a;
    const ForwardInput& input;
    const KVCache& cache;
    int64_t head_dim, stride;  // stride: head_dim rounded up to whole vectors
    int64_t queries_per_kv_head;

    explicit AttentionProblem(const AttentionArgs& args)
        : a(args),
          input(*args.input),
          cache(*args.kv_cache),
          head_dim(cache.head_dim()),
          stride(round_up(head_dim, kLanes)),
          queries_per_kv_head(args.n_heads / cache.n_kv_heads()) {}

    // Where a tile's row lies in q and out.
    int64_t offset(const AttentionTile& tile, int64_t row) const {
        const int64_t token = input.query_starts[size_t(tile.sequence)] + row / queries_per_kv_head;
        const int64_t head = tile.kv_head * queries_per_kv_head + row % queries_per_kv_head;
        return (token * a.n_heads + head) * head_dim;
    }
    // Context positions a row sees: up to its own, and no further back than the window.
    Positions visible(int64_t sequence, int64_t row) const {
        const int64_t end = input.context_lens[size_t(sequence)] - input.num_queries(sequence) +
                            row / queries_per_kv_head + 1;
        const bool cut = a.sliding_window > 0 && end > a.sliding_window;
        return {cut ? end - a.sliding_window : 0, end};
    }
    // Of block b of a segment.
    const uint16_t* keys(const AttentionTile& tile, int64_t segment, int64_t b) const {
        return cache.keys(a.layer, block_id(tile, segment, b), tile.kv_head);
    }
    const uint16_t* values(const AttentionTile& tile, int64_t segment, int64_t b) const {
        return cache.values(a.layer, block_id(tile, segment, b), tile.kv_head);
    }
    int32_t block_id(const AttentionTile& tile, int64_t segment, int64_t b) const {
        return input.block_table(tile.sequence)[segment * (kSegment / kBlockSize) + b];
    }
    int64_t partial_floats() const { return kTileRows * (2 + stride); }
    PartialAttention partial_at(float* base) const {
        return {base, base + kTileRows, base + 2 * kTileRows};
    }
};

// One thread's working memory.
struct AttentionWorkspace {
    alignas(64) uint16_t q_bf16[kTileRows * kMaxHeadDim];
    alignas(64) float q[kTileRows * kMaxHeadDim];                 // the same, widened
    alignas(64) float block[kBlocks * kBlockSize * kMaxHeadDim];  // keys or values, widened
    alignas(64) float scores[kTileRows * kSegment];
    alignas(64) float segment[kTileRows * (2 + kMaxHeadDim)];
    alignas(64) float merged[kTileRows * (2 + kMaxHeadDim)];
};

// Calls f<n>() with the compile-time n equal to `count`, 1 <= count <= kRows.
template <int N = kRows, class F>
inline void with_count(int64_t count, F f) {
    if constexpr (N > 1)
        if (count < N) return with_count<N - 1>(count, f);
    f.template operator()<N>();
}

// Raw scores of a tile's rows for blocks of a segment: w.scores[row][position in the segment].
void score_segment(const AttentionProblem& p, const AttentionTile& tile, int64_t segment,
                   Positions blocks, AttentionWorkspace& w);

// o += weights · values over blocks of a segment; `seen` per row, w.scores hold the weights.
void add_segment(const AttentionProblem& p, const AttentionTile& tile, int64_t segment,
                 Positions blocks, const Positions* seen, AttentionWorkspace& w, float* o);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
