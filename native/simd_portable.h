// f32x16 as an array of sixteen floats.
// Included by simd.h, which says what the operations mean.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "half.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int kLanes = 16;

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
    static f32x16 load_i8(const int8_t* p) {
        f32x16 r;
        for (int i = 0; i < kLanes; ++i) r.v[i] = float(p[i]);
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
inline f32x16 reciprocal_guess(f32x16 a) {
    return map_lanes([&](int i) {
        uint32_t bits;
        std::memcpy(&bits, &a.v[i], 4);
        bits = 0x7ef311c7u - bits;
        float f;
        std::memcpy(&f, &bits, 4);
        return f;
    });
}
inline void store(int32_t* p, i32x16 a) {
    std::memcpy(p, a.v, sizeof a.v);
}
inline f32x16 floor(f32x16 a) {
    f32x16 r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = std::floor(a.v[i]);
    return r;
}
inline bool any_less(f32x16 a, f32x16 b) {
    bool any = false;
    for (int i = 0; i < kLanes; ++i) any |= a.v[i] < b.v[i];
    return any;
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
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] + a.v[i + half];
    return a.v[0];
}
inline float reduce_max(f32x16 a) {
    for (int half = kLanes / 2; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) a.v[i] = a.v[i] > a.v[i + half] ? a.v[i] : a.v[i + half];
    return a.v[0];
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
