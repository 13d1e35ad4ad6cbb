// The product of prepared rows and packed panels, for one instruction set: what matmul and moe are
// made of.
//
// Rows are prepared once per product (quantised to int8, or rounded to bf16) in blocks of 16, laid
// out as the inner loops read them; then every panel of 16 outputs is multiplied with them. Which
// inner loop runs (vector or AMX) depends on the block's rows and never changes a bit of the
// result.
#pragma once

#include <cstdint>

#include "kernels.h"
#include "thread_pool.h"

#if CIERZO_ISA_LEVEL >= 3
#include "amx.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int kBlockRows = 16;

inline constexpr bool kHasTiles = CIERZO_ISA_LEVEL >= 3;

// Whether a block of so many integer rows goes to the AMX unit. Measured: its results still have to
// be scaled on the vector unit, where eight rows from memory cost no more without it.
inline constexpr bool use_amx(int64_t rows) {
    return kHasTiles && rows >= 9;
}

#if CIERZO_ISA_LEVEL < 3
class TileScope {  // the other instruction sets have no tiles to configure
  public:
    explicit TileScope(WeightFormat, int64_t = kBlockRows) {}
    ~TileScope() {}
};
#endif

// So many blocks of rows or fewer are few: making the weights bf16 takes as long as their products.
inline constexpr int64_t kFewBlocks = 8;

// One block of prepared rows: a view into its Activations' memory.
struct Block {
    uint8_t* values;  // [groups][pitch][32], int8; or float where the rows are bf16
    float* scales;    // [groups][pitch]; integer formats only
    int32_t*
        starts;  // [groups][pitch]: -zero * Σ q, where the integer dot product starts (symmetric)
    float*
        scaled_sums;  // [groups][pitch]: scale * Σ q, to be times the minimum (affine; same memory)
    int rows;         // in use, 1..16
    int pitch;        // rows of room
};

// All rows of one operand, prepared for weights of `format`; rows of prompt tokens are prepared as
// for bf16, whatever the weights are. A value type: the memory is the caller's.
class Activations {
  public:
    Activations(WeightFormat format, int64_t rows, int64_t n_in);

    int64_t rows() const { return rows_; }
    int64_t n_in() const { return n_in_; }
    int64_t num_blocks() const { return (rows_ + kBlockRows - 1) / kBlockRows; }
    int64_t num_groups() const { return groups_; }
    WeightFormat format() const { return format_; }
    // Bytes the prepared rows take; a multiple of 64.
    int64_t nbytes() const;
    void set_memory(uint8_t* memory) { memory_ = memory; }

    // Prepares rows [begin, end): row i is x + row_ids[i] * n_in, or without row_ids the next one
    // of those at x.
    void prepare(const float* x, const int32_t* row_ids, int64_t begin, int64_t end) const;
    // Of rows that are not tiled.
    Block block(int64_t index) const;

    // bf16 rows are AMX tiles where there are such: the groups are cut into chunks, and a chunk
    // holds [blocks][its groups][16 rows][32] bf16. What the unit walks at a time lies together:
    // blocks that were 4096 inputs apart would compete for the same few lines of each cache.
    bool is_tiled() const { return kHasTiles && format_ == WeightFormat::kBf16; }
    int64_t num_chunks() const { return num_chunks_; }
    int64_t max_chunk_groups() const { return (groups_ + num_chunks_ - 1) / num_chunks_; }
    int64_t chunk_begin(int64_t chunk) const { return groups_ * chunk / num_chunks_; }
    // The first tile of one block in one chunk; the chunk's other groups follow.
    uint8_t* tiles(int64_t chunk, int64_t block) const;
    // The tile of one block and group.
    uint8_t* tile(int64_t group, int64_t block) const {
        const int64_t chunk = ((group + 1) * num_chunks_ - 1) / groups_;
        return tiles(chunk, block) +
               (group - chunk_begin(chunk)) * tile_nbytes(WeightFormat::kBf16);
    }

  private:
    void prepare_int(const float* row, int64_t index) const;
    void prepare_bf16(const float* row, int64_t index) const;
    void prepare_tiles(const float* row, int64_t index, int64_t chunk) const;

    WeightFormat format_;
    int64_t rows_;
    int64_t n_in_;
    int64_t groups_;
    int64_t num_chunks_;
    int pitch_;
    int64_t block_value_nbytes_;
    uint8_t* memory_ = nullptr;
};

inline Block Activations::block(int64_t index) const {
    const int64_t rows_left = rows_ - index * kBlockRows;
    uint8_t* notes = memory_ + num_blocks() * block_value_nbytes_;
    const int64_t note_count = groups_ * pitch_;
    Block b;
    b.values = memory_ + index * block_value_nbytes_;
    b.scales = reinterpret_cast<float*>(notes) + index * note_count;
    uint8_t* second = notes + (num_blocks() + index) * note_count * 4;
    b.starts = reinterpret_cast<int32_t*>(second);
    b.scaled_sums = reinterpret_cast<float*>(second);
    b.rows = int(rows_left < kBlockRows ? rows_left : kBlockRows);
    b.pitch = pitch_;
    return b;
}

// sums[p][row][16] = Σ x · w of panels [panel, panel + num_panels) for the rows of blocks
// [block_begin, block_end); `row` counts from the first block, pitch = 16 * (block_end -
// block_begin). Rows past the last one may be written with anything. Call inside a TileScope of the
// rows' format and number. Not for tiled rows.
void panel_products(float* sums, const Activations& x, int64_t block_begin, int64_t block_end,
                    const PackedWeight& weight, int64_t expert, int64_t panel, int64_t num_panels);

// The same for tiled rows, two panels at a time (or the last one alone): one unit's walk over its
// panels, which knows what comes next and has it ready. Call inside a TileScope.
class TileProducts {
  public:
    TileProducts(const Activations& x, int64_t block_begin, int64_t block_end,
                 const PackedWeight& weight, int64_t expert, int64_t panel_begin,
                 int64_t panel_end);

    // Over the groups of chunks [chunk_begin, chunk_end) only: they are added to `sums` unless the
    // first chunk is among them. To be called for every second panel in order, and again from the
    // first panel on for the chunks after these.
    void multiply(float* sums, int64_t panel, int64_t chunk_begin, int64_t chunk_end);

  private:
    // One chunk of two panels of weights.
    struct Place {
        int64_t panel, chunk;
        bool operator==(const Place&) const = default;
    };
    static constexpr Place kNowhere{-1, -1};

    int64_t groups_of(Place at) const {
        return x_.chunk_begin(at.chunk + 1) - x_.chunk_begin(at.chunk);
    }
    int64_t num_panels(Place at) const { return panel_end_ - at.panel < 2 ? 1 : 2; }
    // Where the walk goes on; kNowhere at its end.
    Place after(Place here, int64_t chunk_begin, int64_t chunk_end) const;
    const uint8_t* packed(Place at, int64_t panel) const;
    void make(Place at, uint8_t* tiles) const;

    const Activations& x_;
    int64_t block_begin_, num_blocks_;
    const PackedWeight& weight_;
    int64_t expert_, panel_begin_, panel_end_;
    uint8_t* tiles_[2];      // made bf16: of this chunk and, where rows are few, of the next
    Place made_ = kNowhere;  // what lies in tiles_[0]
};

// The inner families, for panel_products.
void int_panel(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
               int64_t block_end, const PackedWeight& weight, const uint8_t* panel,
               int64_t num_panels);
// The only block of `x`, on vectors, times the panels at `panel`, `panel` + stride (bytes), and so
// on.
void int_rows(float* sums, int64_t panel_pitch, const Activations& x, WeightFormat format,
              const uint8_t* panel, int64_t stride, int64_t num_panels);
void bf16_panel(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
                int64_t block_end, const uint8_t* panel, int64_t num_panels);

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
