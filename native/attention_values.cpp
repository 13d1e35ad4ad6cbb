// Weights times values, for attention.cpp.
#include "attention.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

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

// What lies past head_dim is never used.
void widen_values(float* out, const uint16_t* values, int64_t head_dim, int64_t stride) {
    for (int64_t t = 0; t < kBlockSize; ++t)
        for (int64_t d = 0; d < head_dim; d += kLanes)
            f32x16::load_bf16(values + t * head_dim + d).store(out + t * stride + d);
}

// o[r] += Σ weights[r][t] · values[t] over t in `tokens`, for ROWS rows and VECTORS vectors from d
// on.
template <int ROWS, int VECTORS, class Values>
void add_vectors(float* o, int64_t stride, int64_t d, const float* weights, const Values& values,
                 Positions tokens) {
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
void add_block(const AttentionProblem& p, int64_t rows, float* o, const float* weights,
               const Values& values, const Positions* seen, int64_t block_begin) {
    const auto tokens_of = [&](int64_t r) {
        return intersect({seen[r].begin - block_begin, seen[r].end - block_begin}, {0, kBlockSize});
    };
    for (int64_t r = 0, count = 0; r < rows; r += count) {
        const Positions tokens = tokens_of(r);
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

}  // namespace

void add_segment(const AttentionProblem& p, const AttentionTile& tile, int64_t segment,
                 Positions blocks, const Positions* seen, AttentionWorkspace& w, float* o) {
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

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
