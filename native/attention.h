// What the files of attention share: the shape of the problem and where its parts lie.
// attention.cpp says what is computed.
#pragma once

#include <algorithm>
#include <vector>

#include "forward_input.h"
#include "kernel_functions.h"
#include "kv_rows.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int64_t kSegment = 256;  // positions
inline constexpr int64_t kSegmentBlocks = kSegment / kBlockSize;
inline constexpr int64_t kTileRows = 16;   // what one AMX tile holds
inline constexpr int64_t kGroupDims = 32;  // of head_dim, summed before they join the rest

struct Positions {
    int64_t begin, end;
    bool empty() const { return begin >= end; }
    bool operator==(const Positions&) const = default;
};

inline Positions intersect(Positions a, Positions b) {
    return {std::max(a.begin, b.begin), std::min(a.end, b.end)};
}

// Lanes of positions from t on that are not seen become `otherwise`.
inline f32x16 only(f32x16 x, int64_t t, Positions seen, f32x16 otherwise) {
    alignas(64) static constexpr float kCount[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                         8, 9, 10, 11, 12, 13, 14, 15};
    const f32x16 at = f32x16::load(kCount) + f32x16::broadcast(float(t));
    x = select_less(at, f32x16::broadcast(float(seen.end)), x, otherwise);
    return select_less(at, f32x16::broadcast(float(seen.begin)), otherwise, x);
}

// Consecutive rows of one (sequence, kv head): row r is query r / queries_per_kv_head and head
// r % queries_per_kv_head of the group.
struct AttentionRows {
    int64_t sequence, kv_head;
    int64_t begin, end;
    int64_t count() const { return end - begin; }
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

    // Where a row lies in q and out.
    int64_t offset(const AttentionRows& rows, int64_t row) const {
        const int64_t token = input.query_starts[size_t(rows.sequence)] + row / queries_per_kv_head;
        const int64_t head = rows.kv_head * queries_per_kv_head + row % queries_per_kv_head;
        return (token * a.n_heads + head) * head_dim;
    }
    // Context positions a query sees: up to its own, and no further back than the window.
    Positions visible_to_query(int64_t sequence, int64_t query) const {
        const int64_t end =
            input.context_lens[size_t(sequence)] - input.num_queries(sequence) + query + 1;
        const bool cut = a.sliding_window > 0 && end > a.sliding_window;
        return {cut ? end - a.sliding_window : 0, end};
    }
    Positions visible(int64_t sequence, int64_t row) const {
        return visible_to_query(sequence, row / queries_per_kv_head);
    }
    // What any of the rows sees.
    Positions visible(const AttentionRows& rows) const {
        return {visible(rows.sequence, rows.begin).begin, visible(rows.sequence, rows.end - 1).end};
    }
    // Of block b of a sequence.
    const std::byte* keys(const AttentionRows& rows, int64_t b) const {
        return cache.keys(a.layer, input.block_table(rows.sequence)[b], rows.kv_head);
    }
    const std::byte* values(const AttentionRows& rows, int64_t b) const {
        return cache.values(a.layer, input.block_table(rows.sequence)[b], rows.kv_head);
    }
};

// Completion rows that go together: the same ones, at most kTileRows, of some kv heads.
struct CompletionTile {
    AttentionRows rows;  // of the first of the heads
    int64_t num_kv_heads;
    int64_t segment_begin, segment_end;
    int64_t first_segment;  // its first one's index among all tiles' segments
    AttentionRows of_head(int64_t h) const {
        return {rows.sequence, rows.kv_head + h, rows.begin, rows.end};
    }
};

// How a step's rows are cut up and shared out.
struct AttentionPlan {
    std::vector<AttentionRows> prompt_units;
    std::vector<CompletionTile> tiles;
    std::vector<float> partials;  // of every segment of every tile, where these are shared out
    int64_t num_kv_heads = 1;     // of each tile
    int64_t num_segments = 0;     // of all tiles
    int64_t work = 0;             // multiply-adds
    bool shares_segments = false;
};

void make_plan(AttentionPlan& plan, const AttentionProblem& p, int64_t num_threads);

// Called by every thread of the team. Uses up sequences 0 to 2 and one barrier.
void attend(const AttentionProblem& p, AttentionPlan& plan, const Team& team);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
