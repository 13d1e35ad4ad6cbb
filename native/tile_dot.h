// Exact integer dot products of quantised tiles (16 outputs x 32 inputs) with some rows' groups
// of 32.
//
// Weights are unsigned, activations signed. Whatever the instruction set, the sums are exact, so
// all give the same integers.
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

inline int32_t load_quad(const int8_t* p) {
    int32_t quad;
    std::memcpy(&quad, p, 4);
    return quad;
}

// dot_rows: dots[p][r] = starts[r] + Σ w · x, for the tile of each of kPanels panels (they are
// panel_nbytes apart) and kRows rows of 32 values each. `starts` is null for zeros.

#if CIERZO_ISA_LEVEL >= 2

// Quad by quad, all rows and panels each: as many independent chains as the registers hold.
template <WeightFormat kFormat, int kRows, int kPanels>
inline void dot_rows(i32x16 (&dots)[kPanels][kRows], const uint8_t* tile, int64_t panel_nbytes,
                     const int8_t* x, const int32_t* starts) {
    CIERZO_UNROLL
    for (int r = 0; r < kRows; ++r) {
        const __m512i start =
            starts == nullptr ? _mm512_setzero_si512() : _mm512_set1_epi32(starts[r]);
        CIERZO_UNROLL
        for (int p = 0; p < kPanels; ++p) dots[p][r].v = start;
    }
    const auto quad = [&](const __m512i(&w)[kPanels], int j) __attribute__((always_inline)) {
        CIERZO_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const __m512i q = _mm512_set1_epi32(load_quad(x + r * 32 + 4 * j));
            CIERZO_UNROLL
            for (int p = 0; p < kPanels; ++p)
                dots[p][r].v = _mm512_dpbusd_epi32(dots[p][r].v, w[p], q);
        }
    };
    const __m512i low = _mm512_set1_epi8(15);
    for (int j = 0; j < value_nbytes(kFormat) / 64; ++j) {
        __m512i first[kPanels], second[kPanels];
        CIERZO_UNROLL
        for (int p = 0; p < kPanels; ++p) {
            const __m512i line = _mm512_loadu_si512(tile + p * panel_nbytes + 64 * j);
            first[p] = is_int4(kFormat) ? _mm512_and_si512(line, low) : line;
            second[p] = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
        }
        quad(first, j);
        if constexpr (is_int4(kFormat)) quad(second, j + 4);
    }
}

#elif CIERZO_ISA_LEVEL == 1

// vpmaddubsw adds two products of an unsigned and a signed byte into 16 bits and saturates. Nibbles
// are safe: 2 * 15 * 127 per quad, eight quads make 30480 < 32768. Bytes are not, so they are split
// into two nibbles and cost twice as much. They go through memory: eight quads of two registers
// each are all the registers there are.
struct Nibbles {
    alignas(32) uint8_t low[512];
    alignas(32) uint8_t high[512];  // int8 only
};

template <WeightFormat kFormat>
inline void split(Nibbles& w, const uint8_t* tile) {
    const __m256i mask = _mm256_set1_epi8(15);
    const auto store = [](uint8_t* p, __m256i v) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(p), v);
    };
    for (int i = 0; i < value_nbytes(kFormat) / 32; ++i) {
        const __m256i line = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(tile + 32 * i));
        store(w.low + 32 * i, _mm256_and_si256(line, mask));
        store((is_int4(kFormat) ? w.low + 256 : w.high) + 32 * i,
              _mm256_and_si256(_mm256_srli_epi16(line, 4), mask));
    }
}

// Σ over the eight quads, for outputs 8 * half .. 8 * half + 7.
inline __m256i dot_nibbles(const uint8_t* w, const int8_t* x, int half) {
    __m256i sum = _mm256_setzero_si256();
    for (int j = 0; j < 8; ++j) {
        const __m256i v =
            _mm256_load_si256(reinterpret_cast<const __m256i*>(w + 64 * j + 32 * half));
        const __m256i quad = _mm256_set1_epi32(load_quad(x + 4 * j));
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(v, quad));
    }
    return _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
}

template <WeightFormat kFormat, int kRows, int kPanels>
inline void dot_rows(i32x16 (&dots)[kPanels][kRows], const uint8_t* tile, int64_t panel_nbytes,
                     const int8_t* x, const int32_t* starts) {
    for (int p = 0; p < kPanels; ++p) {
        Nibbles w;
        split<kFormat>(w, tile + p * panel_nbytes);
        CIERZO_UNROLL
        for (int r = 0; r < kRows; ++r) {
            const __m256i start = _mm256_set1_epi32(starts == nullptr ? 0 : starts[r]);
            __m256i sums[2];
            for (int half = 0; half < 2; ++half) {
                sums[half] = _mm256_add_epi32(start, dot_nibbles(w.low, x + r * 32, half));
                if constexpr (!is_int4(kFormat))
                    sums[half] = _mm256_add_epi32(
                        sums[half], _mm256_slli_epi32(dot_nibbles(w.high, x + r * 32, half), 4));
            }
            dots[p][r] = {sums[0], sums[1]};
        }
    }
}

#else

template <WeightFormat kFormat, int kRows, int kPanels>
inline void dot_rows(i32x16 (&dots)[kPanels][kRows], const uint8_t* tile, int64_t panel_nbytes,
                     const int8_t* x, const int32_t* starts) {
    for (int p = 0; p < kPanels; ++p) {
        uint8_t w[512];
        for (int i = 0; i < value_nbytes(kFormat); ++i) {
            const uint8_t byte = tile[p * panel_nbytes + i];
            w[i] = is_int4(kFormat) ? byte & 15 : byte;
            if constexpr (is_int4(kFormat)) w[i + 256] = byte >> 4;
        }
        for (int r = 0; r < kRows; ++r) {
            for (int32_t& lane : dots[p][r].v) lane = starts == nullptr ? 0 : starts[r];
            for (int j = 0; j < 8; ++j)
                for (int o = 0; o < kLanes; ++o)
                    for (int i = 0; i < 4; ++i)
                        dots[p][r].v[o] += int32_t(w[64 * j + 4 * o + i]) * x[r * 32 + 4 * j + i];
        }
    }
}

#endif

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
