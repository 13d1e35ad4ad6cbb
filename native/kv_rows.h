// Rows of keys and values, one token's of one kv head, in each type that the cache knows: how they
// are written into their block, and how vectors of them are read. All that the types differ in:
// kernels take Bf16Rows or Int8Rows as a template argument. kv_cache.h has the layouts.
#pragma once

#include <algorithm>
#include <cfloat>
#include <cstring>

#include "kv_cache.h"
#include "simd.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

inline constexpr int64_t kBlockSize = KVCache::kBlockSize;
inline constexpr int64_t kMaxHeadDim = KVCache::kMaxHeadDim;
static_assert(kBlockSize == kLanes, "a block's tokens are the lanes of a vector");

struct Bf16Rows {
    static void store_key(std::byte* plane, const float* k, int64_t head_dim, int64_t token) {
        uint16_t* keys = reinterpret_cast<uint16_t*>(plane) + token * 2;
        for (int64_t d = 0; d < head_dim; d += kLanes) {
            const int lanes = int(std::min<int64_t>(kLanes, head_dim - d));
            uint16_t rounded[kLanes];
            store_bf16(rounded, f32x16::load_partial(k + d, lanes));
            for (int i = 0; i < lanes; i += 2)
                std::memcpy(keys + (d + i) * kBlockSize, rounded + i, 4);
        }
    }
    static void store_value(std::byte* plane, const float* v, int64_t head_dim, int64_t token) {
        uint16_t* values = reinterpret_cast<uint16_t*>(plane) + token / 2 * 2 * head_dim;
        int64_t d = 0;
        for (; d + kLanes <= head_dim; d += kLanes)
            store_bf16_alternate(values + 2 * d + token % 2, f32x16::load(v + d));
        for (; d < head_dim; ++d) values[2 * d + token % 2] = f32_to_bf16(v[d]);
    }

    // Numbers d and d + 1 of all tokens' keys; d even.
    static void load_keys(const std::byte* plane, int64_t d, f32x16& even, f32x16& odd) {
        load_bf16_pairs(reinterpret_cast<const uint16_t*>(plane) + d * kLanes, even, odd);
    }
    // Numbers d to d + 15 of the values of tokens 2 * pair and 2 * pair + 1.
    static void load_values(const std::byte* plane, int64_t head_dim, int64_t pair, int64_t d,
                            f32x16& first, f32x16& second) {
        load_bf16_pairs(reinterpret_cast<const uint16_t*>(plane) + (pair * head_dim + d) * 2, first,
                        second);
    }

    // A plane in bf16: as it is. Int8Rows makes it in `wide`.
    static const uint16_t* keys_in_bf16(const std::byte* plane, int64_t, uint16_t*) {
        return reinterpret_cast<const uint16_t*>(plane);
    }
    static const uint16_t* values_in_bf16(const std::byte* plane, int64_t, uint16_t*) {
        return reinterpret_cast<const uint16_t*>(plane);
    }
};

struct Int8Rows {
    static void store_key(std::byte* plane, const float* k, int64_t head_dim, int64_t token) {
        alignas(64) int8_t integers[kMaxHeadDim];
        scales_of(plane, head_dim)[token] = quantize(integers, k, head_dim);
        for (int64_t d = 0; d < head_dim; ++d)
            plane[d * kBlockSize + token] = std::byte(integers[d]);
    }
    static void store_value(std::byte* plane, const float* v, int64_t head_dim, int64_t token) {
        alignas(64) int8_t integers[kMaxHeadDim];
        scales_of(plane, head_dim)[token] = quantize(integers, v, head_dim);
        std::memcpy(plane + token * head_dim, integers, size_t(head_dim));
    }

    // As Bf16Rows', but the integers: whoever uses them multiplies with scales().
    static void load_keys(const std::byte* plane, int64_t d, f32x16& even, f32x16& odd) {
        const int8_t* keys = reinterpret_cast<const int8_t*>(plane) + d * kBlockSize;
        even = f32x16::load_i8(keys);
        odd = f32x16::load_i8(keys + kBlockSize);
    }
    static void load_values(const std::byte* plane, int64_t head_dim, int64_t pair, int64_t d,
                            f32x16& first, f32x16& second) {
        const int8_t* values = reinterpret_cast<const int8_t*>(plane) + 2 * pair * head_dim + d;
        first = f32x16::load_i8(values);
        second = f32x16::load_i8(values + head_dim);
    }
    // Lanes are the block's tokens.
    static f32x16 scales(const std::byte* plane, int64_t head_dim) {
        return f32x16::load_bf16(scales_of(plane, head_dim));
    }

    // Integers times their scales, laid out as Bf16Rows has them.
    static const uint16_t* keys_in_bf16(const std::byte* plane, int64_t head_dim, uint16_t* wide) {
        const f32x16 block_scales = scales(plane, head_dim);
        for (int64_t d = 0; d < head_dim; d += 2) {
            f32x16 even, odd;
            load_keys(plane, d, even, odd);
            store_bf16_pairs(wide + d * kLanes, even * block_scales, odd * block_scales);
        }
        return wide;
    }
    // `wide` has room for rows of whole vectors.
    static const uint16_t* values_in_bf16(const std::byte* plane, int64_t head_dim,
                                          uint16_t* wide) {
        const uint16_t* scales = scales_of(plane, head_dim);
        for (int64_t pair = 0; pair < kBlockSize / 2; ++pair) {
            const f32x16 first_scale = f32x16::broadcast(bf16_to_f32(scales[2 * pair]));
            const f32x16 second_scale = f32x16::broadcast(bf16_to_f32(scales[2 * pair + 1]));
            for (int64_t d = 0; d < head_dim; d += kLanes) {
                f32x16 first, second;
                load_values(plane, head_dim, pair, d, first, second);
                store_bf16_pairs(wide + (pair * head_dim + d) * 2, first * first_scale,
                                 second * second_scale);
            }
        }
        return wide;
    }

  private:
    static uint16_t* scales_of(std::byte* plane, int64_t head_dim) {
        return reinterpret_cast<uint16_t*>(plane + KVCache::scales_at(head_dim));
    }
    static const uint16_t* scales_of(const std::byte* plane, int64_t head_dim) {
        return reinterpret_cast<const uint16_t*>(plane + KVCache::scales_at(head_dim));
    }

    // A row's integers, round(x / scale), half to even; returns the scale, max |x| / 127 in bf16.
    // The integers are 0 where the scale is none or denormal, the scale is NaN where x is not
    // finite.
    static uint16_t quantize(int8_t* integers, const float* x, int64_t head_dim) {
        constexpr uint16_t kNaN = 0x7fff;
        const auto load = [&](int64_t d) {
            return f32x16::load_partial(x + d, int(std::min<int64_t>(kLanes, head_dim - d)));
        };
        f32x16 largest = f32x16::zero(), zeros = f32x16::zero();
        for (int64_t d = 0; d < head_dim; d += kLanes) {
            largest = max(largest, abs(load(d)));
            zeros = fma(load(d), f32x16::zero(), zeros);
        }
        const bool is_finite = reduce_add(zeros) == 0.0f;
        const float exact = reduce_max(largest) / 127.0f;
        const uint16_t scale = !is_finite ? kNaN : exact < FLT_MIN ? 0 : f32_to_bf16(exact);
        const float factor = is_finite && scale != 0 ? 1.0f / bf16_to_f32(scale) : 0.0f;
        const f32x16 inverse = f32x16::broadcast(factor);
        const f32x16 most = f32x16::broadcast(127.0f), least = f32x16::broadcast(-127.0f);
        for (int64_t d = 0; d < head_dim; d += kLanes) {
            // The bounds are for rows that are not finite: others stay within by the scale.
            const f32x16 scaled = min(max(load(d) * inverse, least), most);
            store_i8(integers + d, round_to_int(scaled));
        }
        return scale;
    }
};

// f(Bf16Rows()) or f(Int8Rows()).
template <class F>
inline auto with_rows(KVType type, const F& f) {
    return type == KVType::kInt8 ? f(Int8Rows()) : f(Bf16Rows());
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
