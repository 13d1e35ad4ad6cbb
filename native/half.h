// Half precision and bfloat16 to float and back, by integer arithmetic: exact, and untouched by the
// flush-to-zero mode. Internal linkage: each instruction set's copy stays its own.
#pragma once

#include <cstdint>
#include <cstring>

namespace cierzo {

static inline float f16_to_f32(uint16_t h) {
    const uint32_t sign = uint32_t(h & 0x8000u) << 16;
    const uint32_t exponent = (h >> 10) & 31u;
    const uint32_t mantissa = h & 0x3ffu;
    uint32_t bits;
    if (exponent == 0) {
        const float tiny = float(mantissa) * 0x1p-24f;
        std::memcpy(&bits, &tiny, 4);
    } else if (exponent == 31) {
        bits = 0x7f800000u | (mantissa << 13);
    } else {
        bits = ((exponent + 112u) << 23) | (mantissa << 13);
    }
    bits |= sign;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

static inline float bf16_to_f32(uint16_t b) {
    const uint32_t bits = uint32_t(b) << 16;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

// Round to nearest even. NaN becomes the quiet NaN 0x7fff with its sign, never an infinity.
static inline uint16_t f32_to_bf16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t((bits >> 16) | 0x7fffu);
    return uint16_t((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

// Round to nearest even; above the largest half (65504) that number, so that a scale is never
// infinite.
static inline uint16_t f32_to_f16(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint16_t sign = uint16_t((bits >> 16) & 0x8000u);
    bits &= 0x7fffffffu;
    if (bits > 0x7f800000u) return uint16_t(sign | 0x7e00u);
    if (bits >= 0x477fe000u) return uint16_t(sign | 0x7bffu);
    if (bits < 0x38800000u) {  // below 2^-14: a subnormal half, a multiple of 2^-24
        if (bits < 0x33000000u) return sign;
        const uint32_t mantissa = (bits & 0x7fffffu) | 0x800000u;
        const uint32_t shift = 126u - (bits >> 23);
        const uint32_t half = mantissa >> shift;
        const uint32_t rest = mantissa & ((1u << shift) - 1u);
        const uint32_t tie = 1u << (shift - 1u);
        return uint16_t(sign | (half + (rest > tie || (rest == tie && (half & 1u)) ? 1u : 0u)));
    }
    const uint32_t rounded = bits + 0xfffu + ((bits >> 13) & 1u) - 0x38000000u;
    return uint16_t(sign | (rounded >> 13));
}

}  // namespace cierzo
