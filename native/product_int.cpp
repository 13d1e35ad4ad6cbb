// Panels of int4 and int8 weights times int8 rows.
//
// The order is the contract's: per group an exact integer, then acc = fma(scale_w * scale_x,
// integer, acc), then, affine, acc = fma(minimum, scale_x * sum_x, acc).
#include "product.h"
#include "tile_dot.h"

#if CIERZO_ISA_LEVEL >= 3
#include "int_tiles.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Rows and panels that are multiplied at once: as many as there are registers for.
#if CIERZO_ISA_LEVEL >= 2
constexpr int kVectorRows = 8;
constexpr int kVectorPanels = 2;
#else
constexpr int kVectorRows = 4;
constexpr int kVectorPanels = 1;
#endif
// As many sums stay in registers beside the integers; more go through memory at each group.
constexpr int kRegisterSums = 12;

// How far ahead of its use a weight is asked for. The hardware's own prefetch stops at every 4 KB
// page and falls behind where the arithmetic between two tiles is long (4 rows: 7 GB/s without
// this).
constexpr int64_t kPrefetchTiles = 16;
constexpr int64_t kPrefetchNbytes = 2048;  // where panels are not neighbours

// kRows rows from `row` on, times kPanels panels, `panel_stride` bytes apart. Several panels at a
// time share the rows' values, and give a single row several memory streams.
template <WeightFormat kFormat, int kRows, int kPanels>
void vector_rows(float* sums, int64_t panel_pitch, const Block& x, int row, const uint8_t* panel,
                 int64_t panel_stride, int64_t groups) {
    constexpr bool kInMemory = kRows * kPanels > kRegisterSums;
    f32x16 acc[kPanels][kRows];
    CIERZO_UNROLL
    for (int p = 0; p < kPanels; ++p) {
        CIERZO_UNROLL
        for (int r = 0; r < kRows; ++r) {
            acc[p][r] = f32x16::zero();
            if constexpr (kInMemory) acc[p][r].store(sums + p * panel_pitch + (row + r) * kPanel);
        }
    }
    const bool are_apart = panel_stride != groups * tile_nbytes(kFormat);
    for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* tile = panel + g * tile_nbytes(kFormat);
        // Past its end a panel goes on where the next one begins that is not multiplied now.
        const uint8_t* next =
            kRows == 1 || are_apart ? tile + kPrefetchNbytes
            : g + kPrefetchTiles < groups
                ? tile + kPrefetchTiles * tile_nbytes(kFormat)
                : tile + kPrefetchTiles * tile_nbytes(kFormat) + (kPanels - 1) * panel_stride;
        CIERZO_UNROLL
        for (int p = 0; p < kPanels; ++p)
            for (int64_t line = 0; line < tile_nbytes(kFormat); line += 64)
                prefetch(next + p * panel_stride + line);
        const int64_t i = g * x.pitch + row;
        i32x16 dots[kPanels][kRows];
        dot_rows<kFormat, kRows, kPanels>(dots, tile, panel_stride,
                                          reinterpret_cast<const int8_t*>(x.values) + i * kGroup,
                                          is_affine(kFormat) ? nullptr : x.starts + i);
        CIERZO_UNROLL
        for (int p = 0; p < kPanels; ++p) {
            const uint16_t* scales =
                reinterpret_cast<const uint16_t*>(tile + p * panel_stride + value_nbytes(kFormat));
            const f32x16 weight_scale = f32x16::load_f16(scales);
            f32x16 minimum = f32x16::zero();
            if constexpr (is_affine(kFormat)) minimum = f32x16::load_f16(scales + 16);
            CIERZO_UNROLL
            for (int r = 0; r < kRows; ++r) {
                float* to = sums + p * panel_pitch + (row + r) * kPanel;
                f32x16 a = kInMemory ? f32x16::load(to) : acc[p][r];
                const f32x16 scale = weight_scale * f32x16::broadcast(x.scales[i + r]);
                a = fma(scale, to_float(dots[p][r]), a);
                if constexpr (is_affine(kFormat))
                    a = fma(minimum, f32x16::broadcast(x.scaled_sums[i + r]), a);
                if constexpr (kInMemory)
                    a.store(to);
                else
                    acc[p][r] = a;
            }
        }
    }
    if constexpr (!kInMemory) {
        CIERZO_UNROLL
        for (int p = 0; p < kPanels; ++p) {
            CIERZO_UNROLL
            for (int r = 0; r < kRows; ++r)
                acc[p][r].store(sums + p * panel_pitch + (row + r) * kPanel);
        }
    }
}

template <WeightFormat kFormat, int kRows>
void vector_panels(float* sums, int64_t panel_pitch, const Block& x, int row, const uint8_t* panel,
                   int64_t panel_stride, int64_t groups, int64_t num_panels) {
    constexpr int kTogether = kRows == 1 || (kRows == 2 && kVectorPanels > 1) ? 4 : kVectorPanels;
    int64_t p = 0;
    for (; p + kTogether <= num_panels; p += kTogether)
        vector_rows<kFormat, kRows, kTogether>(sums + p * panel_pitch, panel_pitch, x, row,
                                               panel + p * panel_stride, panel_stride, groups);
    for (; p < num_panels; ++p)
        vector_rows<kFormat, kRows, 1>(sums + p * panel_pitch, panel_pitch, x, row,
                                       panel + p * panel_stride, panel_stride, groups);
}

// vector_panels with the number of rows as a constant, 1 <= rows <= kMax.
template <WeightFormat kFormat, int kMax>
void vector_some_rows(int rows, float* sums, int64_t panel_pitch, const Block& x, int row,
                      const uint8_t* panel, int64_t panel_nbytes, int64_t groups,
                      int64_t num_panels) {
    if (rows == kMax) {
        vector_panels<kFormat, kMax>(sums, panel_pitch, x, row, panel, panel_nbytes, groups,
                                     num_panels);
    } else if constexpr (kMax > 1) {
        vector_some_rows<kFormat, kMax - 1>(rows, sums, panel_pitch, x, row, panel, panel_nbytes,
                                            groups, num_panels);
    }
}

// In as few passes as the registers allow, of about equally many rows.
template <WeightFormat kFormat>
void vector_block(float* sums, int64_t panel_pitch, const Block& x, const uint8_t* panel,
                  int64_t panel_nbytes, int64_t groups, int64_t num_panels) {
    const int passes = (x.rows + kVectorRows - 1) / kVectorRows;
    for (int pass = 0; pass < passes; ++pass) {
        const int row = x.rows * pass / passes;
        const int rows = x.rows * (pass + 1) / passes - row;
        vector_some_rows<kFormat, kVectorRows>(rows, sums, panel_pitch, x, row, panel, panel_nbytes,
                                               groups, num_panels);
    }
}

template <WeightFormat kFormat>
void int_panel_of(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
                  int64_t block_end, const uint8_t* panel, int64_t panel_nbytes,
                  int64_t num_panels) {
    // Only the last block may have too few rows for AMX.
    int64_t vector_begin = block_begin;
#if CIERZO_ISA_LEVEL >= 3
    vector_begin = use_amx(x.block(block_end - 1).rows) ? block_end : block_end - 1;
    if (vector_begin > block_begin) {
        const int64_t rows =
            vector_begin - block_begin > 1 ? kBlockRows : x.block(block_begin).rows;
        const auto product = rows <= 8    ? tile_panels<kFormat, 8>
                             : rows <= 12 ? tile_panels<kFormat, 12>
                                          : tile_panels<kFormat, 16>;
        product(sums, panel_pitch, x, block_begin, vector_begin, panel, num_panels);
    }
#endif
    for (int64_t b = vector_begin; b < block_end; ++b)
        vector_block<kFormat>(sums + (b - block_begin) * kBlockRows * kPanel, panel_pitch,
                              x.block(b), panel, panel_nbytes, x.num_groups(), num_panels);
}

// f.operator()<kFormat>() of an integer format.
template <class F>
void with_format(WeightFormat format, const F& f) {
    switch (format) {
        case WeightFormat::kInt4:
            return f.template operator()<WeightFormat::kInt4>();
        case WeightFormat::kInt4Affine:
            return f.template operator()<WeightFormat::kInt4Affine>();
        case WeightFormat::kInt8:
            return f.template operator()<WeightFormat::kInt8>();
        case WeightFormat::kInt8Affine:
            return f.template operator()<WeightFormat::kInt8Affine>();
        case WeightFormat::kBf16:
            return;
    }
}

}  // namespace

void int_panel(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
               int64_t block_end, const PackedWeight& weight, const uint8_t* panel,
               int64_t num_panels) {
    with_format(weight.format, [&]<WeightFormat kFormat>() {
        int_panel_of<kFormat>(sums, panel_pitch, x, block_begin, block_end, panel,
                              weight.panel_nbytes(), num_panels);
    });
}

void int_rows(float* sums, int64_t panel_pitch, const Activations& x, WeightFormat format,
              const uint8_t* panel, int64_t stride, int64_t num_panels) {
    with_format(format, [&]<WeightFormat kFormat>() {
        vector_block<kFormat>(sums, panel_pitch, x.block(0), panel, stride, x.num_groups(),
                              num_panels);
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
