// Attention of prompt rows; attention.cpp says what is computed. A unit of rows walks the context a
// stretch at a time: the stretch's values are laid out for the AMX unit once for all rows of the
// unit, then the rows go by in pairs of tiles, whose scores and weights stay in the nearest caches.
#pragma once

#include "attention.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int64_t kPromptUnitRows = 512;
inline constexpr int64_t kTilePair = 2;      // row tiles that go together
inline constexpr int64_t kGroupTokens = 32;  // summed before they join the rest
inline constexpr int64_t kStep = 64;         // positions that share a reference
inline constexpr int64_t kStretch = 512;     // positions between two visits of an output
inline constexpr int64_t kStepGroups = kStep / kGroupTokens;
inline constexpr int64_t kStepBlocks = kStep / kBlockSize;
inline constexpr int64_t kStretchGroups = kStretch / kGroupTokens;
inline constexpr int64_t kStretchBlocks = kStretch / kBlockSize;
inline constexpr int64_t kBf16Tile = 16 * 32;   // values of a tile of bf16
inline constexpr int64_t kFloatTile = 16 * 16;  // and of float32

// Asks for the keys and values of the next stretch while this one is computed: blocks lie anywhere,
// so the hardware does not know.
struct Ahead {
    Positions blocks = {0, 0};  // of the sequence, not yet asked for
    int64_t offset = 0;         // bytes, within the first of them
    int64_t lines = 0;          // of keys and as many of values, at a time
    void ask(const AttentionProblem& p, const AttentionRows& unit);
};

// One thread's working memory.
struct PromptWorkspace {
    // Rows and columns as the AMX unit reads them: [row tile][32 dims][16 rows][32], zeros behind
    // the last row and the last dim.
    alignas(64) uint16_t q[kPromptUnitRows * kMaxHeadDim];
    // [32 tokens][16 dims][16 pairs of tokens][16][2], of one stretch; zeros where nothing is held.
    alignas(64) uint16_t v[kStretch * kMaxHeadDim];
    // [block][16 pairs of dims][16 tokens][2]: the dims past the last 32, with zeros behind.
    alignas(64) uint16_t last_dims[kStretchBlocks * kBf16Tile];
    const uint16_t* keys[kStretchBlocks];
    // [row tile][16 dims][16 rows][16], not normalised.
    alignas(64) float o[kPromptUnitRows * kMaxHeadDim];
    alignas(64) float scores[kTilePair * kStepBlocks * kFloatTile];  // [16 rows][16 tokens] each
    alignas(64) uint16_t weights[kTilePair * kStretchGroups * kBf16Tile];  // [16 rows][32 tokens]
    // Of each row: positions seen, the reference of its weights, its sum by position mod 16, and
    // what its output must be multiplied with when the reference has changed.
    Positions seen[kPromptUnitRows];
    float reference[kPromptUnitRows];
    alignas(64) float sums[kPromptUnitRows * kLanes];
    float rescale[kPromptUnitRows];
    Ahead ahead;
    // Of an int8 cache, in bf16: keys of the stretch, values of a block.
    alignas(64) uint16_t wide_keys[kStretch * kMaxHeadDim];
    alignas(64) uint16_t wide_values[kBlockSize * kMaxHeadDim];
};

// The row tiles [tile, tile + count) of a unit, 1 <= count <= kTilePair, and groups of a stretch.
struct PromptTiles {
    int64_t tile, count;
    Positions groups;
};

// w.scores of the tiles; the groups are of one step.
void score_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, PromptWorkspace& w);

// w.o += w.weights · w.v over the groups; where `fresh`, instead of what w.o held.
void add_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, bool fresh, PromptWorkspace& w);

// The whole work for at most kPromptUnitRows rows: queries in, normalised outputs out.
void attend_prompt_unit(const AttentionProblem& p, const AttentionRows& unit, PromptWorkspace& w);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
