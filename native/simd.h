// Sixteen float lanes, written once and compiled per instruction set: one zmm, two ymm, or an
// array.
//
// Every operation is an IEEE operation with the same rounding everywhere (fma is fused everywhere),
// and reductions fold in one fixed order, so a kernel written over f32x16 gives the same bits on
// every instruction set. Included by kernel sources only; knows nothing of tensors or threads.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

#if CIERZO_ISA_LEVEL >= 1
#include <immintrin.h>
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int kLanes = 16;

// Asks for a cache line; any address will do.
inline void prefetch(const void* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}

#if CIERZO_ISA_LEVEL >= 2

struct i32x16 {
    __m512i v;
};
struct f32x16 {
    __m512 v;
    static f32x16 zero() { return {_mm512_setzero_ps()}; }
    static f32x16 broadcast(float s) { return {_mm512_set1_ps(s)}; }
    static f32x16 load(const float* p) { return {_mm512_loadu_ps(p)}; }
    // Lanes n and above are zero and not read; 0 <= n <= 16.
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
// a * b + c with one rounding.
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
}
// a > b ? a : b in every lane (so b where either is NaN).
inline f32x16 max(f32x16 a, f32x16 b) {
    return {_mm512_max_ps(a.v, b.v)};
}
inline f32x16 min(f32x16 a, f32x16 b) {
    return {_mm512_min_ps(a.v, b.v)};
}
inline f32x16 abs(f32x16 a) {
    return {_mm512_abs_ps(a.v)};
}
// x < limit ? if_less : otherwise.
inline f32x16 select_less(f32x16 x, f32x16 limit, f32x16 if_less, f32x16 otherwise) {
    return {
        _mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), otherwise.v, if_less.v)};
}
// Round half to even; |x| must be below 2^22.
inline i32x16 round_to_int(f32x16 a) {
    return {_mm512_cvtps_epi32(a.v)};
}
inline f32x16 to_float(i32x16 a) {
    return {_mm512_cvtepi32_ps(a.v)};
}
// 2^n for -126 <= n <= 127.
inline f32x16 exp2_int(i32x16 n) {
    return {
        _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_add_epi32(n.v, _mm512_set1_epi32(127)), 23))};
}
inline void store(int32_t* p, i32x16 a) {
    _mm512_storeu_si512(p, a.v);
}
inline i32x16 load_i32(const int32_t* p) {
    return {_mm512_loadu_si512(p)};
}
// Wraps around, so that rows which are not finite stay harmless.
inline i32x16 operator+(i32x16 a, i32x16 b) {
    return {_mm512_add_epi32(a.v, b.v)};
}
inline int32_t reduce_add(i32x16 a) {
    return _mm512_reduce_add_epi32(a.v);
}
// The low byte of every lane.
inline void store_i8(int8_t* p, i32x16 a) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(a.v));
}
// 32 bf16 as pairs: lane i of `even` is p[2 i], of `odd` p[2 i + 1].
inline void load_bf16_pairs(const uint16_t* p, f32x16& even, f32x16& odd) {
    const __m512i pairs = _mm512_loadu_si512(p);
    even.v = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    odd.v = _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(int32_t(0xffff0000u))));
}
inline void store_bf16(uint16_t* p, f32x16 a) {
    const __m512i bits = _mm512_castps_si512(a.v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q);
    const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x7fff0000));
    const __m512i result = _mm512_mask_blend_epi32(nan, rounded, quiet);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16)));
}
// Lanes fold 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half.
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

#elif CIERZO_ISA_LEVEL == 1

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
inline void store(int32_t* p, i32x16 a) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a.lo);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 8), a.hi);
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

#else

struct i32x16 {
    int32_t v[kLanes];
};
struct f32x16 {
    float v[kLanes];
    static f32x16 zero() { return {}; }
    static f32x16 broadcast(float s) {
        f32x16 r;
        for (float& lane : r.v) lane = s;
        return r;
    }
    static f32x16 load(const float* p) {
        f32x16 r;
        std::memcpy(r.v, p, sizeof r.v);
        return r;
    }
    static f32x16 load_partial(const float* p, int n) {
        f32x16 r = {};
        std::memcpy(r.v, p, size_t(n) * sizeof(float));
        return r;
    }
    static f32x16 load_f16(const uint16_t* p) {
        f32x16 r;
        for (int i = 0; i < kLanes; ++i) r.v[i] = f16_to_f32(p[i]);
        return r;
    }
    static f32x16 load_bf16(const uint16_t* p) {
        f32x16 r;
        for (int i = 0; i < kLanes; ++i) r.v[i] = bf16_to_f32(p[i]);
        return r;
    }
    void store(float* p) const { std::memcpy(p, v, sizeof v); }
    void store_partial(float* p, int n) const { std::memcpy(p, v, size_t(n) * sizeof(float)); }
};
template <class F>
inline f32x16 map_lanes(F f) {
    f32x16 r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = f(i);
    return r;
}
inline f32x16 operator+(f32x16 a, f32x16 b) {
    return map_lanes([&](int i) { return a.v[i] + b.v[i]; });
}
inline f32x16 operator-(f32x16 a, f32x16 b) {
    return map_lanes([&](int i) { return a.v[i] - b.v[i]; });
}
inline f32x16 operator*(f32x16 a, f32x16 b) {
    return map_lanes([&](int i) { return a.v[i] * b.v[i]; });
}
inline f32x16 operator/(f32x16 a, f32x16 b) {
    return map_lanes([&](int i) { return a.v[i] / b.v[i]; });
}
inline f32x16 fma(f32x16 a, f32x16 b, f32x16 c) {
    return map_lanes([&](int i) { return std::fma(a.v[i], b.v[i], c.v[i]); });
}
inline f32x16 max(f32x16 a, f32x16 b) {
    return map_lanes([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x16 min(f32x16 a, f32x16 b) {
    return map_lanes([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
inline f32x16 abs(f32x16 a) {
    return map_lanes([&](int i) { return std::fabs(a.v[i]); });
}
inline f32x16 select_less(f32x16 x, f32x16 limit, f32x16 if_less, f32x16 otherwise) {
    return map_lanes([&](int i) { return x.v[i] < limit.v[i] ? if_less.v[i] : otherwise.v[i]; });
}
inline i32x16 round_to_int(f32x16 a) {
    // Adding 1.5 * 2^23 leaves the integer, rounded half to even, in the low mantissa bits.
    i32x16 r;
    for (int i = 0; i < kLanes; ++i) {
        const float shifted = a.v[i] + 0x1.8p23f;
        uint32_t bits;
        std::memcpy(&bits, &shifted, 4);
        r.v[i] = int32_t(bits - 0x4b400000u);
    }
    return r;
}
inline f32x16 to_float(i32x16 a) {
    return map_lanes([&](int i) { return float(a.v[i]); });
}
inline f32x16 exp2_int(i32x16 n) {
    return map_lanes([&](int i) {
        const uint32_t bits = uint32_t(n.v[i] + 127) << 23;
        float f;
        std::memcpy(&f, &bits, 4);
        return f;
    });
}
inline void store(int32_t* p, i32x16 a) {
    std::memcpy(p, a.v, sizeof a.v);
}
inline i32x16 load_i32(const int32_t* p) {
    i32x16 r;
    std::memcpy(r.v, p, sizeof r.v);
    return r;
}
inline i32x16 operator+(i32x16 a, i32x16 b) {
    for (int i = 0; i < kLanes; ++i) a.v[i] = int32_t(uint32_t(a.v[i]) + uint32_t(b.v[i]));
    return a;
}
inline int32_t reduce_add(i32x16 a) {
    uint32_t sum = 0;
    for (int i = 0; i < kLanes; ++i) sum += uint32_t(a.v[i]);
    return int32_t(sum);
}
inline void store_i8(int8_t* p, i32x16 a) {
    for (int i = 0; i < kLanes; ++i) p[i] = int8_t(a.v[i]);
}
inline void load_bf16_pairs(const uint16_t* p, f32x16& even, f32x16& odd) {
    for (int i = 0; i < kLanes; ++i) {
        even.v[i] = bf16_to_f32(p[2 * i]);
        odd.v[i] = bf16_to_f32(p[2 * i + 1]);
    }
}
inline void store_bf16(uint16_t* p, f32x16 a) {
    for (int i = 0; i < kLanes; ++i) p[i] = f32_to_bf16(a.v[i]);
}
inline float reduce_add(f32x16 a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
    return a.v[0];
}
inline float reduce_max(f32x16 a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

#endif

// e^x to about 1 ulp; exactly 0 below -87 (-inf included), and held at e^88 above 88, so it is
// never infinite. NaN gives an unspecified number.
inline f32x16 exp(f32x16 x) {
    const f32x16 lowest = f32x16::broadcast(-87.0f);
    const f32x16 clamped = min(max(x, lowest), f32x16::broadcast(88.0f));
    const i32x16 n = round_to_int(clamped * f32x16::broadcast(1.44269504f));
    const f32x16 nf = to_float(n);
    // ln 2 in two parts: the first has few mantissa bits, so that n * part is exact.
    f32x16 r = fma(nf, f32x16::broadcast(-0.693359375f), clamped);
    r = fma(nf, f32x16::broadcast(2.12194440e-4f), r);
    f32x16 p = f32x16::broadcast(1.9875691500e-4f);
    p = fma(p, r, f32x16::broadcast(1.3981999507e-3f));
    p = fma(p, r, f32x16::broadcast(8.3334519073e-3f));
    p = fma(p, r, f32x16::broadcast(4.1665795894e-2f));
    p = fma(p, r, f32x16::broadcast(1.6666665459e-1f));
    p = fma(p, r, f32x16::broadcast(5.0000001201e-1f));
    p = fma(p, r * r, r + f32x16::broadcast(1.0f));
    return select_less(x, lowest, f32x16::zero(), p * exp2_int(n));
}

// x * sigmoid(x).
inline f32x16 silu(f32x16 x) {
    const f32x16 one = f32x16::broadcast(1.0f);
    return x / (one + exp(f32x16::zero() - x));
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
