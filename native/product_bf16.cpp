// Panels of bf16 weights times bf16 rows, in the order of the AMX unit.
//
// tdpbf16ps takes 32 inputs: from zero, one chain of fused multiply-adds over the even inputs and
// one over the odd ones, then acc += even + odd, denormals flushed. This is the same in the same
// order, for instruction sets without it.
#include "dequantize.h"
#include "product.h"
#include "scratch.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

constexpr int64_t kTileNbytes = tile_nbytes(WeightFormat::kBf16);

// How far ahead of its use a weight is asked for. The hardware's own prefetch stops at every 4 KB
// page and falls behind where the arithmetic between two tiles is long.
constexpr int64_t kPrefetchNbytes = 4096;

// Rows that share one widening of the weights: three registers each (even, odd, acc).
#if CIERZO_ISA_LEVEL >= 2
constexpr int kVectorRows = 8;
#elif CIERZO_ISA_LEVEL == 1
constexpr int kVectorRows = 2;
#else
constexpr int kVectorRows = 1;
#endif

template <int kRows>
void vector_rows(float* sums, const Block& x, int row, const uint8_t* panel, int64_t groups) {
    f32x16 acc[kRows];
    for (f32x16& a : acc) a = f32x16::zero();
    for (int64_t g = 0; g < groups; ++g) {
        const uint16_t* tile = reinterpret_cast<const uint16_t*>(panel + g * kTileNbytes);
        const float* values =
            reinterpret_cast<const float*>(x.values) + (g * x.pitch + row) * kGroup;
        f32x16 even[kRows], odd[kRows];
        for (int r = 0; r < kRows; ++r) even[r] = odd[r] = f32x16::zero();
        for (int line = 0; line < 16; ++line) {
            prefetch(tile + line * 32 + kPrefetchNbytes / 2);
            f32x16 w_even, w_odd;
            load_bf16_pairs(tile + line * 32, w_even, w_odd);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 8
#endif
            for (int r = 0; r < kRows; ++r) {
                const float* pair = values + r * kGroup + 2 * line;
                even[r] = fma(f32x16::broadcast(pair[0]), w_even, even[r]);
                odd[r] = fma(f32x16::broadcast(pair[1]), w_odd, odd[r]);
            }
        }
        for (int r = 0; r < kRows; ++r) acc[r] = acc[r] + (even[r] + odd[r]);
    }
    for (int r = 0; r < kRows; ++r) acc[r].store(sums + (row + r) * kPanel);
}

template <int kMax>
void vector_some_rows(int rows, float* sums, const Block& x, int row, const uint8_t* panel,
                      int64_t groups) {
    if (rows == kMax) {
        vector_rows<kMax>(sums, x, row, panel, groups);
    } else if constexpr (kMax > 1) {
        vector_some_rows<kMax - 1>(rows, sums, x, row, panel, groups);
    }
}

void vector_block(float* sums, const Block& x, const uint8_t* panel, int64_t groups) {
    for (int row = 0; row < x.rows; row += kVectorRows) {
        const int rows = x.rows - row < kVectorRows ? x.rows - row : kVectorRows;
        vector_some_rows<kVectorRows>(rows, sums, x, row, panel, groups);
    }
}

}  // namespace

void panel_products(float* sums, const Activations& x, int64_t block_begin, int64_t block_end,
                    const PackedWeight& weight, int64_t expert, int64_t panel, int64_t num_panels) {
    const int64_t panel_pitch = (block_end - block_begin) * kBlockRows * kPanel;
    const uint8_t* first = weight.panel(expert, panel);
    if (x.format() != WeightFormat::kBf16) {
        int_panel(sums, panel_pitch, x, block_begin, block_end, weight, first, num_panels);
        return;
    }
    if (weight.format != WeightFormat::kBf16) {
        const int64_t num_tiles = num_panels * weight.num_groups();
        uint8_t* tiles = scratch_array<uint8_t>(ScratchSlot::kDequantized, num_tiles * kTileNbytes);
        dequantize_tiles(tiles, weight.format, first, num_tiles);
        first = tiles;
    }
    bf16_panel(sums, panel_pitch, x, block_begin, block_end, first, num_panels);
}

void bf16_panel(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
                int64_t block_end, const uint8_t* panel, int64_t num_panels) {
    const int64_t panel_nbytes = x.num_groups() * kTileNbytes;
    for (int64_t b = block_begin; b < block_end; ++b)
        for (int64_t p = 0; p < num_panels; ++p)
            vector_block(sums + p * panel_pitch + (b - block_begin) * kBlockRows * kPanel,
                         x.block(b), panel + p * panel_nbytes, x.num_groups());
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
