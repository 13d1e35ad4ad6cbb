// f32x16 as two ymm registers.
// Included by simd.h, which says what the operations mean.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "half.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int kLanes = 16;

struct i32x16 {
    __m256i lo, hi;
};
struct f32x16 {
    __m256 lo, hi;
    static f32x16 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static f32x16 broadcast(float s) { return {_mm256_set1_ps(s), _mm256_set1_ps(s)}; }
    static f32x16 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static f32x16 load_partial(const float* p, int n) {
        float lanes[kLanes] = {};
        std::memcpy(lanes, p, size_t(n) * sizeof(float));
        return load(lanes);
    }
    static f32x16 load_f16(const uint16_t* p) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
    }
    static f32x16 load_bf16(const uint16_t* p) {
        const __m128i a = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        const __m128i b = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8));
        return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(a), 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(b), 16))};
    }
    static f32x16 load_i8(const int8_t* p) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
    }
    void store(float* p) const {
        _mm256_storeu_ps(p, lo);
        _mm256_storeu_ps(p + 8, hi);
    }
    void store_partial(float* p, int n) const {
        float lanes[kLanes];
        store(lanes);
        std::memcpy(p, lanes, size_t(n) * sizeof(float));
    }
};
inline f32x16 operator+(f32x16 a, f32x16 b) {
    return {_mm256_add_ps(a.lo, b.lo), _mm256_add_ps(a.hi, b.hi)};
}
inline f32x16 operator-(f32x16 a, f32x16 b) {
    return {_mm256_sub_ps(a.lo, b.lo), _mm256_sub_ps(a.hi, b.hi)};
}
inline f32x16 operator*(f32x16 a, f32x16 b) {
    return {_mm256_mul_ps(a.lo, b.lo), _mm256_mul_ps(a.hi, b.hi)};
}
inline f32x16 operator/(f32x16 a, f32x16 b) {
    return {_mm256_div_ps(a.lo, b.lo), _mm256_div_ps(a.hi, b.hi)};
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return {_mm256_fmadd_ps(a.lo, b.lo, c.lo), _mm256_fmadd_ps(a.hi, b.hi, c.hi)};
}
inline f32x16 max(f32x16 a, f32x16 b) {
    return {_mm256_max_ps(a.lo, b.lo), _mm256_max_ps(a.hi, b.hi)};
}
inline f32x16 min(f32x16 a, f32x16 b) {
    return {_mm256_min_ps(a.lo, b.lo), _mm256_min_ps(a.hi, b.hi)};
}
inline f32x16 abs(f32x16 a) {
    const __m256 m = _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff));
    return {_mm256_and_ps(a.lo, m), _mm256_and_ps(a.hi, m)};
}
inline f32x16 select_less(f32x16 x, f32x16 limit, f32x16 if_less, f32x16 otherwise) {
    return {_mm256_blendv_ps(otherwise.lo, if_less.lo, _mm256_cmp_ps(x.lo, limit.lo, _CMP_LT_OQ)),
            _mm256_blendv_ps(otherwise.hi, if_less.hi, _mm256_cmp_ps(x.hi, limit.hi, _CMP_LT_OQ))};
}
inline i32x16 round_to_int(f32x16 a) {
    return {_mm256_cvtps_epi32(a.lo), _mm256_cvtps_epi32(a.hi)};
}
inline f32x16 to_float(i32x16 a) {
    return {_mm256_cvtepi32_ps(a.lo), _mm256_cvtepi32_ps(a.hi)};
}
inline f32x16 exp2_int(i32x16 n) {
    const __m256i bias = _mm256_set1_epi32(127);
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.lo, bias), 23)),
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n.hi, bias), 23))};
}
inline f32x16 reciprocal_guess(f32x16 a) {
    const __m256i magic = _mm256_set1_epi32(0x7ef311c7);
    return {_mm256_castsi256_ps(_mm256_sub_epi32(magic, _mm256_castps_si256(a.lo))),
            _mm256_castsi256_ps(_mm256_sub_epi32(magic, _mm256_castps_si256(a.hi)))};
}
inline void store(int32_t* p, i32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
}
inline f32x16 floor(f32x16 a) {
    return {_mm256_floor_ps(a.lo), _mm256_floor_ps(a.hi)};
}
inline bool any_less(f32x16 a, f32x16 b) {
    const __m256 either =
        _mm256_or_ps(_mm256_cmp_ps(a.lo, b.lo, _CMP_LT_OQ), _mm256_cmp_ps(a.hi, b.hi, _CMP_LT_OQ));
    return _mm256_movemask_ps(either) != 0;
}
inline i32x16 load_i32(const int32_t* p) {
    return {_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)),
            _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8))};
}
inline i32x16 operator+(i32x16 a, i32x16 b) {
    return {_mm256_add_epi32(a.lo, b.lo), _mm256_add_epi32(a.hi, b.hi)};
}
inline int32_t reduce_add(i32x16 a) {
    const __m256i e = _mm256_add_epi32(a.lo, a.hi);
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
inline void store_i8(int8_t* p, i32x16 a) {
    // Values fit int8, so the saturating packs only move bytes; the permute undoes their lane
    // order.
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a.lo, a.hi), 0xd8);
    const __m128i bytes =
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), bytes);
}
inline void load_bf16_pairs(const uint16_t* p, f32x16& even, f32x16& odd) {
    const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 16));
    const __m256i high = _mm256_set1_epi32(int32_t(0xffff0000u));
    even.lo = _mm256_castsi256_ps(_mm256_slli_epi32(a, 16));
    even.hi = _mm256_castsi256_ps(_mm256_slli_epi32(b, 16));
    odd.lo = _mm256_castsi256_ps(_mm256_and_si256(a, high));
    odd.hi = _mm256_castsi256_ps(_mm256_and_si256(b, high));
}
inline void store_bf16(uint16_t* p, f32x16 a) {
    float lanes[kLanes];
    a.store(lanes);
    for (int i = 0; i < kLanes; ++i) p[i] = f32_to_bf16(lanes[i]);
}
inline void store_bf16_flushed(uint16_t* p, f32x16 a) {
    store_bf16(p, a);
}
inline void store_bf16_pair(uint16_t* p, f32x16 a, f32x16 b) {
    store_bf16(p, a);
    store_bf16(p + kLanes, b);
}
inline void store_bf16_alternate(uint16_t* p, f32x16 a) {
    uint16_t lanes[kLanes];
    store_bf16(lanes, a);
    for (int i = 0; i < kLanes; ++i) p[2 * i] = lanes[i];
}
inline void store_bf16_pairs(uint16_t* p, f32x16 even, f32x16 odd) {
    store_bf16_alternate(p, even);
    store_bf16_alternate(p + 1, odd);
}
inline float reduce_add(f32x16 a) {
    const __m256 e = _mm256_add_ps(a.lo, a.hi);
    const __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float reduce_max(f32x16 a) {
    const __m256 e = _mm256_max_ps(a.lo, a.hi);
    const __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
