// Completion rows: one segment's softmax, and how segments are merged.
#include "attention_completion.h"

#include <limits>

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// A row's scores become its weights exp(score − maximum); `seen` counts from the segment's begin.
void softmax_row(float* scores, Positions seen, float& maximum, float& sum) {
    const int64_t begin = seen.begin / kBlockSize * kBlockSize;
    const f32x16 never = f32x16::broadcast(-std::numeric_limits<float>::infinity());
    const auto score = [&](int64_t t) {
        const f32x16 x = f32x16::load(scores + t);
        return seen.begin <= t && t + kLanes <= seen.end ? x : only(x, t, seen, never);
    };
    f32x16 top = never;
    for (int64_t t = begin; t < seen.end; t += kLanes) top = max(top, score(t));
    maximum = reduce_max(top);
    const f32x16 shift = f32x16::broadcast(maximum);
    f32x16 total = f32x16::zero();
    for (int64_t t = begin; t < seen.end; t += kLanes) {
        const f32x16 weight = exp(score(t) - shift);
        weight.store(scores + t);
        total = total + weight;
    }
    sum = reduce_add(total);
}

// Columns of scores or weights times the scales of their tokens' integers; planes(b) holds those of
// block b of the segment.
template <class F>
void scale_columns(const AttentionProblem& p, int64_t rows, Positions blocks, float* scores,
                   const F& planes) {
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        const f32x16 scales = Int8Rows::scales(planes(b), p.head_dim);
        for (int64_t r = 0; r < rows; ++r) {
            float* column = scores + r * kSegment + b * kBlockSize;
            (f32x16::load(column) * scales).store(column);
        }
    }
}

void load_queries(const AttentionProblem& p, const AttentionRows& rows, CompletionWorkspace& w) {
    for (int64_t r = 0; r < rows.count(); ++r) {
        const float* q = p.a.q + p.offset(rows, rows.begin + r);
        for (int64_t d = 0; d < p.head_dim; d += kLanes) {
            uint16_t* rounded = w.q_bf16 + r * p.stride + d;
            const int lanes = int(std::min<int64_t>(kLanes, p.head_dim - d));
            store_bf16(rounded, f32x16::load_partial(q + d, lanes));
            f32x16::load_bf16(rounded).store(w.q + r * p.stride + d);
        }
    }
}

SegmentSeen seen_of(const AttentionProblem& p, const AttentionRows& rows, int64_t segment) {
    const int64_t origin = segment * kSegment;
    SegmentSeen seen;
    for (int64_t r = 0; r < rows.count(); ++r) {
        const Positions all = p.visible(rows.sequence, rows.begin + r);
        seen.rows[r] = intersect({all.begin - origin, all.end - origin}, {0, kSegment});
    }
    seen.blocks = {std::max(seen.rows[0].begin, int64_t(0)) / kBlockSize,
                   (seen.rows[rows.count() - 1].end + kBlockSize - 1) / kBlockSize};
    return seen;
}

// Scores become weights.
void softmax_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                     const SegmentSeen& seen, float* scores, const PartialAttention& out) {
    const int64_t n = rows.count(), first = segment * kSegmentBlocks;
    const bool is_int8 = p.cache.type() == KVType::kInt8;
    if (is_int8)
        scale_columns(p, n, seen.blocks, scores,
                      [&](int64_t b) { return p.keys(rows, first + b); });
    for (int64_t r = 0; r < n; ++r) {
        out.maximum[r] = -std::numeric_limits<float>::infinity();
        out.sum[r] = 0.0f;
        if (!seen.rows[r].empty())
            softmax_row(scores + r * kSegment, seen.rows[r], out.maximum[r], out.sum[r]);
    }
    if (is_int8)
        scale_columns(p, n, seen.blocks, scores,
                      [&](int64_t b) { return p.values(rows, first + b); });
}

}  // namespace

void attend_segment(const AttentionProblem& p, const CompletionTile& tile, int64_t segment,
                    CompletionWorkspace& w, const PartialAttention& out) {
    const SegmentSeen seen = seen_of(p, tile.rows, segment);
    const auto scores = [&](int64_t h) { return w.scores + h * kTileRows * kSegment; };
    for (int64_t h = 0; h < tile.num_kv_heads; ++h) {
        load_queries(p, tile.of_head(h), w);
        score_segment(p, tile.of_head(h), segment, seen.blocks, w, scores(h));
    }
    if (tile.rows.count() < kWorthWidening)
        for (int64_t b = seen.blocks.begin;
             b < std::min(seen.blocks.begin + kAhead, seen.blocks.end); ++b)
            prefetch_plane(p, p.values(tile.rows, segment * kSegmentBlocks + b));
    for (int64_t h = 0; h < tile.num_kv_heads; ++h)
        softmax_segment(p, tile.of_head(h), segment, seen, scores(h), out.of_head(p, h));
    for (int64_t h = 0; h < tile.num_kv_heads; ++h)
        add_segment(p, tile, h, segment, seen, scores(h), w, out.of_head(p, h).o);
}

void merge(const AttentionProblem& p, int64_t num_rows, const PartialAttention& into,
           const PartialAttention& next) {
    for (int64_t r = 0; r < num_rows; ++r) {
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

void write_out(const AttentionProblem& p, const AttentionRows& rows,
               const PartialAttention& merged) {
    for (int64_t r = 0; r < rows.count(); ++r) {
        float* out = p.a.out + p.offset(rows, rows.begin + r);
        const f32x16 sum = f32x16::broadcast(merged.sum[r]);
        for (int64_t d = 0; d < p.head_dim; d += kLanes)
            (f32x16::load(merged.o + r * p.stride + d) / sum)
                .store_partial(out + d, int(std::min<int64_t>(kLanes, p.head_dim - d)));
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
