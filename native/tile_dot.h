// Exact integer dot products of one quantised tile (16 outputs x 32 inputs) with one row's group
// of 32.
//
// Weights are unsigned, activations signed. Whatever the instruction set, the sums are exact, so
// all give the same integer.
#pragma once

#include "simd.h"
#include "tensor.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

constexpr bool is_int4(WeightFormat format) {
    return format == WeightFormat::kInt4 || format == WeightFormat::kInt4Affine;
}
constexpr bool is_affine(WeightFormat format) {
    return format == WeightFormat::kInt4Affine || format == WeightFormat::kInt8Affine;
}
// Bytes of quantised values in a tile; the scales follow them, then the minimums.
constexpr int64_t value_nbytes(WeightFormat format) {
    return is_int4(format) ? 256 : 512;
}

#if CIERZO_ISA_LEVEL >= 2

// A tile's values, one quad of inputs ([16 outputs][4 inputs]) per register.
struct Quads {
    __m512i q[8];
};

template <WeightFormat kFormat>
inline Quads unpack(const uint8_t* tile) {
    Quads w;
    if constexpr (is_int4(kFormat)) {
        const __m512i low = _mm512_set1_epi8(15);
        for (int i = 0; i < 4; ++i) {
            const __m512i line = _mm512_loadu_si512(tile + 64 * i);
            w.q[i] = _mm512_and_si512(line, low);
            w.q[i + 4] = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
        }
    } else {
        for (int i = 0; i < 8; ++i) w.q[i] = _mm512_loadu_si512(tile + 64 * i);
    }
    return w;
}

inline int32_t load_quad(const int8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, 4);
    return quad;
}

// kSplit: two chains instead of one of eight, which alone would be bound by the instruction's
// latency. With several rows in flight one chain each is enough, and saves an addition.
template <WeightFormat, bool kSplit>
inline i32x16 dot(const Quads& w, const int8_t* x, int32_t start) {
    __m512i a = _mm512_set1_epi32(start);
    if constexpr (kSplit) {
        __m512i b = _mm512_setzero_si512();
        for (int j = 0; j < 4; ++j) {
            a = _mm512_dpbusd_epi32(a, w.q[j], _mm512_set1_epi32(load_quad(x + 4 * j)));
            b = _mm512_dpbusd_epi32(b, w.q[j + 4], _mm512_set1_epi32(load_quad(x + 4 * j + 16)));
        }
        return {_mm512_add_epi32(a, b)};
    }
    for (int j = 0; j < 8; ++j)
        a = _mm512_dpbusd_epi32(a, w.q[j], _mm512_set1_epi32(load_quad(x + 4 * j)));
    return {a};
}

#elif CIERZO_ISA_LEVEL == 1

// vpmaddubsw adds two products of an unsigned and a signed byte into 16 bits and saturates. Nibbles
// are safe: 2 * 15 * 127 per quad, eight quads make 30480 < 32768. Bytes are not, so they are split
// into two nibbles and cost twice as much.
struct Quads {
    alignas(32) uint8_t low[512];
    alignas(32) uint8_t high[512];  // int8 only
};

template <WeightFormat kFormat>
inline Quads unpack(const uint8_t* tile) {
    Quads w;
    const __m256i mask = _mm256_set1_epi8(15);
    const auto load = [&](int i) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 32 * i));
    };
    const auto store = [](uint8_t* p, __m256i v) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(p), v);
    };
    const auto high_nibbles = [&](__m256i v) {
        return _mm256_and_si256(_mm256_srli_epi16(v, 4), mask);
    };
    if constexpr (is_int4(kFormat)) {
        for (int i = 0; i < 8; ++i) {
            store(w.low + 32 * i, _mm256_and_si256(load(i), mask));
            store(w.low + 256 + 32 * i, high_nibbles(load(i)));
        }
    } else {
        for (int i = 0; i < 16; ++i) {
            store(w.low + 32 * i, _mm256_and_si256(load(i), mask));
            store(w.high + 32 * i, high_nibbles(load(i)));
        }
    }
    return w;
}

// Σ over the eight quads, for outputs 8 * half .. 8 * half + 7.
inline __m256i dot_nibbles(const uint8_t* w, const int8_t* x, int half) {
    __m256i sum = _mm256_setzero_si256();
    for (int j = 0; j < 8; ++j) {
        int32_t quad;
        std::memcpy(&quad, x + 4 * j, 4);
        const __m256i v =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 64 * j + 32 * half));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(v, _mm256_set1_epi32(quad)));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

template <WeightFormat kFormat, bool>
inline i32x16 dot(const Quads& w, const int8_t* x, int32_t start) {
    __m256i sums[2];
    for (int half = 0; half < 2; ++half) {
        sums[half] = _mm256_add_epi32(_mm256_set1_epi32(start), dot_nibbles(w.low, x, half));
        if constexpr (!is_int4(kFormat))
            sums[half] =
                _mm256_add_epi32(sums[half], _mm256_slli_epi32(dot_nibbles(w.high, x, half), 4));
    }
    return {sums[0], sums[1]};
}

#else

struct Quads {
    uint8_t q[512];
};

template <WeightFormat kFormat>
inline Quads unpack(const uint8_t* tile) {
    Quads w;
    if constexpr (is_int4(kFormat)) {
        for (int i = 0; i < 256; ++i) {
            w.q[i] = tile[i] & 15;
            w.q[i + 256] = tile[i] >> 4;
        }
    } else {
        std::memcpy(w.q, tile, sizeof w.q);
    }
    return w;
}

template <WeightFormat, bool>
inline i32x16 dot(const Quads& w, const int8_t* x, int32_t start) {
    i32x16 sum;
    for (int32_t& lane : sum.v) lane = start;
    for (int j = 0; j < 8; ++j)
        for (int o = 0; o < kLanes; ++o)
            for (int i = 0; i < 4; ++i) sum.v[o] += int32_t(w.q[64 * j + 4 * o + i]) * x[4 * j + i];
    return sum;
}

#endif

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
