// Weights to int4 (affine) or int8 (symmetric) in groups of 32: done once, when a model is packed.
#include "kernel_functions.h"
#include "simd.h"
#include "thread_pool.h"

namespace cierzo::CIERZO_ISA_NAMESPACE {

namespace {

// One group's 32 weights. A short last group repeats its last weight, which changes no range.
struct Group {
    f32x16 a, b;
};

Group load_group(const float* w, int64_t n) {
    if (n >= kGroup) return {f32x16::load(w), f32x16::load(w + 16)};
    float padded[kGroup];
    for (int64_t i = 0; i < kGroup; ++i) padded[i] = w[i < n ? i : n - 1];
    return {f32x16::load(padded), f32x16::load(padded + 16)};
}

f32x16 clamp(f32x16 x, float low, float high) {
    return min(max(x, f32x16::broadcast(low)), f32x16::broadcast(high));
}

void store_values(uint8_t* out, const Group& q, int64_t n, int32_t zero) {
    int32_t lanes[kGroup];
    store(lanes, round_to_int(q.a));
    store(lanes + 16, round_to_int(q.b));
    for (int64_t i = 0; i < (n < kGroup ? n : kGroup); ++i) out[i] = uint8_t(lanes[i] + zero);
}

// (w - minimum) / scale, rounded and held in 0..15.
Group quantized4(const Group& w, float scale, float minimum) {
    const f32x16 inverse = f32x16::broadcast(scale > 0.0f ? 1.0f / scale : 0.0f);
    const f32x16 m = f32x16::broadcast(minimum);
    return {to_float(round_to_int(clamp((w.a - m) * inverse, 0.0f, 15.0f))),
            to_float(round_to_int(clamp((w.b - m) * inverse, 0.0f, 15.0f)))};
}

float squared_error(const Group& w, const Group& q, float scale, float minimum) {
    const f32x16 s = f32x16::broadcast(scale), m = f32x16::broadcast(minimum);
    const f32x16 da = fma(q.a, s, m) - w.a;
    const f32x16 db = fma(q.b, s, m) - w.b;
    return reduce_add(fma(db, db, da * da));
}

struct Line {
    float scale, minimum;
};

// The least-squares line through (q, w), or `otherwise` where all q are equal.
Line fit(const Group& w, const Group& q, Line otherwise) {
    const float n = float(kGroup);
    const float sum_q = reduce_add(q.a + q.b);
    const float sum_w = reduce_add(w.a + w.b);
    const float sum_qq = reduce_add(fma(q.b, q.b, q.a * q.a));
    const float sum_qw = reduce_add(fma(q.b, w.b, q.a * w.a));
    const float determinant = n * sum_qq - sum_q * sum_q;
    if (!(determinant > 0.0f)) return otherwise;
    const float scale = (n * sum_qw - sum_q * sum_w) / determinant;
    if (!(scale > 0.0f)) return otherwise;
    return {scale, (sum_w - scale * sum_q) / n};
}

Line rounded(Line line) {
    return {f16_to_f32(f32_to_f16(line.scale)), f16_to_f32(f32_to_f16(line.minimum))};
}

// Tries steps somewhat finer and coarser than range / 15 (clipping the outermost weights often
// costs less than a coarser step for all), refits each by least squares, keeps the best after
// rounding to f16.
Line best_line(const Group& w) {
    const float low = -reduce_max(max(f32x16::zero() - w.a, f32x16::zero() - w.b));
    const float high = reduce_max(max(w.a, w.b));
    Line best = rounded({(high - low) / 15.0f, low});
    float best_error =
        squared_error(w, quantized4(w, best.scale, best.minimum), best.scale, best.minimum);
    for (int step = 0; step < 12 && best_error > 0.0f; ++step) {
        const Line trial = {(high - low) / (14.0f + 0.25f * float(step)), low};
        const Line line = rounded(fit(w, quantized4(w, trial.scale, trial.minimum), trial));
        const float error =
            squared_error(w, quantized4(w, line.scale, line.minimum), line.scale, line.minimum);
        if (error < best_error) {
            best = line;
            best_error = error;
        }
    }
    return best;
}

void quantize_row4(const QuantizeArgs& a, int64_t row) {
    const int64_t groups = (a.n_in + kGroup - 1) / kGroup;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t n = a.n_in - g * kGroup;
        const Group w = load_group(a.weights + row * a.n_in + g * kGroup, n);
        const Line line = best_line(w);
        store_values(a.values + row * a.n_in + g * kGroup, quantized4(w, line.scale, line.minimum),
                     n, 0);
        a.scales[row * groups + g] = f32_to_f16(line.scale);
        a.minimums[row * groups + g] = f32_to_f16(line.minimum);
    }
}

void quantize_row8(const QuantizeArgs& a, int64_t row) {
    const int64_t groups = (a.n_in + kGroup - 1) / kGroup;
    for (int64_t g = 0; g < groups; ++g) {
        const int64_t n = a.n_in - g * kGroup;
        const Group w = load_group(a.weights + row * a.n_in + g * kGroup, n);
        const float largest = reduce_max(max(abs(w.a), abs(w.b)));
        const uint16_t scale = f32_to_f16(largest / 127.0f);
        const float s = f16_to_f32(scale);
        const f32x16 inverse = f32x16::broadcast(s > 0.0f ? 1.0f / s : 0.0f);
        const Group q = {clamp(w.a * inverse, -127.0f, 127.0f),
                         clamp(w.b * inverse, -127.0f, 127.0f)};
        store_values(a.values + row * a.n_in + g * kGroup, q, n, 128);
        a.scales[row * groups + g] = scale;
    }
}

}  // namespace

void quantize(const QuantizeArgs& a) {
    ThreadPool::instance().parallel_for_dynamic(a.n_out, 8, [&](int64_t begin, int64_t end) {
        for (int64_t row = begin; row < end; ++row) {
            if (a.bits == 4)
                quantize_row4(a, row);
            else
                quantize_row8(a, row);
        }
    });
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
