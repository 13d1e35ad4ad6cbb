// Weights times values of completion rows.
#include "attention_completion.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Values of one block, as stored or widened to float32.
template <class Rows>
struct StoredValues {
    const std::byte* block;
    int64_t head_dim;
    void load(int64_t pair, int64_t d, f32x16& first, f32x16& second) const {
        Rows::load_values(block, head_dim, pair, d, first, second);
    }
};
struct WideValues {
    const float* block;  // [16 tokens][stride]
    int64_t stride;
    void load(int64_t pair, int64_t d, f32x16& first, f32x16& second) const {
        first = f32x16::load(block + 2 * pair * stride + d);
        second = f32x16::load(block + (2 * pair + 1) * stride + d);
    }
};

// What lies past head_dim is never used.
template <class Rows>
void widen_values(float* out, const StoredValues<Rows>& values, int64_t stride) {
    for (int64_t pair = 0; pair < kBlockSize / 2; ++pair)
        for (int64_t d = 0; d < stride; d += kLanes) {
            f32x16 first, second;
            values.load(pair, d, first, second);
            first.store(out + 2 * pair * stride + d);
            second.store(out + (2 * pair + 1) * stride + d);
        }
}

// sum[r][v] += Σ weights[r][t] · values[t] over the tokens t of a block that are seen.
template <int ROWS, int VECTORS, class Values>
void add_tokens(f32x16 (&sum)[ROWS][VECTORS], int64_t d, const float* weights, const Values& values,
                Positions tokens) {
    const auto add = [&](int64_t t, const f32x16(&value)[VECTORS]) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; ++r) {
            const f32x16 weight = f32x16::broadcast(weights[r * kSegment + t]);
#pragma GCC unroll 8
            for (int v = 0; v < VECTORS; ++v) sum[r][v] = fma(weight, value[v], sum[r][v]);
        }
    };
    for (int64_t pair = tokens.begin / 2; pair < (tokens.end + 1) / 2; ++pair) {
        f32x16 first[VECTORS], second[VECTORS];
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) values.load(pair, d + v * kLanes, first[v], second[v]);
        if (2 * pair >= tokens.begin) add(2 * pair, first);
        if (2 * pair + 1 < tokens.end) add(2 * pair + 1, second);
    }
}

template <int ROWS, int VECTORS>
void load_sums(f32x16 (&sum)[ROWS][VECTORS], const float* o, int64_t stride) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v] = f32x16::load(o + r * stride + v * kLanes);
}

template <int ROWS, int VECTORS>
void store_sums(float* o, int64_t stride, const f32x16 (&sum)[ROWS][VECTORS]) {
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
        for (int v = 0; v < VECTORS; ++v) sum[r][v].store(o + r * stride + v * kLanes);
}

// Of [0, kBlockSize) of the block that begins at `begin`.
Positions in_block(Positions seen, int64_t begin) {
    return intersect({seen.begin - begin, seen.end - begin}, {0, kBlockSize});
}

// Rows that see the same positions (the heads of one query), from `first` on.
int64_t count_alike(const Positions* seen, int64_t first, int64_t rows) {
    int64_t count = 1;
    while (count < kRows && first + count < rows && seen[first + count] == seen[first]) ++count;
    return count;
}

// Calls f<VECTORS>(d) until all dims are done.
template <class F>
void for_vectors(int64_t stride, F f) {
    int64_t d = 0;
    for (; d + kVectors * kLanes <= stride; d += kVectors * kLanes)
        f.template operator()<kVectors>(d);
    for (; d < stride; d += kLanes) f.template operator()<1>(d);
}

// Few rows: their sums stay in registers, the values are taken as they are.
template <class Rows>
void add_stored(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                Positions blocks, const Positions* seen, const float* weights, float* o) {
    for (int64_t r = 0, count = 0; r < rows.count(); r += count) {
        count = count_alike(seen, r, rows.count());
        with_count(count, [&]<int ROWS>() {
            for_vectors(p.stride, [&]<int VECTORS>(int64_t d) {
                f32x16 sum[ROWS][VECTORS];
                for (auto& row : sum)
                    for (f32x16& s : row) s = f32x16::zero();
                for (int64_t b = seen[r].begin / kBlockSize; b * kBlockSize < seen[r].end; ++b) {
                    if (r == 0 && d == 0 && b + kAhead < blocks.end)
                        prefetch_plane(p, p.values(rows, segment * kSegmentBlocks + b + kAhead));
                    const StoredValues<Rows> values = {p.values(rows, segment * kSegmentBlocks + b),
                                                       p.head_dim};
                    add_tokens(sum, d, weights + r * kSegment + b * kBlockSize, values,
                               in_block(seen[r], b * kBlockSize));
                }
                store_sums(o + r * p.stride + d, p.stride, sum);
            });
        });
    }
}

// Many rows: a block's values are widened once for all of them.
template <class Rows>
void add_widened(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                 Positions blocks, const Positions* seen, CompletionWorkspace& w, float* o) {
    std::fill_n(o, rows.count() * p.stride, 0.0f);
    const WideValues values = {w.block, p.stride};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        widen_values<Rows>(w.block, {p.values(rows, segment * kSegmentBlocks + b), p.head_dim},
                           p.stride);
        for (int64_t r = 0, count = 0; r < rows.count(); r += count) {
            const Positions tokens = in_block(seen[r], b * kBlockSize);
            count = 1;
            while (count < kRows && r + count < rows.count() &&
                   in_block(seen[r + count], b * kBlockSize) == tokens)
                ++count;
            if (tokens.empty()) continue;
            const float* weights = w.scores + r * kSegment + b * kBlockSize;
            with_count(count, [&]<int ROWS>() {
                for_vectors(p.stride, [&]<int VECTORS>(int64_t d) {
                    f32x16 sum[ROWS][VECTORS];
                    load_sums(sum, o + r * p.stride + d, p.stride);
                    add_tokens(sum, d, weights, values, tokens);
                    store_sums(o + r * p.stride + d, p.stride, sum);
                });
            });
        }
    }
}

}  // namespace

void add_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                 Positions blocks, const Positions* seen, CompletionWorkspace& w, float* o) {
    with_rows(p.cache.type(), [&]<class Rows>(Rows) {
        if (rows.count() >= kWorthWidening)
            add_widened<Rows>(p, rows, segment, blocks, seen, w, o);
        else
            add_stored<Rows>(p, rows, segment, blocks, seen, w.scores, o);
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
