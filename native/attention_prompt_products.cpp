// The two products of prompt rows: on the AMX unit, or on vectors in the unit's order.
#include "attention_prompt.h"

#if CIERZO_ISA_LEVEL >= 3
#include "amx.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Where 32 dims of a block's keys lie, as the unit reads them.
const uint16_t* key_tile(const PromptWorkspace& w, int64_t block, int64_t dims, int64_t head_dim) {
    return (dims + 1) * kGroupDims <= head_dim ? w.keys[block] + dims * kBf16Tile
                                               : w.last_dims + block * kBf16Tile;
}

#if CIERZO_ISA_LEVEL >= 3

constexpr int64_t kPitch = 64;  // bytes between the rows of a tile, of either type

// Results of two row tiles (or one), two columns (or one): where they lie.
struct ResultTiles {
    float* at = nullptr;
    int64_t row_tile = 0;  // floats from the first row tile's to the second's
};

// Tiles 0-3: results, [row tile][column]; 4 and 5: row tiles; 6 and 7: columns.
template <int T>
float* tile_at(const ResultTiles& results) {
    return results.at == nullptr ? nullptr
                                 : results.at + T / 2 * results.row_tile + T % 2 * kFloatTile;
}

// Result tile T goes where the last results go, if there are any, and begins with what the next
// hold, or with zero. One by one between products nobody waits for them.
template <int T>
void change_result(const ResultTiles& last, const ResultTiles& next) {
    if (float* at = tile_at<T>(last)) tile_store<T>(at, kPitch);
    if (const float* at = tile_at<T>(next))
        tile_load<T>(at, kPitch);
    else
        tile_zero<T>();
}

template <int TILES, int COLUMNS>
void store_results(const ResultTiles& results) {
    tile_store<0>(tile_at<0>(results), kPitch);
    if constexpr (COLUMNS == 2) tile_store<1>(tile_at<1>(results), kPitch);
    if constexpr (TILES == 2) tile_store<2>(tile_at<2>(results), kPitch);
    if constexpr (TILES == 2 && COLUMNS == 2) tile_store<3>(tile_at<3>(results), kPitch);
}

// 32 terms of every result; before(T) comes right before those of result tile T. Columns are read
// once for many rows and leave the first cache to these.
template <int TILES, int COLUMNS, class F>
void add_products(const uint16_t* rows, int64_t row_tile, const uint16_t* column0,
                  const uint16_t* column1, const F& before) {
    tile_load<4>(rows, kPitch);
    tile_load_past_l1<6>(column0, kPitch);
    before.template operator()<0>();
    tile_dot_bf16<0, 4, 6>();
    if constexpr (COLUMNS == 2) {
        tile_load_past_l1<7>(column1, kPitch);
        before.template operator()<1>();
        tile_dot_bf16<1, 4, 7>();
    }
    if constexpr (TILES == 2) {
        tile_load<5>(rows + row_tile, kPitch);
        before.template operator()<2>();
        tile_dot_bf16<2, 5, 6>();
        if constexpr (COLUMNS == 2) {
            before.template operator()<3>();
            tile_dot_bf16<3, 5, 7>();
        }
    }
}

constexpr auto kNothingBefore = []<int T>() {};

template <int TILES>
void score_tiles(int64_t head_dim, const PromptTiles& tiles, PromptWorkspace& w) {
    const int64_t dim_tiles = round_up(head_dim, kGroupDims) / kGroupDims;
    const uint16_t* q = w.q + tiles.tile * dim_tiles * kBf16Tile;
    ResultTiles last;
    for (int64_t g = tiles.groups.begin; g < tiles.groups.end; ++g) {
        const auto add = [&](int64_t d, const auto& before) {
            add_products<TILES, 2>(q + d * kBf16Tile, dim_tiles * kBf16Tile,
                                   key_tile(w, 2 * g, d, head_dim),
                                   key_tile(w, 2 * g + 1, d, head_dim), before);
        };
        add(0, [&]<int T>() { change_result<T>(last, {}); });
        for (int64_t d = 1; d < dim_tiles; ++d) add(d, kNothingBefore);
        last = {w.scores + 2 * (g % kStepGroups) * kFloatTile, kStepBlocks * kFloatTile};
    }
    store_results<TILES, 2>(last);
}

// Columns [d, d + COLUMNS) of the outputs, whose last columns are stored on the way.
template <int TILES, int COLUMNS>
void add_columns(const PromptTiles& tiles, int64_t d, const ResultTiles& last,
                 const ResultTiles& next, bool fresh, int64_t dim_tiles, PromptWorkspace& w) {
    const auto add = [&](int64_t g, const auto& before) {
        const uint16_t* v = w.v + (g * dim_tiles + d) * kBf16Tile;
        add_products<TILES, COLUMNS>(w.weights + g * kBf16Tile, kStretchGroups * kBf16Tile, v,
                                     v + kBf16Tile, before);
    };
    add(tiles.groups.begin, [&]<int T>() { change_result<T>(last, fresh ? ResultTiles{} : next); });
    for (int64_t g = tiles.groups.begin + 1; g < tiles.groups.end; ++g) add(g, kNothingBefore);
}

template <int TILES>
void add_tiles(int64_t head_dim, const PromptTiles& tiles, bool fresh, PromptWorkspace& w) {
    const int64_t dim_tiles = round_up(head_dim, kLanes) / kLanes;
    const auto outputs = [&](int64_t d) {
        return ResultTiles{w.o + (tiles.tile * dim_tiles + d) * kFloatTile, dim_tiles * kFloatTile};
    };
    ResultTiles last;
    int64_t d = 0;
    for (; d + 2 <= dim_tiles; d += 2) {
        add_columns<TILES, 2>(tiles, d, last, outputs(d), fresh, dim_tiles, w);
        last = outputs(d);
    }
    if (last.at != nullptr) store_results<TILES, 2>(last);
    if (d < dim_tiles) {
        add_columns<TILES, 1>(tiles, d, {}, outputs(d), fresh, dim_tiles, w);
        store_results<TILES, 1>(outputs(d));
    }
}

#else

// Sums of ROWS rows, 32 terms at a time.
#if CIERZO_ISA_LEVEL >= 2
constexpr int kRowsTogether = 8;
#else
constexpr int kRowsTogether = 2;
#endif

// acc[r] += (Σ over even terms of rows[r][i] column[i]) + (Σ over odd terms), lanes are columns.
void add_products(f32x16* acc, const float* rows, int64_t row_pitch, const uint16_t* column) {
    f32x16 even[kRowsTogether], odd[kRowsTogether];
    for (int r = 0; r < kRowsTogether; ++r) even[r] = odd[r] = f32x16::zero();
    for (int i = 0; i < 16; ++i) {
        f32x16 first, second;
        load_bf16_pairs(column + i * 2 * kLanes, first, second);
#pragma GCC unroll 8
        for (int r = 0; r < kRowsTogether; ++r) {
            const float* pair = rows + r * row_pitch + 2 * i;
            even[r] = fma(f32x16::broadcast(pair[0]), first, even[r]);
            odd[r] = fma(f32x16::broadcast(pair[1]), second, odd[r]);
        }
    }
    for (int r = 0; r < kRowsTogether; ++r) acc[r] = acc[r] + (even[r] + odd[r]);
}

// The tile's rows [row, row + kRowsTogether) of `count` tiles of 32 columns, side by side.
void widen_rows(float* out, const uint16_t* tiles, int64_t row, int64_t count) {
    for (int r = 0; r < kRowsTogether; ++r)
        for (int64_t t = 0; t < count; ++t)
            for (int64_t i = 0; i < 32; i += kLanes)
                f32x16::load_bf16(tiles + t * kBf16Tile + (row + r) * 32 + i)
                    .store(out + (r * count + t) * 32 + i);
}

void score_tile(int64_t head_dim, int64_t tile, Positions groups, float* scores,
                const PromptWorkspace& w) {
    const int64_t dim_tiles = round_up(head_dim, kGroupDims) / kGroupDims;
    for (int64_t row = 0; row < kTileRows; row += kRowsTogether) {
        alignas(64) float q[kRowsTogether * kMaxHeadDim];
        widen_rows(q, w.q + tile * dim_tiles * kBf16Tile, row, dim_tiles);
        for (int64_t b = 2 * groups.begin; b < 2 * groups.end; ++b) {
            f32x16 acc[kRowsTogether];
            for (f32x16& a : acc) a = f32x16::zero();
            for (int64_t d = 0; d < dim_tiles; ++d)
                add_products(acc, q + d * kGroupDims, dim_tiles * kGroupDims,
                             key_tile(w, b, d, head_dim));
            for (int r = 0; r < kRowsTogether; ++r)
                acc[r].store(scores + b % kStepBlocks * kFloatTile + (row + r) * kLanes);
        }
    }
}

void add_tile(int64_t head_dim, float* o, const uint16_t* weights, Positions groups, bool fresh,
              const PromptWorkspace& w) {
    const int64_t dim_tiles = round_up(head_dim, kLanes) / kLanes;
    const int64_t count = groups.end - groups.begin;
    for (int64_t row = 0; row < kTileRows; row += kRowsTogether) {
        alignas(64) float p[kRowsTogether * kStretch];
        widen_rows(p, weights + groups.begin * kBf16Tile, row, count);
        for (int64_t d = 0; d < dim_tiles; ++d) {
            float* at = o + d * kFloatTile + row * kLanes;
            f32x16 acc[kRowsTogether];
            for (int r = 0; r < kRowsTogether; ++r)
                acc[r] = fresh ? f32x16::zero() : f32x16::load(at + r * kLanes);
            for (int64_t g = 0; g < count; ++g)
                add_products(acc, p + g * kGroupTokens, count * kGroupTokens,
                             w.v + ((groups.begin + g) * dim_tiles + d) * kBf16Tile);
            for (int r = 0; r < kRowsTogether; ++r) acc[r].store(at + r * kLanes);
        }
    }
}

#endif

}  // namespace

#if CIERZO_ISA_LEVEL >= 3

void score_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, PromptWorkspace& w) {
    tiles.count == 2 ? score_tiles<2>(head_dim, tiles, w) : score_tiles<1>(head_dim, tiles, w);
}

void add_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, bool fresh, PromptWorkspace& w) {
    tiles.count == 2 ? add_tiles<2>(head_dim, tiles, fresh, w)
                     : add_tiles<1>(head_dim, tiles, fresh, w);
}

#else

void score_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, PromptWorkspace& w) {
    for (int64_t i = 0; i < tiles.count; ++i)
        score_tile(head_dim, tiles.tile + i, tiles.groups, w.scores + i * kStepBlocks * kFloatTile,
                   w);
}

void add_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, bool fresh, PromptWorkspace& w) {
    for (int64_t i = 0; i < tiles.count; ++i)
        add_tile(head_dim, w.o + (tiles.tile + i) * round_up(head_dim, kLanes) * kTileRows,
                 w.weights + i * kStretchGroups * kBf16Tile, tiles.groups, fresh, w);
}

#endif

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
