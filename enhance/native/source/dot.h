/* Sums of products of bytes, u8 by s8 in int32: one function for each instruction set.
 *
 * weights: tiles [K / 4][TILE][4]; x: R rows of K bytes; sum: [R][T][TILE]. Weights hold 7 bits,
 * so that two products fit in 16 bits, which AVX2 and NEON make use of. */
#ifndef ENHANCE_DOT_H
#define ENHANCE_DOT_H
#include "lanes.h"

#if LANES > 1 && (defined(__AVX2__) || defined(__aarch64__))
INLINE int32_t four_bytes(const uint8_t *p) {
    int32_t v;
    memcpy(&v, p, sizeof v);
    return v;
}
#endif

#if LANES > 1 && defined(__AVX512VNNI__) && defined(__AVX2__)
#include <immintrin.h>
#define INSTRUCTIONS "AVX-512 VNNI"
INLINE void dot_block(const int8_t *weights, size_t K, const uint8_t *x, size_t stride,
                      int32_t *sum, int R, int T) {
    __m512i s[4][4];
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) s[r][t] = _mm512_setzero_si512();
    for (size_t k = 0; k < K; k += 4)
        for (int t = 0; t < T; t++) {
            __m512i w = _mm512_loadu_si512(weights + ((size_t)t * K + k) * 16);
            for (int r = 0; r < R; r++) {
                __m512i v = _mm512_set1_epi32(four_bytes(x + (size_t)r * stride + k));
                s[r][t] = _mm512_dpbusd_epi32(s[r][t], v, w);
            }
        }
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) _mm512_storeu_si512(sum + (r * T + t) * 16, s[r][t]);
}

#elif LANES > 1 && defined(__AVX2__)
#include <immintrin.h>
#if defined(__AVXVNNI__)
#define INSTRUCTIONS "AVX-VNNI"
#else
#define INSTRUCTIONS "AVX2"
#endif
INLINE __m256i dot_add(__m256i sum, __m256i x, __m256i w) {
#if defined(__AVXVNNI__)
    return _mm256_dpbusd_avx_epi32(sum, x, w);
#else
    __m256i pairs = _mm256_maddubs_epi16(x, w);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
#endif
}
INLINE void dot_block(const int8_t *weights, size_t K, const uint8_t *x, size_t stride,
                      int32_t *sum, int R, int T) {
    __m256i s[4][8];
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2 * T; h++) s[r][h] = _mm256_setzero_si256();
    for (size_t k = 0; k < K; k += 4)
        for (int h = 0; h < 2 * T; h++) {
            const int8_t *p = weights + ((size_t)(h / 2) * K + k) * 16 + (h % 2) * 32;
            __m256i w = _mm256_loadu_si256((const __m256i *)p);
            for (int r = 0; r < R; r++) {
                __m256i v = _mm256_set1_epi32(four_bytes(x + (size_t)r * stride + k));
                s[r][h] = dot_add(s[r][h], v, w);
            }
        }
    for (int r = 0; r < R; r++)
        for (int h = 0; h < 2 * T; h++)
            _mm256_storeu_si256((__m256i *)(sum + (r * T * 2 + h) * 8), s[r][h]);
}

#elif LANES > 1 && defined(__aarch64__) && defined(__ARM_NEON)
#include <arm_neon.h>
#if defined(__ARM_FEATURE_MATMUL_INT8)
#define INSTRUCTIONS "NEON int8 products"
#elif defined(__ARM_FEATURE_DOTPROD)
#define INSTRUCTIONS "NEON dot products"
#else
#define INSTRUCTIONS "NEON"
#endif
/* Four columns of four products each. */
INLINE int32x4_t dot_add(int32x4_t sum, uint32_t four, int8x16_t w) {
#if defined(__ARM_FEATURE_MATMUL_INT8)
    return vusdotq_s32(sum, vreinterpretq_u8_u32(vdupq_n_u32(four)), w);
#elif defined(__ARM_FEATURE_DOTPROD)
    /* u8 is s8 plus 128: x w = (x - 128) w + 64 w + 64 w */
    int8x16_t x = vreinterpretq_s8_u32(vdupq_n_u32(four ^ 0x80808080u));
    int8x16_t half = vdupq_n_s8(64);
    return vdotq_s32(vdotq_s32(vdotq_s32(sum, x, w), half, w), half, w);
#else
    int16x8_t x = vreinterpretq_s16_u16(vmovl_u8(vreinterpret_u8_u32(vdup_n_u32(four))));
    int16x8_t low = vmulq_s16(x, vmovl_s8(vget_low_s8(w)));
    int16x8_t high = vmulq_s16(x, vmovl_s8(vget_high_s8(w)));
    return vpadalq_s16(sum, vpaddq_s16(low, high));
#endif
}
INLINE void dot_block(const int8_t *weights, size_t K, const uint8_t *x, size_t stride,
                      int32_t *sum, int R, int T) {
    int32x4_t s[4][16];
    for (int r = 0; r < R; r++)
        for (int q = 0; q < 4 * T; q++) s[r][q] = vdupq_n_s32(0);
    for (size_t k = 0; k < K; k += 4)
        for (int q = 0; q < 4 * T; q++) {
            int8x16_t w = vld1q_s8(weights + ((size_t)(q / 4) * K + k) * 16 + (q % 4) * 16);
            for (int r = 0; r < R; r++)
                s[r][q] = dot_add(s[r][q], (uint32_t)four_bytes(x + (size_t)r * stride + k), w);
        }
    for (int r = 0; r < R; r++)
        for (int q = 0; q < 4 * T; q++) vst1q_s32(sum + (r * T * 4 + q) * 4, s[r][q]);
}

#elif LANES > 1 && defined(__wasm_simd128__)
#include <wasm_simd128.h>
#define INSTRUCTIONS "wasm SIMD"
/* Two columns of four products each: pairs of products in one word. */
INLINE void dot_block(const int8_t *weights, size_t K, const uint8_t *x, size_t stride,
                      int32_t *sum, int R, int T) {
    for (int t = 0; t < T; t++) {
        v128_t s[4][8];
        for (int r = 0; r < R; r++)
            for (int q = 0; q < 8; q++) s[r][q] = wasm_i32x4_splat(0);
        for (size_t k = 0; k < K; k += 4) {
            const int8_t *tile = weights + ((size_t)t * K + k) * 16;
            v128_t in[4];
            for (int r = 0; r < R; r++)
                in[r] = wasm_u16x8_extend_low_u8x16(
                    wasm_v128_load32_splat(x + (size_t)r * stride + k));
            for (int q = 0; q < 4; q++) {
                v128_t w = wasm_v128_load(tile + 16 * q);
                v128_t low = wasm_i16x8_extend_low_i8x16(w);
                v128_t high = wasm_i16x8_extend_high_i8x16(w);
                for (int r = 0; r < R; r++) {
                    s[r][2 * q] = wasm_i32x4_add(s[r][2 * q], wasm_i32x4_dot_i16x8(in[r], low));
                    s[r][2 * q + 1] =
                        wasm_i32x4_add(s[r][2 * q + 1], wasm_i32x4_dot_i16x8(in[r], high));
                }
            }
        }
        for (int r = 0; r < R; r++)
            for (int q = 0; q < 4; q++) {
                v128_t even = wasm_i32x4_shuffle(s[r][2 * q], s[r][2 * q + 1], 0, 2, 4, 6);
                v128_t odd = wasm_i32x4_shuffle(s[r][2 * q], s[r][2 * q + 1], 1, 3, 5, 7);
                wasm_v128_store(sum + (r * T + t) * 16 + 4 * q, wasm_i32x4_add(even, odd));
            }
    }
}

#else
#if LANES > 1
#define INSTRUCTIONS "SSE2"
#else
#define INSTRUCTIONS "scalar"
#endif
INLINE void dot_block(const int8_t *weights, size_t K, const uint8_t *x, size_t stride,
                      int32_t *sum, int R, int T) {
    for (int r = 0; r < R; r++)
        for (int t = 0; t < T; t++) {
            int32_t *s = sum + (r * T + t) * 16;
            for (int n = 0; n < 16; n++) s[n] = 0;
            for (size_t k = 0; k < K; k += 4) {
                const int8_t *w = weights + ((size_t)t * K + k) * 16;
                const uint8_t *in = x + (size_t)r * stride + k;
                for (int n = 0; n < 16; n++)
                    s[n] += in[0] * w[4 * n] + in[1] * w[4 * n + 1] + in[2] * w[4 * n + 2] +
                            in[3] * w[4 * n + 3];
            }
        }
}
#endif
#endif
