// Panels of int4 and int8 weights times int8 rows.
//
// The order is the contract's: per group an exact integer, then acc = fma(scale_w * scale_x,
// integer, acc), then, affine, acc = fma(minimum, scale_x * sum_x, acc).
#include "product.h"
#include "tile_dot.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Rows that share one unpacking of a tile on the vector path: as many as fit the registers beside
// it.
#if CIERZO_ISA_LEVEL >= 2
constexpr int kVectorRows = 8;
#else
constexpr int kVectorRows = 4;
#endif

// How far ahead of its use a weight is asked for. The hardware's own prefetch stops at every 4 KB
// page and falls behind where the arithmetic between two tiles is long (4 rows: 7 GB/s without
// this).
template <int kRows>
constexpr int64_t kPrefetchNbytes = kRows == 1 ? 2048 : 4096;

// kRows rows from `row` on, times kPanels panels, `panel_stride` bytes apart. Several panels at a
// time give a single row several independent chains and memory streams.
template <WeightFormat kFormat, int kRows, int kPanels>
void vector_rows(float* sums, int64_t panel_pitch, const Block& x, int row, const uint8_t* panel,
                 int64_t panel_stride, int64_t groups) {
    f32x16 acc[kPanels][kRows];
    for (auto& of_panel : acc)
        for (f32x16& a : of_panel) a = f32x16::zero();
    const int8_t* values = reinterpret_cast<const int8_t*>(x.values);
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t first = g * x.pitch + row;
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 4
#endif
        for (int p = 0; p < kPanels; ++p) {
            const uint8_t* tile = panel + p * panel_stride + g * tile_nbytes(kFormat);
            const uint16_t* scales =
                reinterpret_cast<const uint16_t*>(tile + value_nbytes(kFormat));
            for (int64_t line = 0; line < tile_nbytes(kFormat); line += 64)
                prefetch(tile + kPrefetchNbytes<kRows> + line);
            const Quads w = unpack<kFormat>(tile);
            const f32x16 weight_scale = f32x16::load_f16(scales);
            f32x16 minimum = f32x16::zero();
            if constexpr (is_affine(kFormat)) minimum = f32x16::load_f16(scales + 16);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 8
#endif
            for (int r = 0; r < kRows; ++r) {
                const int64_t i = first + r;
                const int32_t start = is_affine(kFormat) ? 0 : x.starts[i];
                const i32x16 integer = dot<kFormat, kRows <= 3>(w, values + i * kGroup, start);
                const f32x16 scale = weight_scale * f32x16::broadcast(x.scales[i]);
                acc[p][r] = fma(scale, to_float(integer), acc[p][r]);
                if constexpr (is_affine(kFormat))
                    acc[p][r] = fma(minimum, f32x16::broadcast(x.scaled_sums[i]), acc[p][r]);
            }
        }
    }
    for (int p = 0; p < kPanels; ++p)
        for (int r = 0; r < kRows; ++r)
            acc[p][r].store(sums + p * panel_pitch + (row + r) * kPanel);
}

template <WeightFormat kFormat, int kRows>
void vector_panels(float* sums, int64_t panel_pitch, const Block& x, int row, const uint8_t* panel,
                   int64_t panel_stride, int64_t groups, int64_t num_panels) {
    int64_t p = 0;
    if constexpr (kRows == 1) {
        for (; p + 4 <= num_panels; p += 4)
            vector_rows<kFormat, kRows, 4>(sums + p * panel_pitch, panel_pitch, x, row,
                                           panel + p * panel_stride, panel_stride, groups);
    }
    if constexpr (kRows <= 3) {
        for (; p + 2 <= num_panels; p += 2)
            vector_rows<kFormat, kRows, 2>(sums + p * panel_pitch, panel_pitch, x, row,
                                           panel + p * panel_stride, panel_stride, groups);
    }
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

template <WeightFormat kFormat>
void vector_block(float* sums, int64_t panel_pitch, const Block& x, const uint8_t* panel,
                  int64_t panel_nbytes, int64_t groups, int64_t num_panels) {
    for (int row = 0; row < x.rows; row += kVectorRows) {
        const int rows = x.rows - row < kVectorRows ? x.rows - row : kVectorRows;
        vector_some_rows<kFormat, kVectorRows>(rows, sums, panel_pitch, x, row, panel, panel_nbytes,
                                               groups, num_panels);
    }
}

#if CIERZO_ISA_LEVEL >= 3

// Groups unpacked at a time: 32 x 512 bytes of weights fill a third of L1 and are then used by
// every block of rows, whose own 16 KB stream past.
constexpr int64_t kChunkGroups = 32;

struct UnpackedChunk {
    alignas(64) uint8_t values[kChunkGroups][512];
    alignas(64) float scales[kChunkGroups][kPanel];
    alignas(64) float minimums[kChunkGroups][kPanel];
};

// Symmetric values become signed here (q - zero), so that no correction is needed per row; affine
// ones stay unsigned.
template <WeightFormat kFormat>
void unpack_chunk(UnpackedChunk& out, const uint8_t* tile, int64_t groups) {
    for (int64_t g = 0; g < groups; ++g, tile += tile_nbytes(kFormat)) {
        // The next chunk, or the next panel's first: there when this one is used up.
        for (int64_t line = 0; line < tile_nbytes(kFormat); line += 64)
            prefetch(tile + groups * tile_nbytes(kFormat) + line);
        Quads w = unpack<kFormat>(tile);
        for (int j = 0; j < 8; ++j) {
            if constexpr (kFormat == WeightFormat::kInt4)
                w.q[j] = _mm512_sub_epi8(w.q[j], _mm512_set1_epi8(8));
            if constexpr (kFormat == WeightFormat::kInt8)
                w.q[j] = _mm512_xor_si512(w.q[j], _mm512_set1_epi8(int8_t(0x80)));
            _mm512_store_si512(out.values[g] + 64 * j, w.q[j]);
        }
        const uint16_t* scales = reinterpret_cast<const uint16_t*>(tile + value_nbytes(kFormat));
        f32x16::load_f16(scales).store(out.scales[g]);
        if constexpr (is_affine(kFormat)) f32x16::load_f16(scales + 16).store(out.minimums[g]);
    }
}

// One group's 16 x 16 integers into tile kC and from there to `integers`.
template <WeightFormat kFormat, int kC>
inline void tile_group(int32_t* integers, const int8_t* x, const uint8_t* w) {
    tile_load<4 + kC % 2>(x, kGroup);
    tile_load<6 + kC % 2>(w, 64);
    tile_zero<kC>();
    if constexpr (is_affine(kFormat))
        tile_dot_su<kC, 4 + kC % 2, 6 + kC % 2>();
    else
        tile_dot_ss<kC, 4 + kC % 2, 6 + kC % 2>();
    tile_store<kC>(integers, 64);
}

template <WeightFormat kFormat>
inline void scale_group(f32x16 (&acc)[kBlockRows], const int32_t* integers, const float* x_scales,
                        const float* scaled_sums, const float* w_scales, const float* w_minimums) {
    const f32x16 weight_scale = f32x16::load(w_scales);
    f32x16 minimum = f32x16::zero();
    if constexpr (is_affine(kFormat)) minimum = f32x16::load(w_minimums);
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 16
#endif
    for (int r = 0; r < kBlockRows; ++r) {
        const f32x16 scale = weight_scale * f32x16::broadcast(x_scales[r]);
        acc[r] = fma(scale, to_float(load_i32(integers + r * kPanel)), acc[r]);
        if constexpr (is_affine(kFormat))
            acc[r] = fma(minimum, f32x16::broadcast(scaled_sums[r]), acc[r]);
    }
}

// Groups [begin, end) of one block, added to sums[16][16]. Integers go through memory: the tile
// unit's only way out.
template <WeightFormat kFormat>
void tile_block(float* sums, const Block& x, const UnpackedChunk& w, int64_t begin, int64_t end) {
    alignas(64) int32_t integers[2][kBlockRows * kPanel];
    const int8_t* values = reinterpret_cast<const int8_t*>(x.values);
    f32x16 acc[kBlockRows];
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 16
#endif
    for (int r = 0; r < kBlockRows; ++r)
        acc[r] = begin == 0 ? f32x16::zero() : f32x16::load(sums + r * kPanel);
    const auto scale = [&](int64_t g, const int32_t* of_group) {
        scale_group<kFormat>(acc, of_group, x.scales + g * kBlockRows,
                             x.scaled_sums + g * kBlockRows, w.scales[g - begin],
                             w.minimums[g - begin]);
    };
    int64_t g = begin;
    for (; g + 2 <= end; g += 2) {
        const int8_t* a = values + g * kBlockRows * kGroup;
        tile_group<kFormat, 0>(integers[0], a, w.values[g - begin]);
        tile_group<kFormat, 1>(integers[1], a + kBlockRows * kGroup, w.values[g + 1 - begin]);
        scale(g, integers[0]);
        scale(g + 1, integers[1]);
    }
    if (g < end) {
        tile_group<kFormat, 0>(integers[0], values + g * kBlockRows * kGroup, w.values[g - begin]);
        scale(g, integers[0]);
    }
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 16
#endif
    for (int r = 0; r < kBlockRows; ++r) acc[r].store(sums + r * kPanel);
}

template <WeightFormat kFormat>
void tile_blocks(float* sums, const Activations& x, int64_t block_begin, int64_t block_end,
                 const uint8_t* panel) {
    UnpackedChunk chunk;
    const int64_t groups = x.num_groups();
    for (int64_t begin = 0; begin < groups; begin += kChunkGroups) {
        const int64_t end = begin + kChunkGroups < groups ? begin + kChunkGroups : groups;
        unpack_chunk<kFormat>(chunk, panel + begin * tile_nbytes(kFormat), end - begin);
        for (int64_t b = block_begin; b < block_end; ++b)
            tile_block<kFormat>(sums + (b - block_begin) * kBlockRows * kPanel, x.block(b), chunk,
                                begin, end);
    }
}

#endif

template <WeightFormat kFormat>
void int_panel_of(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
                  int64_t block_end, const uint8_t* panel, int64_t panel_nbytes,
                  int64_t num_panels) {
    // Only the last block may have too few rows for AMX.
    int64_t vector_begin = block_begin;
#if CIERZO_ISA_LEVEL >= 3
    vector_begin = use_amx(x.block(block_end - 1).rows) ? block_end : block_end - 1;
    if (vector_begin > block_begin)
        for (int64_t p = 0; p < num_panels; ++p)
            tile_blocks<kFormat>(sums + p * panel_pitch, x, block_begin, vector_begin,
                                 panel + p * panel_nbytes);
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

void int_row(float* sums, int64_t panel_pitch, const Activations& x, WeightFormat format,
             const uint8_t* panel, int64_t stride, int64_t num_panels) {
    with_format(format, [&]<WeightFormat kFormat>() {
        vector_panels<kFormat, 1>(sums, panel_pitch, x.block(0), 0, panel, stride, x.num_groups(),
                                  num_panels);
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
