/* What lies above the model's band: passed with the gain that the model gives the upper half of
 * its band, smoothed over 10 ms. With x the input at its own rate, d what the model hears of it, y
 * what it makes of d, the output is
 *
 *     up(y) + g (x - up(d)) = g x + up(y - g d).
 *
 * g is the root of the energy of y above half of the band over that of d, at most 1. */
#ifndef ENHANCE_BAND_H
#define ENHANCE_BAND_H
#include "layers.h"

#define SMOOTHING 0.01f /* seconds */
#define FLOOR 1e-10     /* energy that stands for silence, -100 dB of full scale */
#define HALF 23         /* samples that the high-pass reaches to a side */

/* High-pass of half the band under a Blackman window: at 1, 3, ... 23 to each side; .5 at 0, else 0. */
static const float high_pass[(HALF + 1) / 2] = {
    -0.3160806f,   0.0995788276f,  -0.0533094071f, 0.0319981091f,  -0.0196210872f,  0.0118060857f,
    -0.00679378165f, 0.00365185784f, -0.00177717581f, 0.000737622089f, -0.00022173734f, 2.14739521e-05f};

typedef struct {
    size_t hop, late;        /* the model's; samples by which y is late */
    float *heard;            /* (late + hop) d, its beginning as late as y */
    float *past[2];          /* (2 HALF + hop) y and d under the high-pass */
    float *gains, *lower;    /* (hop) g, y - g d */
    double energy[2], keep;
    float last; /* gain at the end of the hop before */
} upper_band;

static void band_lay_out(upper_band *b, arena *a) {
    b->heard = piece(a, b->late + b->hop);
    for (int i = 0; i < 2; i++) {
        align(a);
        b->past[i] = piece(a, 2 * HALF + b->hop + LANES);
    }
    align(a);
    b->gains = piece(a, b->hop);
    b->lower = piece(a, b->hop);
    align(a);
}

static void band_open(upper_band *b, int model_rate) {
    float keep[LANES];
    v_store(keep, v_exp(v_all(-(float)b->hop / (SMOOTHING * (float)model_rate))));
    b->keep = (double)keep[0];
}

static void band_clear(upper_band *b) {
    for (size_t i = 0; i < b->late + b->hop; i++) b->heard[i] = 0.0f;
    for (int k = 0; k < 2; k++) {
        for (size_t i = 0; i < 2 * HALF + b->hop; i++) b->past[k][i] = 0.0f;
        b->energy[k] = 0.0;
    }
    b->last = 1.0f;
}

/* Mean energy of a hop above half of the band; `past` is moved on. */
static double high_energy(float *past, const float *x, size_t hop) {
    double sum = 0.0;
    memcpy(past + 2 * HALF, x, hop * sizeof *x);
    for (size_t i = 0; i < hop; i += LANES) {
        const float *middle = past + i + HALF;
        vf y = v_load(middle) * 0.5f;
        for (size_t k = 0; k <= HALF / 2; k++) {
            size_t away = 2 * k + 1;
            y = y + (v_load(middle - away) + v_load(middle + away)) * high_pass[k];
        }
        float lanes[LANES];
        v_store(lanes, y);
        for (size_t j = 0; j < LANES && i + j < hop; j++) sum += (double)lanes[j] * (double)lanes[j];
    }
    float rest[2 * HALF]; /* a hop may be shorter */
    memcpy(rest, past + hop, sizeof rest);
    memcpy(past, rest, sizeof rest);
    return sum / (double)hop;
}

/* One hop: d as it goes into the model and y as it comes out, to `gains` and `lower`. */
static void band_step(upper_band *b, const float *heard, const float *made) {
    memcpy(b->heard + b->late, heard, b->hop * sizeof *heard);
    const float *hops[2] = {made, b->heard};
    for (int k = 0; k < 2; k++)
        b->energy[k] = b->keep * b->energy[k] + (1.0 - b->keep) * high_energy(b->past[k], hops[k], b->hop);
    double square = (b->energy[0] + FLOOR) / (b->energy[1] + FLOOR);
    float ratio = square < 1.0 ? (float)square : 1.0f, root[LANES];
    v_store(root, v_rsqrt(v_at_least(v_all(ratio), 1e-30f)) * ratio);
    float gain = ratio < 1.0f ? root[0] : 1.0f;
    for (size_t i = 0; i < b->hop; i++) {
        b->gains[i] = b->last + (float)(i + 1) / (float)b->hop * (gain - b->last);
        b->lower[i] = made[i] - b->gains[i] * b->heard[i];
    }
    b->last = gain;
    memcpy(b->heard, b->heard + b->hop, b->late * sizeof *heard); /* late is at most a hop */
}
#endif
