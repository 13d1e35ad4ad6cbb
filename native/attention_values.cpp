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
                Positions tokens, PlaneAhead& ahead) {
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
        ahead.ask(VECTORS);
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

// Calls f<VECTORS>(d) until all dims are done.
template <class F>
void for_vectors(int64_t stride, F f) {
    int64_t d = 0;
    for (; d + kVectors * kLanes <= stride; d += kVectors * kLanes)
        f.template operator()<kVectors>(d);
    for (; d < stride; d += kLanes) f.template operator()<1>(d);
}

// A block's values for all rows, those together that see the same tokens.
template <class Values>
void add_block(const AttentionProblem& p, int64_t num_rows, const Positions* seen, int64_t b,
               const Values& values, const float* weights, PlaneAhead ahead, float* o) {
    for (int64_t r = 0, count = 0; r < num_rows; r += count) {
        const Positions tokens = in_block(seen[r], b * kBlockSize);
        count = 1;
        while (count < kRows && r + count < num_rows &&
               in_block(seen[r + count], b * kBlockSize) == tokens)
            ++count;
        if (tokens.empty()) continue;
        with_count(count, [&]<int ROWS>() {
            for_vectors(p.stride, [&]<int VECTORS>(int64_t d) {
                f32x16 sum[ROWS][VECTORS];
                load_sums(sum, o + r * p.stride + d, p.stride);
                add_tokens(sum, d, weights + r * kSegment + b * kBlockSize, values, tokens, ahead);
                store_sums(o + r * p.stride + d, p.stride, sum);
            });
        });
    }
}

}  // namespace

void add_segment(const AttentionProblem& p, const CompletionTile& tile, int64_t h, int64_t segment,
                 const SegmentSeen& seen, const float* weights, CompletionWorkspace& w, float* o) {
    const int64_t n = tile.rows.count(), first = segment * kSegmentBlocks;
    const Positions blocks = seen.blocks;
    // What comes kAhead blocks later, of this head or the next one.
    const auto ahead = [&](int64_t b) -> const std::byte* {
        const bool is_next = b + kAhead >= blocks.end;
        const int64_t later = b + kAhead - (is_next ? blocks.end - blocks.begin : 0);
        if (later >= blocks.end || h + is_next == tile.num_kv_heads) return nullptr;
        return p.values(tile.of_head(h + is_next), first + later);
    };
    std::fill_n(o, n * p.stride, 0.0f);
    with_rows(p.cache.type(), [&]<class Rows>(Rows) {
        for (int64_t b = blocks.begin; b < blocks.end; ++b) {
            const StoredValues<Rows> stored = {p.values(tile.of_head(h), first + b), p.head_dim};
            const std::byte* later = ahead(b);
            if (n < kWorthWidening) {
                const PlaneAhead lines(later, later == nullptr ? 0 : p.cache.plane_nbytes());
                add_block(p, n, seen.rows, b, stored, weights, lines, o);
            } else {
                widen_values(w.block, stored, p.stride);
                add_block(p, n, seen.rows, b, WideValues{w.block, p.stride}, weights,
                          PlaneAhead(nullptr, 0), o);
            }
        }
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
