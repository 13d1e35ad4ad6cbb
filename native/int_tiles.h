// Panels of int4 and int8 weights times blocks of up to 16 int8 rows on the AMX unit. Only for
// CIERZO_ISA_LEVEL 3, included by product_int.cpp alone.
//
// A group of 32 inputs is one tile product of 16 x 16 exact integers, which leave through memory
// and are scaled on the vector unit. While the tile unit works, multiplications run at half their
// rate (on one port of two) but additions do not. So integers are made floats by a subtraction:
// tiles start from the bits of a float so large that adding 1 to the bits adds one unit to the
// float.
#pragma once

#include "product.h"
#include "tile_dot.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

// int4 weights are multiplied as 16 times their value, which saves their shift down. Large enough
// for |16 * dot| <= 16 * 15 * 127 * 32 < 2^22 units of 2^-4, and |dot| <= 255 * 127 * 32 < 2^22
// units of 1.
constexpr float float_bias(WeightFormat format) {
    return is_int4(format) ? 0x1.8p19f : 0x1.8p23f;
}

// Unpacked tiles: tile t of the panels is in slot t % kSlots. So few that they stay in L1 beside
// their packed successors and as many groups of the rows.
struct UnpackedTiles {
    static constexpr int64_t kSlots = 16;
    alignas(64) uint8_t values[kSlots][512];
    alignas(64) float scales[kSlots][kPanel];
    alignas(64) float minimums[kSlots][kPanel];
};

// Symmetric values become signed here (q - zero), so that no correction is needed per row; affine
// ones stay unsigned.
template <WeightFormat kFormat>
inline void unpack_tile(UnpackedTiles& out, int64_t t, const uint8_t* panels) {
    const uint8_t* tile = panels + t * tile_nbytes(kFormat);
    const int64_t slot = t % UnpackedTiles::kSlots;
    for (int64_t line = 0; line < tile_nbytes(kFormat); line += 64) {
        prefetch_far(tile + 8192 + line);
        prefetch(tile + 1024 + line);
    }
    // Flipping the top bit subtracts half the range.
    const __m512i flip = _mm512_set1_epi8(is_affine(kFormat) ? 0 : int8_t(0x80));
    const __m512i high = _mm512_set1_epi8(int8_t(0xf0));
    constexpr int kMaskAndFlip = 0x6a;  // (a & b) ^ c
    for (int j = 0; j < value_nbytes(kFormat) / 64; ++j) {
        const __m512i line = _mm512_loadu_si512(tile + 64 * j);
        uint8_t* to = out.values[slot] + 64 * j;
        if constexpr (is_int4(kFormat)) {
            const __m512i up = _mm512_slli_epi16(line, 4);
            _mm512_store_si512(to, _mm512_ternarylogic_epi32(up, high, flip, kMaskAndFlip));
            _mm512_store_si512(to + 256, _mm512_ternarylogic_epi32(line, high, flip, kMaskAndFlip));
        } else {
            _mm512_store_si512(to, _mm512_xor_si512(line, flip));
        }
    }
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(tile + value_nbytes(kFormat));
    f32x16::load_f16(scales).store(out.scales[slot]);
    if constexpr (is_affine(kFormat)) f32x16::load_f16(scales + 16).store(out.minimums[slot]);
}

// Starts one group's product, rows x 16, in tile step % 4.
template <WeightFormat kFormat>
inline void start_group(int64_t step, const float* bias, const int8_t* x, const uint8_t* w) {
    const auto start = [&]<int kC>() __attribute__((always_inline)) {
        constexpr int kA = 4 + kC % 2, kB = 6 + kC % 2;
        tile_load<kA>(x, kGroup);
        tile_load<kB>(w, 64);
        tile_load<kC>(bias, 0);
        if constexpr (is_affine(kFormat))
            tile_dot_su<kC, kA, kB>();
        else
            tile_dot_ss<kC, kA, kB>();
    };
    switch (step % 4) {
        case 0:
            return start.template operator()<0>();
        case 1:
            return start.template operator()<1>();
        case 2:
            return start.template operator()<2>();
        default:
            return start.template operator()<3>();
    }
}

inline void store_group(int64_t step, float* biased) {
    switch (step % 4) {
        case 0:
            return tile_store<0>(biased, 64);
        case 1:
            return tile_store<1>(biased, 64);
        case 2:
            return tile_store<2>(biased, 64);
        default:
            return tile_store<3>(biased, 64);
    }
}

template <WeightFormat kFormat, int kRows>
inline void scale_group(f32x16 (&acc)[kRows], const float* biased, const float* x_scales,
                        const float* scaled_sums, const float* w_scales, const float* w_minimums) {
    const f32x16 weight_scale = f32x16::load(w_scales);
    const f32x16 bias = f32x16::broadcast(float_bias(kFormat));
    f32x16 minimum = f32x16::zero();
    if constexpr (is_affine(kFormat)) minimum = f32x16::load(w_minimums);
    CIERZO_UNROLL
    for (int r = 0; r < kRows; ++r) {
        const f32x16 scale = weight_scale * f32x16::broadcast(x_scales[r]);
        acc[r] = fma(scale, f32x16::load(biased + r * kPanel) - bias, acc[r]);
        if constexpr (is_affine(kFormat))
            acc[r] = fma(minimum, f32x16::broadcast(scaled_sums[r]), acc[r]);
    }
}

// The order of the work: panel by panel, a chunk of its groups at a time, every block of rows in
// turn. The first block unpacks the chunk for all; a single one has no need of chunks.
class TileWalk {
  public:
    // Tiles are unpacked so long before their first use.
    static constexpr int64_t kUnpackAhead = 3;

    TileWalk(const Activations& x, int64_t block_begin, int64_t block_end)
        : x_(x), block_begin_(block_begin), block_end_(block_end), block_(block_begin) {
        const bool many = block_end - block_begin > 1;
        chunk_ = many ? UnpackedTiles::kSlots - kUnpackAhead - 1 : x.num_groups();
        enter_chunk();
    }

    const Block& rows() const { return rows_; }
    int64_t panel() const { return panel_; }
    int64_t block() const { return block_ - block_begin_; }
    int64_t begin() const { return begin_; }  // of the chunk
    int64_t end() const { return end_; }
    int64_t group() const { return group_; }
    int64_t tile(int64_t group) const { return panel_ * x_.num_groups() + group; }

    void next_group() {
        if (++group_ == end_) next_block();
    }
    void next_block() {
        if (++block_ == block_end_) {
            block_ = block_begin_;
            begin_ = end_;
            if (begin_ == x_.num_groups()) {
                begin_ = 0;
                ++panel_;
            }
        }
        enter_chunk();
    }

  private:
    void enter_chunk() {
        end_ = begin_ + chunk_ < x_.num_groups() ? begin_ + chunk_ : x_.num_groups();
        group_ = begin_;
        rows_ = x_.block(block_);
    }

    const Activations& x_;
    int64_t block_begin_, block_end_, chunk_;
    int64_t panel_ = 0, block_, begin_ = 0, end_ = 0, group_ = 0;
    Block rows_ = {};
};

// Groups are in flight together, across the borders of blocks and panels: being unpacked, in the
// tile unit, on their way through memory, being scaled.
template <WeightFormat kFormat, int kRows>
void tile_panels(float* sums, int64_t panel_pitch, const Activations& x, int64_t block_begin,
                 int64_t block_end, const uint8_t* panels, int64_t num_panels) {
    constexpr int64_t kStored = 2, kScaled = 4;  // steps after its start
    constexpr int64_t kSlots = UnpackedTiles::kSlots;
    UnpackedTiles w;
    alignas(64) float biased[4][kBlockRows * kPanel];
    alignas(64) float bias[kPanel];
    f32x16::broadcast(float_bias(kFormat)).store(bias);
    const int64_t num_tiles = num_panels * x.num_groups();
    const int64_t num_steps = num_tiles * (block_end - block_begin);
    TileWalk started(x, block_begin, block_end), scaled = started;
    for (int64_t t = 0; t < TileWalk::kUnpackAhead && t < num_tiles; ++t)
        unpack_tile<kFormat>(w, t, panels);

    const auto start_and_store = [&](int64_t step) __attribute__((always_inline)) {
        if (step < num_steps) {
            const int64_t t = started.tile(started.group());
            if (started.block() == 0 && t + TileWalk::kUnpackAhead < num_tiles)
                unpack_tile<kFormat>(w, t + TileWalk::kUnpackAhead, panels);
            const uint8_t* values = started.rows().values + started.group() * kBlockRows * kGroup;
            start_group<kFormat>(step, bias, reinterpret_cast<const int8_t*>(values),
                                 w.values[t % kSlots]);
            started.next_group();
        }
        step -= kStored;
        if (step >= 0 && step < num_steps) store_group(step, biased[step % 4]);
    };
    for (int64_t i = 0; i < kScaled; ++i) start_and_store(i);
    for (int64_t i = 0; i < num_steps;) {
        float* to = sums + scaled.panel() * panel_pitch + scaled.block() * kBlockRows * kPanel;
        f32x16 acc[kRows];
        CIERZO_UNROLL
        for (int r = 0; r < kRows; ++r)
            acc[r] = scaled.begin() == 0 ? f32x16::zero() : f32x16::load(to + r * kPanel);
        for (int64_t g = scaled.begin(); g < scaled.end(); ++g, ++i) {
            start_and_store(i + kScaled);
            const int64_t slot = scaled.tile(g) % kSlots;
            scale_group<kFormat>(acc, biased[i % 4], scaled.rows().scales + g * kBlockRows,
                                 scaled.rows().scaled_sums + g * kBlockRows, w.scales[slot],
                                 w.minimums[slot]);
        }
        CIERZO_UNROLL
        for (int r = 0; r < kRows; ++r) acc[r].store(to + r * kPanel);
        scaled.next_block();
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
