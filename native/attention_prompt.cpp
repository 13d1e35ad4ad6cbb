// Prompt rows: queries in, segments one after another, outputs out. The two products are in
// attention_prompt_products.cpp.
#include "attention_prompt.h"

#include <cstring>
#include <limits>

#if CIERZO_ISA_LEVEL >= 3
#include "amx.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr float kLog2E = 1.44269504f;

// Read in place of keys that are not held; what comes of them is never looked at.
alignas(64) constexpr uint16_t kNoKeys[kBlockSize * kMaxHeadDim] = {};

// 2^x to 1e-4, a twentieth of the rounding of weights to bf16; held at 2^-126 below.
f32x16 exp2_short(f32x16 x) {
    x = max(x, f32x16::broadcast(-126.0f));
    const i32x16 n = round_to_int(x);
    const f32x16 f = x - to_float(n);
    f32x16 p = f32x16::broadcast(0.0550089329f);
    p = fma(p, f, f32x16::broadcast(0.242210969f));
    p = fma(p, f, f32x16::broadcast(0.693282902f));
    p = fma(p, f, f32x16::broadcast(1.0f));
    return p * exp2_int(n);
}

void load_queries(const AttentionProblem& p, const AttentionRows& unit, PromptWorkspace& w) {
    const int64_t dim_tiles = round_up(p.head_dim, kGroupDims) / kGroupDims;
    const int64_t tiles = round_up(unit.count(), kTileRows) / kTileRows;
    std::memset(w.q, 0, size_t(tiles * dim_tiles * kBf16Tile) * sizeof(uint16_t));
    for (int64_t r = 0; r < unit.count(); ++r) {
        const float* q = p.a.q + p.offset(unit, unit.begin + r);
        uint16_t* row = w.q + r / kTileRows * dim_tiles * kBf16Tile + r % kTileRows * kGroupDims;
        for (int64_t d = 0; d < p.head_dim; d += kLanes) {
            const int lanes = int(std::min<int64_t>(kLanes, p.head_dim - d));
            store_bf16(row + d / kGroupDims * kBf16Tile + d % kGroupDims,
                       f32x16::load_partial(q + d, lanes));
        }
    }
}

// Half a group: one block's values, of which the first `tokens` are seen by any row.
void load_values(uint16_t* out, const uint16_t* values, int64_t tokens, int64_t head_dim) {
    const int64_t pairs = kBlockSize / 2, whole = head_dim / kLanes;
    const int64_t dim_tiles = round_up(head_dim, kLanes) / kLanes;
    for (int64_t pair = 0; pair < pairs; ++pair) {
        uint16_t* line = out + pair * 2 * kLanes;
        const uint16_t* from = values + pair * 2 * head_dim;
        if (2 * pair >= tokens) {
            for (int64_t t = 0; t < dim_tiles; ++t)
                std::memset(line + t * kBf16Tile, 0, 2 * kLanes * sizeof(uint16_t));
            continue;
        }
        for (int64_t t = 0; t < whole; ++t)
            std::memcpy(line + t * kBf16Tile, from + t * 2 * kLanes, 2 * kLanes * sizeof(uint16_t));
        if (whole < dim_tiles) {
            const int64_t rest = 2 * (head_dim - whole * kLanes);
            uint16_t* last = line + whole * kBf16Tile;
            std::memset(last, 0, 2 * kLanes * sizeof(uint16_t));
            std::memcpy(last, from + whole * 2 * kLanes, size_t(rest) * sizeof(uint16_t));
        }
        if (2 * pair + 1 == tokens)
            for (int64_t i = 1; i < dim_tiles * 2 * kLanes; i += 2)
                line[i / (2 * kLanes) * kBf16Tile + i % (2 * kLanes)] = 0;
    }
}

// Keys and values of the positions of a segment that the unit sees. Other blocks may not be held,
// and what a reused block holds past the context may be anything: zeros instead.
void load_segment(const AttentionProblem& p, const AttentionRows& unit, int64_t segment,
                  Positions seen, PromptWorkspace& w) {
    const int64_t dim_tiles = p.stride / kLanes, rest = p.head_dim % kGroupDims;
    const Positions held = {seen.begin / kBlockSize, round_up(seen.end, kBlockSize) / kBlockSize};
    const Positions blocks = {seen.begin / kGroupTokens * 2,
                              round_up(seen.end, kGroupTokens) / kBlockSize};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        const bool is_held = held.begin <= b && b < held.end;
        const int64_t block = segment * kSegmentBlocks + b;
        w.keys[b] = is_held ? p.keys(unit, block) : kNoKeys;
        const uint16_t* values = is_held ? p.values(unit, block) : kNoKeys;
        uint16_t* group = w.v + b / 2 * dim_tiles * kBf16Tile;
        load_values(group + b % 2 * (kBf16Tile / 2), values, seen.end - b * kBlockSize, p.head_dim);
        if (rest > 0) {
            uint16_t* last = w.last_dims + b * kBf16Tile;
            const int64_t n = rest * kBlockSize;
            std::memcpy(last, w.keys[b] + (p.head_dim - rest) * kBlockSize,
                        size_t(n) * sizeof(uint16_t));
            std::memset(last + n, 0, size_t(kBf16Tile - n) * sizeof(uint16_t));
        }
    }
}

// Sixteen scores or weights from position t on, those outside `seen` replaced.
f32x16 only(f32x16 x, int64_t t, Positions seen, f32x16 otherwise) {
    alignas(64) static constexpr float kCount[kLanes] = {0, 1, 2,  3,  4,  5,  6,  7,
                                                         8, 9, 10, 11, 12, 13, 14, 15};
    const f32x16 at = f32x16::load(kCount) + f32x16::broadcast(float(t));
    x = select_less(at, f32x16::broadcast(float(seen.end)), x, otherwise);
    return select_less(at, f32x16::broadcast(float(seen.begin)), otherwise, x);
}

// One row's scores of a segment become its weights, rounded to bf16; `scores` and `weights` point
// at the row in its first tile, and `seen` counts from the segment's begin.
void weigh_row(const float* scores, uint16_t* weights, Positions groups, Positions seen,
               float& maximum, float* sums, float& rescale) {
    rescale = 1.0f;
    if (seen.empty()) {
        for (int64_t g = groups.begin; g < groups.end; ++g)
            store_bf16_pair(weights + g * kBf16Tile, f32x16::zero(), f32x16::zero());
        return;
    }
    const f32x16 never = f32x16::broadcast(-std::numeric_limits<float>::infinity());
    const Positions whole = intersect(
        groups, {round_up(seen.begin, kGroupTokens) / kGroupTokens, seen.end / kGroupTokens});
    const auto score = [&](int64_t t) { return f32x16::load(scores + t * kTileRows); };
    f32x16 top = never, top_odd = never;
    for (int64_t g = groups.begin; g < groups.end; ++g) {
        const int64_t t = g * kGroupTokens;
        if (whole.begin <= g && g < whole.end) {
            top = max(top, score(t));
            top_odd = max(top_odd, score(t + kLanes));
        } else {
            top = max(top, only(score(t), t, seen, never));
            top_odd = max(top_odd, only(score(t + kLanes), t + kLanes, seen, never));
        }
    }
    const float before = maximum;
    maximum = std::max(before, reduce_max(max(top, top_odd)));
    const f32x16 scale = f32x16::broadcast(kLog2E);
    const f32x16 shift = f32x16::broadcast(-(maximum * kLog2E));
    f32x16 sum = f32x16::load(sums);
    if (maximum > before) {
        const f32x16 factor = exp2_short(fma(f32x16::broadcast(before), scale, shift));
        factor.store_partial(&rescale, 1);
        sum = sum * factor;
    }
    for (int64_t g = groups.begin; g < groups.end; ++g) {
        const int64_t t = g * kGroupTokens;
        f32x16 first = exp2_short(fma(score(t), scale, shift));
        f32x16 second = exp2_short(fma(score(t + kLanes), scale, shift));
        if (g < whole.begin || g >= whole.end) {
            first = only(first, t, seen, f32x16::zero());
            second = only(second, t + kLanes, seen, f32x16::zero());
        }
        sum = sum + first + second;
        store_bf16_pair(weights + g * kBf16Tile, first, second);
    }
    sum.store(sums);
}

void rescale_outputs(const AttentionProblem& p, int64_t tile, PromptWorkspace& w) {
    const int64_t dim_tiles = p.stride / kLanes;
    const float* rescale = w.rescale + tile * kTileRows;
    if (std::all_of(rescale, rescale + kTileRows, [](float f) { return f == 1.0f; })) return;
    for (int64_t d = 0; d < dim_tiles; ++d)
        for (int64_t r = 0; r < kTileRows; ++r) {
            float* o = w.o + ((tile * dim_tiles + d) * kTileRows + r) * kLanes;
            (f32x16::load(o) * f32x16::broadcast(rescale[r])).store(o);
        }
}

// A pair of row tiles, or one, over a segment.
void attend_tiles(const AttentionProblem& p, const AttentionRows& unit, int64_t segment,
                  int64_t tile, int64_t count, PromptWorkspace& w) {
    const int64_t origin = segment * kSegment;
    const int64_t rows = std::min(count * kTileRows, unit.count() - tile * kTileRows);
    const int64_t first_row = unit.begin + tile * kTileRows;
    const auto in_segment = [&](Positions all) {
        return intersect({all.begin - origin, all.end - origin}, {0, kSegment});
    };
    const Positions seen = p.visible({unit.sequence, unit.kv_head, first_row, first_row + rows});
    const Positions any = in_segment(seen);
    if (any.empty()) return;
    const bool fresh = origin <= seen.begin;
    const PromptTiles tiles = {
        tile, count, {any.begin / kGroupTokens, round_up(any.end, kGroupTokens) / kGroupTokens}};
    score_prompt_tiles(p.head_dim, tiles, w);
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = tile * kTileRows + r;
        const int64_t i = r / kTileRows, j = r % kTileRows;
        weigh_row(w.scores + i * kSegmentBlocks * kFloatTile + j * kLanes,
                  w.weights + i * kSegmentGroups * kBf16Tile + j * kGroupTokens, tiles.groups,
                  in_segment(p.visible(unit.sequence, first_row + r)), w.maximum[row],
                  w.sums + row * kLanes, w.rescale[row]);
    }
    if (!fresh)
        for (int64_t i = 0; i < count; ++i) rescale_outputs(p, tile + i, w);
    add_prompt_tiles(p.head_dim, tiles, fresh, w);
}

void write_out(const AttentionProblem& p, const AttentionRows& unit, const PromptWorkspace& w) {
    const int64_t dim_tiles = p.stride / kLanes;
    const f32x16 one = f32x16::broadcast(1.0f);
    for (int64_t r = 0; r < unit.count(); ++r) {
        float* out = p.a.out + p.offset(unit, unit.begin + r);
        const float* o = w.o + r / kTileRows * dim_tiles * kFloatTile + r % kTileRows * kLanes;
        const f32x16 factor =
            one / f32x16::broadcast(reduce_add(f32x16::load(w.sums + r * kLanes)));
        for (int64_t d = 0; d < p.head_dim; d += kLanes)
            (f32x16::load(o + d * kTileRows) * factor)
                .store_partial(out + d, int(std::min<int64_t>(kLanes, p.head_dim - d)));
    }
}

}  // namespace

void attend_prompt_unit(const AttentionProblem& p, const AttentionRows& unit, PromptWorkspace& w) {
#if CIERZO_ISA_LEVEL >= 3
    const TileScope scope(WeightFormat::kBf16);
#endif
    const int64_t tiles = round_up(unit.count(), kTileRows) / kTileRows;
    load_queries(p, unit, w);
    std::fill_n(w.maximum, tiles * kTileRows, -std::numeric_limits<float>::infinity());
    std::fill_n(w.rescale, tiles * kTileRows, 1.0f);
    std::fill_n(w.sums, tiles * kTileRows * kLanes, 0.0f);
    const Positions seen = p.visible(unit);
    for (int64_t s = seen.begin / kSegment; s * kSegment < seen.end; ++s) {
        const int64_t origin = s * kSegment;
        load_segment(p, unit, s, intersect({seen.begin - origin, seen.end - origin}, {0, kSegment}),
                     w);
        for (int64_t t = 0; t < tiles; t += kTilePair)
            attend_tiles(p, unit, s, t, std::min(kTilePair, tiles - t), w);
    }
    write_out(p, unit, w);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
