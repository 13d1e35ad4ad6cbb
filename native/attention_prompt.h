// Attention of prompt rows; attention.cpp says what is computed. A unit of rows walks the context
// segment by segment: a segment's values are laid out for the AMX unit once for all of them, then
// the rows go by in pairs of tiles, scores, weights and outputs staying in the nearest caches.
#pragma once

#include "attention.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int64_t kPromptUnitRows = 128;
inline constexpr int64_t kPromptUnitTiles = kPromptUnitRows / kTileRows;
inline constexpr int64_t kGroupTokens = 32;  // summed before they join the rest
inline constexpr int64_t kSegmentGroups = kSegment / kGroupTokens;
inline constexpr int64_t kTilePair = 2;         // row tiles that go together
inline constexpr int64_t kBf16Tile = 16 * 32;   // values of a tile of bf16
inline constexpr int64_t kFloatTile = 16 * 16;  // and of float32

// One thread's working memory.
struct PromptWorkspace {
    // Rows and columns as the AMX unit reads them: [row tile][32 dims][16 rows][32], zeros behind
    // the last row and the last dim.
    alignas(64) uint16_t q[kPromptUnitRows * kMaxHeadDim];
    // [32 tokens][16 dims][16 pairs of tokens][16][2], of one segment; zeros where nothing is held.
    alignas(64) uint16_t v[kSegment * kMaxHeadDim];
    // [block][16 pairs of dims][16 tokens][2]: the dims past the last 32, with zeros behind.
    alignas(64) uint16_t last_dims[kSegmentBlocks * kBf16Tile];
    const uint16_t* keys[kSegmentBlocks];
    // [row tile][16 dims][16 rows][16], not normalised.
    alignas(64) float o[kPromptUnitRows * kMaxHeadDim];
    alignas(64) float scores[kTilePair * kSegmentBlocks * kFloatTile];  // [16 rows][16 tokens] each
    alignas(64) uint16_t weights[kTilePair * kSegmentGroups * kBf16Tile];  // [16 rows][32 tokens]
    alignas(64) float sums[kPromptUnitRows * kLanes];                      // by position mod 16
    float maximum[kPromptUnitRows];
    float rescale[kPromptUnitRows];
};

// The tiles [tile, tile + count) of a unit, 1 <= count <= kTilePair, and groups of a segment.
struct PromptTiles {
    int64_t tile, count;
    Positions groups;
};

// w.scores of the tiles for the groups' positions.
void score_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, PromptWorkspace& w);

// w.o += w.weights · w.v over the groups; where `fresh`, instead of what w.o held.
void add_prompt_tiles(int64_t head_dim, const PromptTiles& tiles, bool fresh, PromptWorkspace& w);

// The whole work for at most kPromptUnitRows rows: queries in, normalised outputs out.
void attend_prompt_unit(const AttentionProblem& p, const AttentionRows& unit, PromptWorkspace& w);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
