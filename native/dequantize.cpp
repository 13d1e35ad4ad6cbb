#include "dequantize.h"

#include "tile_dot.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

#if CIERZO_ISA_LEVEL >= 2

// A field of bits set below the leading one of a float is a number without any conversion: with the
// low byte of a dword moved to bits 8 to 15 of 1.0f, the float is 1 + byte / 2^15.
inline __m512 one_plus(__m512i bits, __m512i field) {
    return _mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(bits, field, _mm512_set1_epi32(0x3f800000), 0xEA));
}

// One line of a tile: [16 outputs][2 inputs]. The even ones' high halves take the place of the odd
// ones' low halves in one move of bytes.
inline void store_line(uint8_t* tile, int line, __m512 even, __m512 odd) {
    const __m512i half = _mm512_set1_epi32(0x8000);
    const __m512i e = _mm512_add_epi32(_mm512_castps_si512(even), half);
    const __m512i o = _mm512_add_epi32(_mm512_castps_si512(odd), half);
    _mm512_storeu_si512(tile + 64 * line, _mm512_mask_alignr_epi8(o, 0x3333333333333333, e, e, 2));
}

// Weights scale * (1 + q / 2^shift) * 2^shift - scale * (2^shift + zero), which is exact.
struct SymmetricField {
    __m512i bits;
    __m512 scale, offset;
    SymmetricField(int32_t field, int shift, int zero, __m512 tile_scale)
        : bits(_mm512_set1_epi32(field)),
          scale(_mm512_mul_ps(tile_scale, _mm512_set1_ps(float(1 << shift)))),
          offset(_mm512_mul_ps(tile_scale, _mm512_set1_ps(-float((1 << shift) + zero)))) {}
    __m512 weights(__m512i x) const { return _mm512_fmadd_ps(one_plus(x, bits), scale, offset); }
};

inline void dequantize_int4(uint8_t* out, const uint8_t* tile, __m512 scale) {
    // Nibbles at bits 8, 12 and 16; the others are shifted there.
    const SymmetricField at8(0xf00, 15, 8, scale), at12(0xf000, 11, 8, scale),
        at16(0xf0000, 7, 8, scale);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i x = _mm512_loadu_si512(tile + 64 * i);
        const __m512i left = _mm512_slli_epi32(x, 8), right = _mm512_srli_epi32(x, 12);
        // Low nibbles hold quad i, high ones quad i + 4.
        store_line(out, 2 * i, at8.weights(left), at8.weights(x));
        store_line(out, 2 * i + 1, at16.weights(x), at12.weights(right));
        store_line(out, 2 * i + 8, at12.weights(left), at12.weights(x));
        store_line(out, 2 * i + 9, at8.weights(right), at16.weights(right));
    }
}

inline void dequantize_int8(uint8_t* out, const uint8_t* tile, __m512 scale) {
    const SymmetricField at8(0xff00, 15, 128, scale);
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
        const __m512i x = _mm512_loadu_si512(tile + 64 * j);
        store_line(out, 2 * j, at8.weights(_mm512_slli_epi32(x, 8)), at8.weights(x));
        store_line(out, 2 * j + 1, at8.weights(_mm512_srli_epi32(x, 8)),
                   at8.weights(_mm512_srli_epi32(x, 16)));
    }
}

inline void dequantize_int4_affine(uint8_t* out, const uint8_t* tile, __m512 scale,
                                   __m512 minimum) {
    const __m512 numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {
        const __m512i x = _mm512_loadu_si512(tile + 64 * i);
        // The permutation looks at the lowest four bits only.
        const auto weights = [&](int bit) {
            const __m512 q = _mm512_permutexvar_ps(_mm512_srli_epi32(x, unsigned(bit)), numbers);
            return _mm512_fmadd_ps(q, scale, minimum);
        };
        store_line(out, 2 * i, weights(0), weights(8));
        store_line(out, 2 * i + 1, weights(16), weights(24));
        store_line(out, 2 * i + 8, weights(4), weights(12));
        store_line(out, 2 * i + 9, weights(20), weights(28));
    }
}

inline void dequantize_int8_affine(uint8_t* out, const uint8_t* tile, __m512 scale,
                                   __m512 minimum) {
    const __m512 one = _mm512_set1_ps(1.0f);
    const __m512i field = _mm512_set1_epi32(0xff00);
    const __m512 scaled = _mm512_mul_ps(scale, _mm512_set1_ps(0x1p15f));
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) {
        const __m512i x = _mm512_loadu_si512(tile + 64 * j);
        const auto weights = [&](__m512i moved) {
            return _mm512_fmadd_ps(_mm512_sub_ps(one_plus(moved, field), one), scaled, minimum);
        };
        store_line(out, 2 * j, weights(_mm512_slli_epi32(x, 8)), weights(x));
        store_line(out, 2 * j + 1, weights(_mm512_srli_epi32(x, 8)),
                   weights(_mm512_srli_epi32(x, 16)));
    }
}

template <WeightFormat kFormat>
void dequantize_tile(uint8_t* out, const uint8_t* tile) {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(tile + value_nbytes(kFormat));
    const __m512 scale = f32x16::load_f16(scales).v;
    if constexpr (kFormat == WeightFormat::kInt4)
        dequantize_int4(out, tile, scale);
    else if constexpr (kFormat == WeightFormat::kInt8)
        dequantize_int8(out, tile, scale);
    else if constexpr (kFormat == WeightFormat::kInt4Affine)
        dequantize_int4_affine(out, tile, scale, f32x16::load_f16(scales + kPanel).v);
    else
        dequantize_int8_affine(out, tile, scale, f32x16::load_f16(scales + kPanel).v);
}

#else

inline uint16_t round_weight(float weight) {
    uint32_t bits;
    std::memcpy(&bits, &weight, 4);
    return uint16_t((bits + 0x8000u) >> 16);
}

template <WeightFormat kFormat>
void dequantize_tile(uint8_t* out, const uint8_t* tile) {
    const uint16_t* scales = reinterpret_cast<const uint16_t*>(tile + value_nbytes(kFormat));
    const float zero = is_affine(kFormat) ? 0.0f : is_int4(kFormat) ? 8.0f : 128.0f;
    float scale[kPanel], minimum[kPanel];
    for (int o = 0; o < kPanel; ++o) {
        scale[o] = f16_to_f32(scales[o]);
        minimum[o] = is_affine(kFormat) ? f16_to_f32(scales[kPanel + o]) : 0.0f;
    }
    for (int input = 0; input < kGroup; ++input) {
        const int quad = input / 4;
        const uint8_t* bytes = tile + (is_int4(kFormat) ? quad % 4 : quad) * 64 + input % 4;
        const int shift = is_int4(kFormat) && quad >= 4 ? 4 : 0;
        const int mask = is_int4(kFormat) ? 15 : 255;
        uint16_t* line = reinterpret_cast<uint16_t*>(out) + input / 2 * 2 * kPanel + input % 2;
        for (int o = 0; o < kPanel; ++o) {
            const float value = float(bytes[4 * o] >> shift & mask);
            line[2 * o] = round_weight(scale[o] * (value - zero) + minimum[o]);
        }
    }
}

#endif

template <WeightFormat kFormat>
void dequantize(uint8_t* out, const uint8_t* tiles, int64_t count) {
    for (int64_t t = 0; t < count; ++t)
        dequantize_tile<kFormat>(out + t * tile_nbytes(WeightFormat::kBf16),
                                 tiles + t * tile_nbytes(kFormat));
}

}  // namespace

void dequantize_tiles(uint8_t* out, WeightFormat format, const uint8_t* tiles, int64_t count) {
    switch (format) {
        case WeightFormat::kInt4:
            return dequantize<WeightFormat::kInt4>(out, tiles, count);
        case WeightFormat::kInt4Affine:
            return dequantize<WeightFormat::kInt4Affine>(out, tiles, count);
        case WeightFormat::kInt8:
            return dequantize<WeightFormat::kInt8>(out, tiles, count);
        case WeightFormat::kInt8Affine:
            return dequantize<WeightFormat::kInt8Affine>(out, tiles, count);
        case WeightFormat::kBf16:
            return;
    }
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
