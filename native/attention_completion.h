// Attention of completion rows; attention.cpp says what is computed. A tile of rows takes a segment
// of the context at a time; a segment's result is partial, and partial results are merged.
#pragma once

#include "attention.h"
#include "scratch.h"

#if CIERZO_ISA_LEVEL >= 3
#include "amx.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

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
// Few rows wait for memory, and blocks lie anywhere, so that the hardware cannot know what is next:
// keys and values are asked for so many blocks before they are used.
inline constexpr int64_t kAhead = 4;

inline void prefetch_plane(const AttentionProblem& p, const std::byte* plane) {
    for (int64_t i = 0; i < p.cache.plane_nbytes(); i += 64) prefetch(plane + i);
}

// A plane asked for a few lines at a time: all at once would hold up the loads beside them.
class PlaneAhead {
  public:
    PlaneAhead(const std::byte* plane, int64_t nbytes) : at_(plane), end_(plane + nbytes) {}
    void ask(int64_t lines) {
        for (; lines > 0 && at_ < end_; --lines, at_ += 64) prefetch_far(at_);
    }

  private:
    const std::byte *at_, *end_;
};

// Unnormalised softmax of some of the context for the rows of a tile; sum 0 = nothing seen. Those
// of the tile's other kv heads follow.
struct PartialAttention {
    float* maximum;  // [kTileRows]
    float* sum;      // [kTileRows]
    float* o;        // [kTileRows, stride]

    PartialAttention(float* base) : maximum(base), sum(base + kTileRows), o(base + 2 * kTileRows) {}
    static int64_t num_floats(const AttentionProblem& p) { return kTileRows * (2 + p.stride); }
    PartialAttention of_head(const AttentionProblem& p, int64_t h) const {
        return {maximum + h * num_floats(p)};
    }
};

// One thread's working memory; its AMX unit stays configured for as many rows as the last tile had.
struct CompletionWorkspace {
    alignas(64) uint16_t q_bf16[kTileRows * kMaxHeadDim];
    alignas(64) float q[kTileRows * kMaxHeadDim];                 // the same, widened
    alignas(64) float block[kBlocks * kBlockSize * kMaxHeadDim];  // keys or values, widened
    float* scores;         // [kv heads of a tile][kTileRows][kSegment]
    float *next, *merged;  // partial results of a tile
    int64_t configured_rows = 0;

    CompletionWorkspace(const AttentionProblem& p, int64_t num_kv_heads) {
        const int64_t num_scores = num_kv_heads * kTileRows * kSegment;
        const int64_t num_partial = num_kv_heads * PartialAttention::num_floats(p);
        scores = scratch_array<float>(ScratchSlot::kAttention, num_scores + 2 * num_partial);
        next = scores + num_scores;
        merged = next + num_partial;
    }
#if CIERZO_ISA_LEVEL >= 3
    ~CompletionWorkspace() {
        if (configured_rows > 0) tile_release();
    }
#endif
};

// Calls f<n>() with the compile-time n equal to `count`, 1 <= count <= N.
template <int N = kRows, class F>
inline void with_count(int64_t count, F f) {
    if constexpr (N > 1)
        if (count < N) return with_count<N - 1>(count, f);
    f.template operator()<N>();
}

// What a tile's rows see of a segment, counted from its begin, and the blocks in which it lies.
struct SegmentSeen {
    Positions rows[kTileRows];
    Positions blocks;
};

// Raw scores of the rows in w for blocks of a segment: scores[row][position in the segment].
// Integer keys and values (int8) count as they are, here and below.
void score_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                   Positions blocks, CompletionWorkspace& w, float* scores);

// o = weights · values of kv head h of the tile over a segment.
void add_segment(const AttentionProblem& p, const CompletionTile& tile, int64_t h, int64_t segment,
                 const SegmentSeen& seen, const float* weights, CompletionWorkspace& w, float* o);

// One segment of the context, for all kv heads of the tile.
void attend_segment(const AttentionProblem& p, const CompletionTile& tile, int64_t segment,
                    CompletionWorkspace& w, const PartialAttention& out);

// One kv head's into = into ∪ next, where `next` covers later positions.
void merge(const AttentionProblem& p, int64_t num_rows, const PartialAttention& into,
           const PartialAttention& next);

void write_out(const AttentionProblem& p, const AttentionRows& rows,
               const PartialAttention& merged);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
