// Queries times keys of completion rows: on the AMX unit, or on vectors in the unit's order.
#include "attention_completion.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

#if CIERZO_ISA_LEVEL >= 3

// Tiles 0-3: scores of the rows for a block each. 4 and 6: 32 dims of queries and of a block's
// keys, which are stored as the unit reads them; 5 and 7: the dims left over.
TileConfig score_tiles(const AttentionProblem& p, int64_t rows) {
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
void zero_scores() {
    tile_zero<0>();
    if constexpr (BLOCKS > 1) tile_zero<1>();
    if constexpr (BLOCKS > 2) tile_zero<2>();
    if constexpr (BLOCKS > 3) tile_zero<3>();
}

template <int BLOCKS>
void store_scores(float* scores) {
    constexpr int64_t kPitch = kSegment * int64_t(sizeof(float));
    tile_store<0>(scores, kPitch);
    if constexpr (BLOCKS > 1) tile_store<1>(scores + kBlockSize, kPitch);
    if constexpr (BLOCKS > 2) tile_store<2>(scores + 2 * kBlockSize, kPitch);
    if constexpr (BLOCKS > 3) tile_store<3>(scores + 3 * kBlockSize, kPitch);
}

template <int BLOCKS>
void score_blocks(const AttentionProblem& p, float* scores, const uint16_t* q,
                  const uint16_t* const* keys) {
    const int64_t q_pitch = p.stride * int64_t(sizeof(uint16_t));
    const int64_t whole = p.head_dim / kGroupDims * kGroupDims;
    zero_scores<BLOCKS>();
    for (int64_t d = 0; d < whole; d += kGroupDims) {
        tile_load<4>(q + d, q_pitch);
        add_tile_dots<4, 6, 0, BLOCKS>(keys, d);
    }
    if (whole < p.head_dim) {
        tile_load<5>(q + whole, q_pitch);
        add_tile_dots<5, 7, 0, BLOCKS>(keys, whole);
    }
    store_scores<BLOCKS>(scores);
}

void score_with_tiles(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                      Positions blocks, CompletionWorkspace& w, float* scores) {
    if (w.configured_rows != rows.count()) {
        tile_configure(score_tiles(p, rows.count()));
        w.configured_rows = rows.count();
    }
    const int64_t first = segment * kSegmentBlocks;
    for (int64_t b = blocks.begin, count = 0; b < blocks.end; b += count) {
        count = std::min<int64_t>(4, blocks.end - b);
        const uint16_t* keys[4] = {};
        // None is asked for: read as they lie, the hardware finds them in time.
        for (int64_t i = 0; i < count; ++i)
            keys[i] = reinterpret_cast<const uint16_t*>(p.keys(rows, first + b + i));
        with_count<4>(count, [&]<int BLOCKS>() {
            score_blocks<BLOCKS>(p, scores + b * kBlockSize, w.q_bf16, keys);
        });
    }
}

#endif

// Keys of kBlocks blocks, as stored or widened to float32 [head_dim][16 tokens].
template <class Rows>
struct StoredKeys {
    const std::byte* block[kBlocks];
    void load(int b, int64_t d, f32x16& even, f32x16& odd) const {
        Rows::load_keys(block[b], d, even, odd);
    }
};
struct WideKeys {
    const float* block[kBlocks];
    void load(int b, int64_t d, f32x16& even, f32x16& odd) const {
        even = f32x16::load(block[b] + d * kLanes);
        odd = f32x16::load(block[b] + (d + 1) * kLanes);
    }
};

template <class Rows>
void widen_keys(float* out, const std::byte* keys, int64_t head_dim) {
    for (int64_t d = 0; d < head_dim; d += 2) {
        f32x16 even, odd;
        Rows::load_keys(keys, d, even, odd);
        even.store(out + d * kLanes);
        odd.store(out + (d + 1) * kLanes);
    }
}

// Scores of ROWS rows for BLOCKS blocks of keys.
template <int ROWS, int BLOCKS, class Keys>
void score_rows(const AttentionProblem& p, float* scores, const float* q, const Keys& keys) {
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

template <int BLOCKS, class Keys>
void score_tile(const AttentionProblem& p, int64_t rows, float* scores, const float* q,
                const Keys& keys) {
    for (int64_t r = 0; r < rows; r += kRows)
        with_count(std::min<int64_t>(kRows, rows - r), [&]<int ROWS>() {
            score_rows<ROWS, BLOCKS>(p, scores + r * kSegment, q + r * p.stride, keys);
        });
}

template <class Rows>
void score_with_vectors(const AttentionProblem& p, const AttentionRows& tile_rows, int64_t segment,
                        Positions blocks, CompletionWorkspace& w, float* scores) {
    const int64_t rows = tile_rows.count(), first = segment * kSegmentBlocks;
    const bool widened = rows >= kWorthWidening;
    for (int64_t b = blocks.begin, count = 0; b < blocks.end; b += count) {
        count = b + kBlocks <= blocks.end ? kBlocks : 1;
        StoredKeys<Rows> stored = {};
        WideKeys wide = {};
        for (int64_t i = 0; i < count; ++i) {
            if (!widened && b + i + kAhead < blocks.end)
                prefetch_plane(p, p.keys(tile_rows, first + b + i + kAhead));
            stored.block[i] = p.keys(tile_rows, first + b + i);
            float* copy = w.block + i * kBlockSize * p.head_dim;
            if (widened) widen_keys<Rows>(copy, stored.block[i], p.head_dim);
            wide.block[i] = copy;
        }
        float* column = scores + b * kBlockSize;
        const auto score = [&](const auto& keys) {
            count == kBlocks ? score_tile<kBlocks>(p, rows, column, w.q, keys)
                             : score_tile<1>(p, rows, column, w.q, keys);
        };
        widened ? score(wide) : score(stored);
    }
}

}  // namespace

void score_segment(const AttentionProblem& p, const AttentionRows& rows, int64_t segment,
                   Positions blocks, CompletionWorkspace& w, float* scores) {
#if CIERZO_ISA_LEVEL >= 3
    // Integers would have to be widened for the unit, which takes longer than it saves.
    p.cache.type() == KVType::kBf16
        ? score_with_tiles(p, rows, segment, blocks, w, scores)
        : score_with_vectors<Int8Rows>(p, rows, segment, blocks, w, scores);
#else
    with_rows(p.cache.type(), [&]<class Rows>(Rows) {
        score_with_vectors<Rows>(p, rows, segment, blocks, w, scores);
    });
#endif
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
