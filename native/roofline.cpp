// What this instruction set can do at best, for measuring it: reads that keep every byte, products
// that keep none. Bursts of one thread's work; ops_roofline.cpp times them.
#include <cstring>

#include "kernel_functions.h"
#include "simd.h"

#if CIERZO_ISA_LEVEL >= 3
#include "amx.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// Makes the compiler forget what it knows of a value, so that work on it stays in its loop.
template <class T>
inline void forget(T& value) {
#if CIERZO_ISA_LEVEL >= 2
    asm volatile("" : "+v"(value));
#elif CIERZO_ISA_LEVEL == 1
    asm volatile("" : "+x"(value));
#else
    asm volatile("" : "+m"(value));
#endif
}

int64_t f32_burst(int64_t steps, uint8_t* scratch) {
    // As many chains as hide a latency of four at two a cycle and stay in registers.
    constexpr int kChains = CIERZO_ISA_LEVEL >= 2 ? 12 : 5;
    const f32x16 a = f32x16::broadcast(0.5f), b = f32x16::broadcast(0.25f);
    f32x16 sums[kChains];
    for (f32x16& sum : sums) sum = f32x16::zero();
    for (int64_t i = 0; i < steps; ++i)
        for (f32x16& sum : sums) sum = fma(a, b, sum);
    f32x16 total = f32x16::zero();
    for (const f32x16& sum : sums) total = total + sum;
    total.store(reinterpret_cast<float*>(scratch));
    return steps * kChains * 16;
}

#if CIERZO_ISA_LEVEL >= 2
int64_t int8_burst(int64_t steps, uint8_t* scratch) {
    constexpr int kChains = 12;
    __m512i a = _mm512_set1_epi8(3), b = _mm512_set1_epi8(5);
    __m512i sums[kChains];
    for (__m512i& sum : sums) sum = _mm512_setzero_si512();
    for (int64_t i = 0; i < steps; ++i) {
        forget(a);
        for (__m512i& sum : sums) sum = _mm512_dpbusd_epi32(sum, a, b);
    }
    for (int i = 1; i < kChains; ++i) sums[0] = _mm512_add_epi32(sums[0], sums[i]);
    _mm512_storeu_si512(scratch, sums[0]);
    return steps * kChains * 64;
}
#elif CIERZO_ISA_LEVEL == 1
int64_t int8_burst(int64_t steps, uint8_t* scratch) {
    constexpr int kChains = 6;
    __m256i a = _mm256_set1_epi8(3), b = _mm256_set1_epi8(5);
    const __m256i ones = _mm256_set1_epi16(1);
    __m256i sums[kChains];
    for (__m256i& sum : sums) sum = _mm256_setzero_si256();
    for (int64_t i = 0; i < steps; ++i)
        for (__m256i& sum : sums) {
            forget(a);
            const __m256i pairs = _mm256_maddubs_epi16(a, b);
            sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, ones));
        }
    for (int i = 1; i < kChains; ++i) sums[0] = _mm256_add_epi32(sums[0], sums[i]);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(scratch), sums[0]);
    return steps * kChains * 32;
}
#else
int64_t int8_burst(int64_t steps, uint8_t* scratch) {
    int8_t a[16], b[16];
    int32_t sums[16] = {};
    std::memset(a, 3, sizeof a);
    std::memset(b, 5, sizeof b);
    for (int64_t i = 0; i < steps; ++i) {
        forget(a);
        for (int k = 0; k < 16; ++k) sums[k] += int32_t(a[k]) * b[k];
    }
    std::memcpy(scratch, sums, sizeof sums);
    return steps * 16;
}
#endif

#if CIERZO_ISA_LEVEL >= 3
template <bool kBf16>
inline void four_tile_dots() {
    if constexpr (kBf16) {
        tile_dot_bf16<0, 4, 6>();
        tile_dot_bf16<1, 4, 7>();
        tile_dot_bf16<2, 5, 6>();
        tile_dot_bf16<3, 5, 7>();
    } else {
        tile_dot_ss<0, 4, 6>();
        tile_dot_ss<1, 4, 7>();
        tile_dot_ss<2, 5, 6>();
        tile_dot_ss<3, 5, 7>();
    }
}

// 2 x 2 tiles of results, the most that eight registers hold with their operands. These come from
// the first-level cache at every step, as in a product at its best, or stay in their registers.
template <bool kBf16, bool kFromL1>
int64_t tile_burst(int64_t steps, uint8_t* scratch) {
    constexpr int64_t kTile = 1024, kStream = kRooflineScratch / 4;
    const TileScope tiles(WeightFormat::kBf16);  // all tiles whole, for bytes too
    tile_zero<0>(), tile_zero<1>(), tile_zero<2>(), tile_zero<3>();
    for (int64_t i = 0; i < steps; ++i) {
        if (kFromL1 || i == 0) {
            const uint8_t* at = scratch + i * kTile % kStream;
            tile_load<4>(at, 64);
            tile_load<6>(at + kStream, 64);
            tile_load<7>(at + 2 * kStream, 64);
            tile_load<5>(at + 3 * kStream, 64);
        }
        four_tile_dots<kBf16>();
    }
    return steps * 4 * 16 * 16 * (kBf16 ? 32 : 64);
}
#endif

}  // namespace

int64_t multiply_burst(MultiplyUnit unit, int64_t steps, uint8_t* scratch) {
    switch (unit) {
        case MultiplyUnit::kF32:
            return f32_burst(steps, scratch);
        case MultiplyUnit::kInt8:
            return int8_burst(steps, scratch);
#if CIERZO_ISA_LEVEL >= 3
        case MultiplyUnit::kTileInt8:
            return tile_burst<false, false>(steps, scratch);
        case MultiplyUnit::kTileInt8FromL1:
            return tile_burst<false, true>(steps, scratch);
        case MultiplyUnit::kTileBf16:
            return tile_burst<true, false>(steps, scratch);
        case MultiplyUnit::kTileBf16FromL1:
            return tile_burst<true, true>(steps, scratch);
#else
        default:
            return 0;
#endif
    }
    return 0;
}

// Four streams side by side: a single one leaves some of the core's outstanding reads unused.
uint64_t read_burst(const uint8_t* p, int64_t nbytes) {
    constexpr int kStreams = 4;
    constexpr int64_t kStep = 512;
    const int64_t part = nbytes / kStreams / kStep * kStep;
    i32x16 sums[8];
    const int32_t zeros[16] = {};
    for (i32x16& sum : sums) sum = load_i32(zeros);
    for (int64_t i = 0; i < part; i += kStep)
        for (int stream = 0; stream < kStreams; ++stream)
            for (int k = 0; k < 8; ++k)
                sums[k] =
                    sums[k] +
                    load_i32(reinterpret_cast<const int32_t*>(p + stream * part + i + k * 64));
    int64_t total = 0;
    for (const i32x16& sum : sums) total += reduce_add(sum);
    return uint64_t(total);
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
