// f32x16 as one zmm register.
// Included by simd.h, which says what the operations mean.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "half.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int kLanes = 16;

struct i32x16 {
    __m512i v;
};
struct f32x16 {
    __m512 v;
    static f32x16 zero() { return {_mm512_setzero_ps()}; }
    static f32x16 broadcast(float s) { return {_mm512_set1_ps(s)}; }
    static f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
    static f32x16 load_partial(const float* p, int n) {
        return {_mm512_maskz_loadu_ps(__mmask16((1u << n) - 1u), p)};
    }
    static f32x16 load_f16(const uint16_t* p) {
        return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
    }
    static f32x16 load_bf16(const uint16_t* p) {
        const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16))};
    }
    static f32x16 load_i8(const int8_t* p) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))};
    }
    void store(float* p) const { _mm512_storeu_ps(p, v); }
    void store_partial(float* p, int n) const {
        _mm512_mask_storeu_ps(p, __mmask16((1u << n) - 1u), v);
    }
};
inline f32x16 operator+(f32x16 a, f32x16 b) {
    return {_mm512_add_ps(a.v, b.v)};
}
inline f32x16 operator-(f32x16 a, f32x16 b) {
    return {_mm512_sub_ps(a.v, b.v)};
}
inline f32x16 operator*(f32x16 a, f32x16 b) {
    return {_mm512_mul_ps(a.v, b.v)};
}
inline f32x16 operator/(f32x16 a, f32x16 b) {
    return {_mm512_div_ps(a.v, b.v)};
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
inline f32x16 max(f32x16 a, f32x16 b) {
    return {_mm512_max_ps(a.v, b.v)};
}
inline f32x16 min(f32x16 a, f32x16 b) {
    return {_mm512_min_ps(a.v, b.v)};
}
inline f32x16 abs(f32x16 a) {
    return {_mm512_abs_ps(a.v)};
}
inline f32x16 select_less(f32x16 x, f32x16 limit, f32x16 if_less, f32x16 otherwise) {
    return {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), otherwise.v, if_less.v)};
}
inline i32x16 round_to_int(f32x16 a) {
    return {_mm512_cvtps_epi32(a.v)};
}
inline f32x16 to_float(i32x16 a) {
    return {_mm512_cvtepi32_ps(a.v)};
}
inline f32x16 exp2_int(i32x16 n) {
    return {
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
inline f32x16 reciprocal_guess(f32x16 a) {
    return {_mm512_castsi512_ps(
        _mm512_sub_epi32(_mm512_set1_epi32(0x7ef311c7), _mm512_castps_si512(a.v)))};
}
inline void store(int32_t* p, i32x16 a) {
    _mm512_storeu_si512(p, a.v);
}
inline f32x16 above_floor(f32x16 a) {
    return {_mm512_reduce_ps(a.v, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC)};
}
inline f32x16 times_exp2(f32x16 a, f32x16 x) {
    return {_mm512_scalef_ps(a.v, x.v)};
}
inline bool any_less(f32x16 a, f32x16 b) {
    return _mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ) != 0;
}
inline i32x16 load_i32(const int32_t* p) {
    return {_mm512_loadu_si512(p)};
}
inline i32x16 operator+(i32x16 a, i32x16 b) {
    return {_mm512_add_epi32(a.v, b.v)};
}
// Wraps, as rows that are not finite need: gcc's _mm512_reduce_add_epi32 ends in signed scalars.
inline int32_t reduce_add(i32x16 a) {
    const __m256i e =
        _mm256_add_epi32(_mm512_castsi512_si256(a.v), _mm512_extracti64x4_epi64(a.v, 1));
    __m128i q = _mm_add_epi32(_mm256_castsi256_si128(e), _mm256_extracti128_si256(e, 1));
    q = _mm_add_epi32(q, _mm_shuffle_epi32(q, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(q, _mm_shuffle_epi32(q, 0xb1)));
}
inline void store_i8(int8_t* p, i32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
inline void load_bf16_pairs(const uint16_t* p, f32x16& even, f32x16& odd) {
    const __m512i pairs = _mm512_loadu_si512(p);
    even.v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd.v = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int32_t(0xffff0000u))));
}
// Every lane's bf16 in its high half; the low half is left over.
inline __m512i round_to_bf16(f32x16 a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x7fff0000));
    return _mm512_mask_blend_epi32(nan, rounded, quiet);
}
inline void store_bf16(uint16_t* p, f32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(round_to_bf16(a), 16)));
}
inline void store_bf16_flushed(uint16_t* p, f32x16 a) {
#if CIERZO_ISA_LEVEL >= 3
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), __m256i(_mm512_cvtneps_pbh(a.v)));
#else
    store_bf16(p, a);
#endif
}
inline void store_bf16_pair(uint16_t* p, f32x16 a, f32x16 b) {
#if CIERZO_ISA_LEVEL >= 3
    _mm512_storeu_si512(p, __m512i(_mm512_cvtne2ps_pbh(b.v, a.v)));
#else
    store_bf16(p, a);
    store_bf16(p + kLanes, b);
#endif
}
inline void store_bf16_alternate(uint16_t* p, f32x16 a) {
    _mm512_mask_storeu_epi16(p, 0x55555555u, _mm512_srli_epi32(round_to_bf16(a), 16));
}
inline void store_bf16_pairs(uint16_t* p, f32x16 even, f32x16 odd) {
#if CIERZO_ISA_LEVEL >= 3
    alignas(64) static constexpr uint16_t kPairs[32] = {0,  16, 1,  17, 2,  18, 3,  19, 4,  20, 5,
                                                        21, 6,  22, 7,  23, 8,  24, 9,  25, 10, 26,
                                                        11, 27, 12, 28, 13, 29, 14, 30, 15, 31};
    _mm512_storeu_si512(p, _mm512_permutexvar_epi16(_mm512_load_si512(kPairs),
                                                    __m512i(_mm512_cvtne2ps_pbh(odd.v, even.v))));
#else
    store_bf16_alternate(p, even);
    _mm512_mask_storeu_epi16(p, 0xaaaaaaaau, round_to_bf16(odd));
#endif
}
inline float reduce_add(f32x16 a) {
    const __m256 e = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 q = _mm_add_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 d = _mm_add_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_add_ss(d, _mm_movehdup_ps(d)));
}
inline float reduce_max(f32x16 a) {
    const __m256 e = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    const __m128 q = _mm_max_ps(_mm256_castps256_ps128(e), _mm256_extractf128_ps(e, 1));
    const __m128 d = _mm_max_ps(q, _mm_movehl_ps(q, q));
    return _mm_cvtss_f32(_mm_max_ss(d, _mm_movehdup_ps(d)));
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
