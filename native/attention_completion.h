// Attention of completion rows; attention.cpp says what is computed. A tile of rows takes a segment
// of the context at a time; a segment's result is partial, and partial results are merged.
#pragma once

#include "attention.h"

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

// Unnormalised softmax of some of the context for the rows of a tile; sum 0 = nothing seen.
struct PartialAttention {
    float* maximum;  // [kTileRows]
    float* sum;      // [kTileRows]
    float* o;        // [kTileRows, stride]

    PartialAttention(float* base) : maximum(base), sum(base + kTileRows), o(base + 2 * kTileRows) {}
    static int64_t num_floats(const AttentionProblem& p) { return kTileRows * (2 + p.stride); }
};

// One thread's working memory; its AMX unit stays configured for as many rows as the last tile had.
struct CompletionWorkspace {
    alignas(64) uint16_t q_bf16[kTileRows * kMaxHeadDim];
    alignas(64) float q[kTileRows * kMaxHeadDim];                 // the same, widened
    alignas(64) float block[kBlocks * kBlockSize * kMaxHeadDim];  // keys or values, widened
    alignas(64) float scores[kTileRows * kSegment];
    alignas(64) float segment[kTileRows * (2 + kMaxHeadDim)];
    alignas(64) float merged[kTileRows * (2 + kMaxHeadDim)];
    int64_t configured_rows = 0;
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

// Raw scores of the rows for blocks of a segment: w.scores[row][position in the segment]. Integer
// keys and values (int8) count as they are, here and below.
void score_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                   Positions blocks, CompletionWorkspace& w);

// o = weights · values over blocks of a segment; `seen` per row, w.scores hold the weights.
void add_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                 Positions blocks, const Positions* seen, CompletionWorkspace& w, float* o);

void load_queries(const AttentionProblem& p, const AttentionRows& rows, CompletionWorkspace& w);

// One segment of the context. The rows' queries must be loaded.
void attend_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                    CompletionWorkspace& w, const PartialAttention& out);

// into = into ∪ next, where `next` covers later positions.
void merge(const AttentionProblem& p, int64_t num_rows, const PartialAttention& into,
           const PartialAttention& next);

void write_out(const AttentionProblem& p, const AttentionRows& rows,
               const PartialAttention& merged);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
