/* Vectors of LANES floats, one lane being the "scalar" build.
 *
 * Bit equality rests on this: every sum of the network is made in an order that does not depend on
 * LANES. A vector holds neighbouring outputs, never parts of one sum, so that a lane computes what
 * the scalar build computes, and IEEE 754 leaves no freedom in +, -, * and /. Two things would
 * break it: -ffast-math, refused here, and the contraction of a * b + c into one rounding, which
 * -ffp-contract=off forbids and enhance_open looks for. */
#ifndef ENHANCE_LANES_H
#define ENHANCE_LANES_H
#include <stdint.h>
#include <string.h>

#include "enhance.h"

#if defined(__FAST_MATH__) || (defined(_MSC_VER) && defined(_M_FP_FAST))
#error "enhance: -ffast-math gives other bits on every processor; compile without it"
#endif
#if defined(__FLT_EVAL_METHOD__) && __FLT_EVAL_METHOD__ != 0
#error "enhance: floats are kept in wider registers (x87); compile with -msse2 -mfpmath=sse"
#endif
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#if defined(ENHANCE_SCALAR) || !defined(__GNUC__)
#define LANES 1
#elif defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#elif defined(__SSE2__) || defined(__aarch64__) || defined(__wasm_simd128__)
#define LANES 4
#else
#define LANES 1
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

/* Floats, unsigned and signed words, bytes. Words shift and wrap; a comparison gives all ones. */
#if LANES == 1
typedef float vf;
typedef uint32_t vu;
#else
typedef float vf __attribute__((vector_size(4 * LANES)));
typedef uint32_t vu __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint8_t vb __attribute__((vector_size(LANES)));
#endif

INLINE vf v_load(const float *p) {
    vf v;
    memcpy(&v, p, sizeof v);
    return v;
}

INLINE void v_store(float *p, vf v) { memcpy(p, &v, sizeof v); }

/* The first n lanes only. */
INLINE void v_store_first(float *p, vf v, size_t n) {
    if (n >= LANES) {
        v_store(p, v);
    } else {
        float lanes[LANES];
        v_store(lanes, v);
        for (size_t i = 0; i < n; i++) p[i] = lanes[i];
    }
}

INLINE vf v_all(float x) {
#if LANES == 1
    return x;
#else
    return x - (vf){0};
#endif
}

INLINE vu v_bits(vf v) {
    vu u;
    memcpy(&u, &v, sizeof u);
    return u;
}

INLINE vf v_of_bits(vu u) {
    vf v;
    memcpy(&v, &u, sizeof v);
    return v;
}

/* Ones in the lanes where a < b; never where one of them is not a number. */
INLINE vu v_less(vf a, vf b) {
#if LANES == 1
    return a < b ? 0xffffffffu : 0;
#else
    return (vu)(a < b);
#endif
}

INLINE vf v_select(vu mask, vf yes, vf no) {
    return v_of_bits((v_bits(yes) & mask) | (v_bits(no) & ~mask));
}

/* The bound where x is not a number. */
INLINE vf v_at_least(vf x, float bound) { return v_select(v_less(v_all(bound), x), x, v_all(bound)); }
INLINE vf v_at_most(vf x, float bound) { return v_select(v_less(x, v_all(bound)), x, v_all(bound)); }

/* Words below 2^23, biased by ROUND's, and their floats. Adding ROUND, 1.5 * 2^23, to a float of
 * less than 2^22 rounds it to even and leaves the whole number in the low bits. */
#define ROUND 12582912.0f
#define ROUND_BITS 0x4B400000u

INLINE vf v_round(vf x) { return (x + ROUND) - ROUND; }

/* Whole numbers 0 to 255 that are floats, as bytes. */
INLINE void v_store_bytes(uint8_t *p, vf whole) {
    vu words = v_bits(whole + ROUND) & 255u;
#if LANES == 1
    *p = (uint8_t)words;
#else
    vb bytes = __builtin_convertvector(words, vb);
    memcpy(p, &bytes, sizeof bytes);
#endif
}

INLINE vu v_words(const int32_t *p) {
    vu v;
    memcpy(&v, p, sizeof v);
    return v;
}

/* Words as signed numbers, rounded to nearest. */
INLINE vf v_of_int(vu words) {
#if LANES == 1
    return (float)(int32_t)words;
#else
    return __builtin_convertvector((vi)words, vf);
#endif
}

/* exp(x), about 1e-7 of it; x is held within -87 and 88. After the Cephes library: x = n ln 2 + r,
 * and a polynomial in r. */
INLINE vf v_exp(vf x) {
    x = v_at_most(v_at_least(x, -87.0f), 88.0f);
    vf biased = x * 1.44269504f + ROUND;
    vf n = biased - ROUND;
    vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf p = r * 1.9875691500e-4f + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    return p * v_of_bits((v_bits(biased) - ROUND_BITS + 127u) << 23);
}

/* log(x) for normal x > 0. After the Cephes library: x = 2^e m, m in [sqrt 1/2, sqrt 2). */
INLINE vf v_log(vf x) {
    vu bits = v_bits(x);
    vf e = v_of_bits((bits >> 23) + ROUND_BITS) - (ROUND + 126.0f);
    vf m = v_of_bits((bits & 0x7fffffu) | 0x3f000000u);
    vu small = v_less(m, v_all(0.70710678f));
    e = v_select(small, e - 1.0f, e);
    m = v_select(small, m + m, m) - 1.0f;
    vf z = m * m;
    vf p = m * 7.0376836292e-2f - 1.1514610310e-1f;
    p = p * m + 1.1676998740e-1f;
    p = p * m - 1.2420140846e-1f;
    p = p * m + 1.4249322787e-1f;
    p = p * m - 1.6668057665e-1f;
    p = p * m + 2.0000714765e-1f;
    p = p * m - 2.4999993993e-1f;
    p = p * m + 3.3333331174e-1f;
    p = p * m * z - e * 2.12194440e-4f - z * 0.5f;
    return m + p + e * 0.693359375f;
}

INLINE vf v_sigmoid(vf x) { return 1.0f / (v_exp(-x) + 1.0f); }
INLINE vf v_tanh(vf x) { return 2.0f / (v_exp(x * -2.0f) + 1.0f) - 1.0f; }

/* x where it is positive, else exp(x) - 1. */
INLINE vf v_elu(vf x) {
    vf below = v_exp(v_at_most(x, 0.0f)) - 1.0f;
    return v_select(v_less(x, v_all(0.0f)), below, x);
}

/* 1 / sqrt(x) for normal x > 0: four of Newton's steps. */
INLINE vf v_rsqrt(vf x) {
    vf y = v_of_bits(0x5f3759dfu - (v_bits(x) >> 1));
    for (int i = 0; i < 4; i++) y = y * (1.5f - x * 0.5f * y * y);
    return y;
}
#endif
