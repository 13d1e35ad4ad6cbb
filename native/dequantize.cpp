#include "dequantize.h"

#include "half.h"
#include "tile_dot.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

template <WeightFormat kFormat>
void dequantize_tile(uint16_t* out, const uint8_t* tile) {
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
        uint16_t* line = out + input / 2 * 2 * kPanel + input % 2;
        for (int o = 0; o < kPanel; ++o) {
            const float value = float(bytes[4 * o] >> shift & mask);
            line[2 * o] = f32_to_bf16(scale[o] * (value - zero) + minimum[o]);
        }
    }
}

template <WeightFormat kFormat>
void dequantize(uint8_t* out, const uint8_t* tiles, int64_t count) {
    for (int64_t t = 0; t < count; ++t)
        dequantize_tile<kFormat>(
            reinterpret_cast<uint16_t*>(out + t * tile_nbytes(WeightFormat::kBf16)),
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
