// Prompt rows: queries in, stretches one after another, outputs out. The two products are in
// attention_prompt_products.cpp.
#include "attention_prompt.h"

#include <cstring>
#include <limits>

#if CIERZO_ISA_LEVEL >= 3
#include "amx.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kCacheLine = 64;  // bytes
constexpr float kLog2E = 1.44269504f;
constexpr float kHeadroom = 0x1p16f;  // what a step's weights may sum up to in a lane
constexpr float kNever = -std::numeric_limits<float>::infinity();

// Read in place of keys and values that are not held.
alignas(64) constexpr uint16_t kNothing[kBlockSize * kMaxHeadDim] = {};

// f(row of the unit, query of the sequence, where its row lies in q and out), without a division
// per row.
template <class F>
void for_each_row(const AttentionProblem& p, const AttentionRows& unit, const F& f) {
    int64_t query = unit.begin / p.queries_per_kv_head;
    int64_t head = unit.begin % p.queries_per_kv_head;
    int64_t at = p.offset(unit, unit.begin);
    for (int64_t r = 0; r < unit.count(); ++r, ++head, at += p.head_dim) {
        if (head == p.queries_per_kv_head) {
            head = 0;
            ++query;
            at += (p.a.n_heads - p.queries_per_kv_head) * p.head_dim;
        }
        f(r, query, at);
    }
}

void load_rows(const AttentionProblem& p, const AttentionRows& unit, PromptWorkspace& w) {
    const int64_t dim_tiles = round_up(p.head_dim, kGroupDims) / kGroupDims;
    const int64_t rows = round_up(unit.count(), kTileRows);
    if (p.head_dim % kGroupDims != 0 || rows > unit.count())
        std::memset(w.q, 0, size_t(rows * dim_tiles * kGroupDims) * sizeof(uint16_t));
    std::fill_n(w.rescale, rows, 1.0f);
    const int64_t next_queries = 4 * p.a.n_heads * p.head_dim;
    for_each_row(p, unit, [&](int64_t r, int64_t query, int64_t at) {
        const float* q = p.a.q + at;
        for (int64_t d = 0; d < p.head_dim; d += kLanes) prefetch(q + next_queries + d);
        uint16_t* row = w.q + r / kTileRows * dim_tiles * kBf16Tile + r % kTileRows * kGroupDims;
        int64_t d = 0;
        for (; d + kGroupDims <= p.head_dim; d += kGroupDims)
            store_bf16_pair(row + d * kTileRows, f32x16::load(q + d), f32x16::load(q + d + kLanes));
        for (; d < p.head_dim; d += kLanes) {
            const int lanes = int(std::min<int64_t>(kLanes, p.head_dim - d));
            store_bf16(row + d / kGroupDims * kBf16Tile + d % kGroupDims,
                       f32x16::load_partial(q + d, lanes));
        }
        w.seen[r] = p.visible_to_query(unit.sequence, query);
        w.reference[r] = kNever;
        f32x16::zero().store(w.sums + r * kLanes);
    });
}

// Half a group: one block's values, of which the first `tokens` are any row's.
void load_values(uint16_t* out, const uint16_t* values, int64_t tokens, int64_t head_dim) {
    constexpr size_t kLine = 2 * kLanes * sizeof(uint16_t);
    const int64_t whole = head_dim / kLanes, rest = 2 * (head_dim % kLanes);
    const int64_t dim_tiles = round_up(head_dim, kLanes) / kLanes;
    for (int64_t pair = 0; pair < kBlockSize / 2; ++pair) {
        uint16_t* line = out + pair * 2 * kLanes;
        const uint16_t* from = values + pair * 2 * head_dim;
        for (int64_t t = 0; t < whole; ++t)
            std::memcpy(line + t * kBf16Tile, from + t * 2 * kLanes, kLine);
        if (rest > 0) {
            std::memset(line + whole * kBf16Tile, 0, kLine);
            std::memcpy(line + whole * kBf16Tile, from + whole * 2 * kLanes, size_t(rest) * 2);
        }
        for (int64_t i = 0; 2 * pair + 2 > tokens && i < dim_tiles * 2 * kLanes; ++i)
            if (2 * pair + i % 2 >= tokens)
                line[i / (2 * kLanes) * kBf16Tile + i % (2 * kLanes)] = 0;
    }
}

// Keys and values of the positions of a stretch that the unit sees. Other blocks may not be held,
// and what a reused block holds past the context may be anything: zeros instead.
template <class Rows>
void load_stretch(const AttentionProblem& p, const AttentionRows& unit, int64_t stretch,
                  Positions seen, PromptWorkspace& w) {
    const int64_t dim_tiles = p.stride / kLanes, rest = p.head_dim % kGroupDims;
    const Positions held = {seen.begin / kBlockSize, round_up(seen.end, kBlockSize) / kBlockSize};
    const Positions blocks = {seen.begin / kGroupTokens * 2,
                              round_up(seen.end, kGroupTokens) / kBlockSize};
    for (int64_t b = blocks.begin; b < blocks.end; ++b) {
        const bool is_held = held.begin <= b && b < held.end;
        const int64_t block = stretch * kStretchBlocks + b;
        uint16_t* wide_keys = w.wide_keys + b * kBlockSize * p.head_dim;
        w.keys[b] =
            is_held ? Rows::keys_in_bf16(p.keys(unit, block), p.head_dim, wide_keys) : kNothing;
        for (int64_t i = 0; i < kBlockSize * p.head_dim; i += 2 * kLanes) prefetch(w.keys[b] + i);
        const uint16_t* values =
            is_held ? Rows::values_in_bf16(p.values(unit, block), p.head_dim, w.wide_values)
                    : kNothing;
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

// The stretch after `stretch`, spread over the rows and steps of this one.
Ahead ahead_of(const AttentionProblem& p, const AttentionRows& unit, int64_t stretch,
               Positions seen) {
    const Positions next = intersect({(stretch + 1) * kStretch, (stretch + 2) * kStretch}, seen);
    if (next.empty()) return {};
    const int64_t lines =
        (next.end - next.begin) * p.cache.plane_nbytes() / (kBlockSize * kCacheLine);
    const int64_t visits = unit.count() * (kStretch / kStep);
    return {{next.begin / kBlockSize, round_up(next.end, kBlockSize) / kBlockSize},
            0,
            (lines + visits - 1) / visits};
}

// One row in one step: its scores, where its weights go, and what it sees, counted from the step's
// begin. Of `groups`, those in `whole` are seen entirely.
struct StepRow {
    const float* scores;  // of the row in the step's first tile
    uint16_t* weights;    // likewise
    Positions groups, whole, seen;

    bool is_whole(int64_t group) const { return whole.begin <= group && group < whole.end; }
    f32x16 score(int64_t t) const { return f32x16::load(scores + t * kTileRows); }

    // Weights relative to `reference`; their sum. WHOLE: everything of the step is seen.
    template <bool WHOLE>
    f32x16 weigh(float reference) const {
        const f32x16 scale = f32x16::broadcast(kLog2E), shift = f32x16::broadcast(-reference);
        const f32x16 least = f32x16::broadcast(-1024.0f);
        const Positions weighed = WHOLE ? Positions{0, kStepGroups} : groups;
        f32x16 sum = f32x16::zero();
        CIERZO_UNROLL
        for (int64_t g = weighed.begin; g < weighed.end; ++g) {
            const int64_t t = g * kGroupTokens;
            f32x16 first = fma(score(t), scale, shift);
            f32x16 second = fma(score(t + kLanes), scale, shift);
            if (!WHOLE && !is_whole(g)) {
                first = only(first, t, seen, least);
                second = only(second, t + kLanes, seen, least);
            }
            first = exp2_short(first);
            second = exp2_short(second);
            sum = sum + (first + second);
            store_bf16_pair(weights + g * kBf16Tile, first, second);
        }
        return sum;
    }

    float largest() const {
        const f32x16 never = f32x16::broadcast(kNever);
        f32x16 top = never;
        for (int64_t t = groups.begin * kGroupTokens; t < groups.end * kGroupTokens; t += kLanes)
            top = max(top, is_whole(t / kGroupTokens) ? score(t) : only(score(t), t, seen, never));
        return reduce_max(top);
    }
};

// A step of one row tile: scores become weights. True where a row's reference has changed.
template <bool WHOLE>
bool weigh_tile(const AttentionProblem& p, const AttentionRows& unit, Positions rows, StepRow row,
                int64_t origin, PromptWorkspace& w) {
    const f32x16 headroom = f32x16::broadcast(kHeadroom);
    bool changed = false;
    for (int64_t r = rows.begin; r < rows.end;
         ++r, row.scores += kLanes, row.weights += kGroupTokens) {
        w.ahead.ask(p, unit);
        row.seen = {w.seen[r].begin - origin, w.seen[r].end - origin};
        if (w.reference[r] == kNever) w.reference[r] = row.largest() * kLog2E;
        f32x16 sum = f32x16::load(w.sums + r * kLanes);
        f32x16 added = row.template weigh<WHOLE>(w.reference[r]);
        if (any_less(headroom, added)) {
            const float before = w.reference[r];
            w.reference[r] = row.largest() * kLog2E;
            const f32x16 factor = exp2_short(f32x16::broadcast(before - w.reference[r]));
            factor.store_partial(w.rescale + r, 1);
            sum = sum * factor;
            added = row.template weigh<WHOLE>(w.reference[r]);
            changed = true;
        }
        (sum + added).store(w.sums + r * kLanes);
    }
    return changed;
}

bool weigh_tile(const AttentionProblem& p, const AttentionRows& unit, int64_t tile, StepRow first,
                int64_t origin, PromptWorkspace& w) {
    const int64_t begin = tile * kTileRows, end = std::min(begin + kTileRows, unit.count());
    first.whole = {round_up(w.seen[end - 1].begin - origin, kGroupTokens) / kGroupTokens,
                   (w.seen[begin].end - origin) / kGroupTokens};
    return first.is_whole(0) && first.is_whole(kStepGroups - 1)
               ? weigh_tile<true>(p, unit, {begin, end}, first, origin, w)
               : weigh_tile<false>(p, unit, {begin, end}, first, origin, w);
}

void rescale_outputs(const AttentionProblem& p, int64_t tile, PromptWorkspace& w) {
    const int64_t dim_tiles = p.stride / kLanes;
    for (int64_t r = 0; r < kTileRows; ++r) {
        float& rescale = w.rescale[tile * kTileRows + r];
        if (rescale == 1.0f) continue;
        for (int64_t d = 0; d < dim_tiles; ++d) {
            float* o = w.o + ((tile * dim_tiles + d) * kTileRows + r) * kLanes;
            (f32x16::load(o) * f32x16::broadcast(rescale)).store(o);
        }
        rescale = 1.0f;
    }
}

// A pair of row tiles, or one, over a stretch.
void attend_tiles(const AttentionProblem& p, const AttentionRows& unit, int64_t stretch,
                  PromptTiles tiles, PromptWorkspace& w) {
    const int64_t origin = stretch * kStretch;
    const int64_t first_row = tiles.tile * kTileRows;
    const int64_t last_row = std::min(first_row + tiles.count * kTileRows, unit.count()) - 1;
    const Positions seen =
        intersect({w.seen[first_row].begin - origin, w.seen[last_row].end - origin}, {0, kStretch});
    if (seen.empty()) return;
    bool fresh = origin <= w.seen[first_row].begin;
    const Positions all = {seen.begin / kGroupTokens,
                           round_up(seen.end, kGroupTokens) / kGroupTokens};
    tiles.groups = {all.begin, all.begin};  // weighed and not yet added
    for (int64_t s = all.begin / kStepGroups; s * kStepGroups < all.end; ++s) {
        const int64_t step = s * kStepGroups;
        const Positions now = intersect({step, step + kStepGroups}, all);
        score_prompt_tiles(p.head_dim, {tiles.tile, tiles.count, now}, w);
        bool changed = false;
        for (int64_t i = 0; i < tiles.count; ++i) {
            const StepRow first = {w.scores + i * kStepBlocks * kFloatTile,
                                   w.weights + (i * kStretchGroups + step) * kBf16Tile,
                                   {now.begin - step, now.end - step},
                                   {},
                                   {}};
            changed |= weigh_tile(p, unit, tiles.tile + i, first, origin + s * kStep, w);
        }
        if (changed && !tiles.groups.empty()) {
            add_prompt_tiles(p.head_dim, tiles, fresh, w);
            fresh = false;
            tiles.groups.begin = now.begin;
        }
        if (changed && !fresh)
            for (int64_t i = 0; i < tiles.count; ++i) rescale_outputs(p, tiles.tile + i, w);
        tiles.groups.end = now.end;
    }
    add_prompt_tiles(p.head_dim, tiles, fresh, w);
}

void write_rows(const AttentionProblem& p, const AttentionRows& unit, const PromptWorkspace& w) {
    const int64_t dim_tiles = p.stride / kLanes;
    const f32x16 one = f32x16::broadcast(1.0f);
    for_each_row(p, unit, [&](int64_t r, int64_t, int64_t at) {
        float* out = p.a.out + at;
        const float* o = w.o + r / kTileRows * dim_tiles * kFloatTile + r % kTileRows * kLanes;
        const f32x16 factor =
            one / f32x16::broadcast(reduce_add(f32x16::load(w.sums + r * kLanes)));
        for (int64_t d = 0; d < p.head_dim; d += kLanes)
            (f32x16::load(o + d * kTileRows) * factor)
                .store_partial(out + d, int(std::min<int64_t>(kLanes, p.head_dim - d)));
    });
}

}  // namespace

void Ahead::ask(const AttentionProblem& p, const AttentionRows& unit) {
    for (int64_t i = 0; i < lines && !blocks.empty(); ++i) {
        prefetch_far(p.keys(unit, blocks.begin) + offset);
        prefetch_far(p.values(unit, blocks.begin) + offset);
        offset += kCacheLine;
        if (offset < p.cache.plane_nbytes()) continue;
        offset = 0;
        ++blocks.begin;
    }
}

void attend_prompt_unit(const AttentionProblem& p, const AttentionRows& unit, PromptWorkspace& w) {
#if CIERZO_ISA_LEVEL >= 3
    const TileScope scope(WeightFormat::kBf16);
#endif
    const int64_t tiles = round_up(unit.count(), kTileRows) / kTileRows;
    load_rows(p, unit, w);
    const Positions seen = {w.seen[0].begin, w.seen[unit.count() - 1].end};
    for (int64_t s = seen.begin / kStretch; s * kStretch < seen.end; ++s) {
        const int64_t origin = s * kStretch;
        const Positions within = intersect({seen.begin - origin, seen.end - origin}, {0, kStretch});
        with_rows(p.cache.type(),
                  [&]<class Rows>(Rows) { load_stretch<Rows>(p, unit, s, within, w); });
        w.ahead = ahead_of(p, unit, s, seen);
        for (int64_t t = 0; t < tiles; t += kTilePair)
            attend_tiles(p, unit, s, {t, std::min(kTilePair, tiles - t), {}}, w);
    }
    write_rows(p, unit, w);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
