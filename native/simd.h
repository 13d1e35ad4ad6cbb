// Sixteen float lanes, written once and compiled per instruction set: one zmm, two ymm, or an
// array.
//
// Every operation is an IEEE operation with the same rounding everywhere (fma is fused everywhere),
// and reductions fold in one fixed order, so a kernel written over f32x16 gives the same bits on
// every instruction set. Included by kernel sources only; knows nothing of tensors or threads.
#pragma once

#include <cfloat>
#include <cstdint>

// Each defines i32x16, f32x16 and their operations. Meanings that the names do not say:
//   fma(a, b, c)         a * b + c with one rounding
//   max, min             a > b ? a : b and a < b ? a : b, so b where either is NaN
//   select_less          x < limit ? if_less : otherwise
//   round_to_int         half to even; |x| must be below 2^22
//   above_floor(x)       x less the greatest integer not above it, rounded down; of infinity 0
//   exp2_int             2^n for -126 <= n <= 127; 0 at -127, infinite at 128
//   reciprocal_guess     of normal numbers above 0, to 12 %
//   times_exp2(a, x)     a * 2^n, n the greatest integer not above x, a in [1, 2]; 0 where that is
//                        denormal (inside a region), infinite from x = 128 on
//   load_partial(p, n)   lanes n and above are zero and not read; 0 <= n <= 16
//   load_bf16_pairs      lane i of `even` is p[2 i], of `odd` p[2 i + 1]
//   store_bf16_flushed   16 values; denormals may become zeros
//   store_bf16_pair      the same of 32 values: those of a, then those of b
//   store_bf16_alternate lane i to p[2 i]; what lies between is left alone
//   store_bf16_pairs     undoes load_bf16_pairs; denormals may become zeros
//   store_i8             the low byte of every lane
//   i32x16 sums          wrap around
//   reduce_add, _max     fold 16 -> 8 -> 4 -> 2 -> 1, lane i with lane i + half
#if CIERZO_ISA_LEVEL >= 2
#include "simd_avx512.h"
#elif CIERZO_ISA_LEVEL == 1
#include "simd_avx2.h"
#else
#include "simd_portable.h"
#endif

namespace cierzo::CIERZO_ISA_NAMESPACE {

#if CIERZO_ISA_LEVEL < 2
// What AVX-512 has instructions for.
inline f32x16 above_floor(f32x16 a) {
    const f32x16 n = floor(a), f = a - n;  // inexact at most between 1/2 and 1, where n is -1
    const f32x16 down = select_less(a, f + n, f - f32x16::broadcast(0x1p-24f), f);
    return select_less(f32x16::broadcast(FLT_MAX), abs(a), f32x16::zero(), down);
}
inline f32x16 times_exp2(f32x16 a, f32x16 x) {
    const f32x16 least = f32x16::broadcast(-127.0f), most = f32x16::broadcast(128.0f);
    return a * exp2_int(round_to_int(min(max(floor(x), least), most)));
}
#endif

// Before a loop over registers: an array that is not unrolled away lives in memory.
#if defined(__clang__)
#define CIERZO_UNROLL _Pragma("clang loop unroll(full)")
#elif defined(__GNUC__)
#define CIERZO_UNROLL _Pragma("GCC unroll 16")
#else
#define CIERZO_UNROLL
#endif

// Asks for a cache line, in the first cache or only in the second; any address will do.
inline void prefetch(const void* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p);
#else
    (void)p;
#endif
}

// The same, no nearer than the second cache: for what is needed in a while.
inline void prefetch_far(const void* p) {
#if defined(__GNUC__)
    __builtin_prefetch(p, 0, 2);
#else
    (void)p;
#endif
}

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

// 2^x to 1e-4, a twentieth of the rounding to bf16 that follows; 0 below -126, infinite from 128
// on.
inline f32x16 exp2_short(f32x16 x) {
    const f32x16 f = above_floor(x);
    f32x16 p = f32x16::broadcast(0.0770675247f);
    p = fma(p, f, f32x16::broadcast(0.227644533f));
    p = fma(p, f, f32x16::broadcast(0.695116797f));
    p = fma(p, f, f32x16::broadcast(1.0f));
    return times_exp2(p, x);
}

// x * sigmoid(x).
inline f32x16 silu(f32x16 x) {
    const f32x16 one = f32x16::broadcast(1.0f);
    return x / (one + exp(f32x16::zero() - x));
}

// The same to 2e-4, for what is rounded to bf16 next; below -69 as if the sigmoid stayed where it
// is.
inline f32x16 silu_short(f32x16 x) {
    const f32x16 one = f32x16::broadcast(1.0f);
    const f32x16 power = min(x * f32x16::broadcast(-1.44269504f), f32x16::broadcast(120.0f));
    const f32x16 d = one + exp2_short(power), minus_d = f32x16::zero() - d;
    // 1 / d: a division takes 16 cycles, this 4. The error is raised to the third power, then
    // squared.
    f32x16 r = reciprocal_guess(d);
    f32x16 error = fma(minus_d, r, one);
    r = fma(r, fma(error, error, error), r);
    error = fma(minus_d, r, one);
    r = fma(r, error, r);
    return x * r;
}

}  // namespace cierzo::CIERZO_ISA_NAMESPACE
