/* Matrix products with constant matrices: where the time goes.
 *
 * A matrix of K inputs and N outputs lies in tiles of TILE columns: [tile][K][TILE] floats, or
 * [tile][K / 4][TILE][4] bytes, K filled up to a multiple of 4 with zeros. Outputs lie in rows of
 * `pitch` floats, N filled up to whole tiles. Every output is one sum in the order of k. */
#ifndef ENHANCE_PRODUCT_H
#define ENHANCE_PRODUCT_H
#include "dot.h"

#define TILE 16
#define PARTS (TILE / LANES)

/* Rows of one matrix that are multiplied together: as many sums as registers hold. */
#if LANES > 4 || defined(__aarch64__)
#define ROWS 4
#else
#define ROWS 2
#endif

typedef struct {
    size_t inputs, outputs, pitch;
    const float *bias;    /* (pitch) */
    const float *weights; /* tiles of floats, or NULL */
    const int8_t *bytes;  /* tiles of bytes, -63 to 63, or NULL */
    const float *scale;   /* (pitch), of the columns of bytes */
    const int32_t *sum;   /* (pitch), of the columns of bytes */
} product;

INLINE size_t up(size_t n, size_t step) { return (n + step - 1) / step * step; }

/* R rows by T tiles of a float product. */
INLINE void float_block(const product *w, const float *x, size_t stride, float *y, size_t column,
                        int R, int T) {
    vf sum[4][4 * PARTS];
    size_t K = w->inputs;
    const float *weights = w->weights + column * K;
    for (int r = 0; r < R; r++)
        for (int c = 0; c < T * PARTS; c++) sum[r][c] = v_all(0.0f);
    for (size_t k = 0; k < K; k++)
        for (int t = 0; t < T; t++)
            for (int c = 0; c < PARTS; c++) {
                vf v = v_load(weights + ((size_t)t * K + k) * TILE + (size_t)c * LANES);
                for (int r = 0; r < R; r++)
                    sum[r][t * PARTS + c] += v * x[(size_t)r * stride + k];
            }
    for (int r = 0; r < R; r++)
        for (int c = 0; c < T * PARTS; c++) {
            size_t at = column + (size_t)c * LANES;
            v_store(y + (size_t)r * w->pitch + at, sum[r][c] + v_load(w->bias + at));
        }
}

static void float_product(const product *w, const float *x, size_t rows, size_t stride, float *y) {
    size_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        for (size_t n = 0; n < w->pitch; n += TILE)
            float_block(w, x + r * stride, stride, y + r * w->pitch, n, ROWS, 1);
    for (; r < rows; r++) {
        size_t n = 0;
        for (; n + ROWS * TILE <= w->pitch; n += ROWS * TILE)
            float_block(w, x + r * stride, stride, y + r * w->pitch, n, 1, ROWS);
        for (; n < w->pitch; n += TILE)
            float_block(w, x + r * stride, stride, y + r * w->pitch, n, 1, 1);
    }
}

/* What bytes stand for: x = scale (byte - zero). */
typedef struct {
    float scale;
    int32_t zero;
} range;

/* Round floats to bytes by their own range, 0 included (ONNX: DynamicQuantizeLinear). Up to
 * LANES - 1 floats and bytes behind the last are touched. */
static range quantise(const float *x, size_t n, uint8_t *bytes) {
    vf low = v_all(0.0f), high = v_all(0.0f);
    size_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        vf v = v_load(x + i);
        low = v_select(v_less(v, low), v, low);
        high = v_select(v_less(high, v), v, high);
    }
    float lows[LANES], highs[LANES], least = 0.0f, most = 0.0f;
    v_store(lows, low);
    v_store(highs, high);
    for (int lane = 0; lane < LANES; lane++) {
        least = lows[lane] < least ? lows[lane] : least;
        most = highs[lane] > most ? highs[lane] : most;
    }
    for (; i < n; i++) {
        least = x[i] < least ? x[i] : least;
        most = x[i] > most ? x[i] : most;
    }
    range found = {(most - least) / 255.0f, 0};
    /* Silence, or a range too small to divide by: all is zero. */
    if (!(found.scale > 1e-35f && found.scale < 1e35f)) found.scale = 1.0f;
    float inverse = 1.0f / found.scale;
    float zero = -least * inverse;
    zero = zero < 255.0f ? zero : 255.0f;
    zero = (zero + ROUND) - ROUND;
    found.zero = (int32_t)zero;
    for (i = 0; i < n; i += LANES) {
        vf v = v_load(x + i) * inverse;
        v = v_round(v_at_most(v_at_least(v, -255.0f), 255.0f)) + zero;
        v_store_bytes(bytes + i, v_at_most(v_at_least(v, 0.0f), 255.0f));
    }
    return found;
}

/* R rows by T tiles of a product of bytes, in `sum` [R][T * TILE]. The sums are exact, so that
 * their order is free: each processor takes its own way in `dot.h`. */
INLINE void byte_block(const product *w, const uint8_t *x, size_t stride, range in, float *y,
                       size_t column, int R, int T) {
    int32_t sum[4 * 4 * TILE];
    size_t K = up(w->inputs, 4);
    dot_block(w->bytes + column * K, K, x, stride, sum, R, T);
    for (int r = 0; r < R; r++)
        for (int c = 0; c < T * TILE; c += LANES) {
            size_t at = column + (size_t)c;
            vu part = v_words(sum + r * T * TILE + c) - v_words(w->sum + at) * (uint32_t)in.zero;
            vf v = v_of_int(part) * (v_load(w->scale + at) * in.scale);
            v_store(y + (size_t)r * w->pitch + at, v + v_load(w->bias + at));
        }
}

static void byte_product(const product *w, const uint8_t *x, size_t rows, size_t stride, range in,
                         float *y) {
    size_t r = 0;
    for (; r + ROWS <= rows; r += ROWS)
        for (size_t n = 0; n < w->pitch; n += TILE)
            byte_block(w, x + r * stride, stride, in, y + r * w->pitch, n, ROWS, 1);
    for (; r < rows; r++) {
        size_t n = 0;
        for (; n + ROWS * TILE <= w->pitch; n += ROWS * TILE)
            byte_block(w, x + r * stride, stride, in, y + r * w->pitch, n, 1, ROWS);
        for (; n < w->pitch; n += TILE)
            byte_block(w, x + r * stride, stride, in, y + r * w->pitch, n, 1, 1);
    }
}

/* Rows x (rows, K), each beginning `stride` floats behind the one before and perhaps lying on it,
 * times the matrix, plus bias: y (rows, pitch). `bytes` holds as many as x has floats, and 64. */
static void multiply(const product *w, const float *x, size_t rows, size_t stride, uint8_t *bytes,
                     float *y) {
    if (w->weights) {
        float_product(w, x, rows, stride, y);
    } else {
        size_t n = (rows - 1) * stride + w->inputs;
        range in = quantise(x, n, bytes);
        for (size_t i = n; i < n + 4; i++) bytes[i] = 0; /* met by the zeros behind K */
        byte_product(w, bytes, rows, stride, in, y);
    }
}
#endif
