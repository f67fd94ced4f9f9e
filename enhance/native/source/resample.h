/* Sample-rate conversion of a stream, as soon as the samples are there.
 *
 * Rates up : down in lowest terms. Output m is one sum over the samples around its time,
 *
 *     y[m] = sum_j x[j] h(m down / up - j),
 *
 * h being a sinc under a Kaiser window, of 32 zero crossings of the lower rate a side: flat up to
 * .86 of the lower band, 80 dB down from 1.02 of it. There is a row of taps for each fraction of a
 * sample; where these are too many, for PHASES in a period of the lower rate, and a straight line
 * between two sums: 118 dB. */
#ifndef ENHANCE_RESAMPLE_H
#define ENHANCE_RESAMPLE_H
#include "layers.h"

#define ZEROS 32
#define PHASES 1024
#define CUTOFF 0.94 /* of the lower band: -6 dB */
#define BETA 7.86   /* of the window: 80 dB */

typedef struct {
    size_t up, down;
    size_t window, ahead; /* samples under the filter; those of them behind the output's time */
    size_t phases, pitch; /* fractions of a sample; floats of a row of taps */
    size_t room;          /* floats of `past` */
    float *taps;          /* (phases + 1, pitch) */
    float *past;          /* (room) input */
    float *beside;        /* (room) what goes with each sample of it, or NULL */
    size_t start, end;    /* in `past`: of the next output's window, of the input so far */
    size_t phase;         /* of the next output, in 1 / up of an input sample */
} resampler;

/* `block`: most samples that are put in at a time. */
static void resample_plan(resampler *r, size_t from, size_t to, size_t block) {
    size_t factor = from, rest = to;
    while (rest) {
        size_t next = factor % rest;
        factor = rest;
        rest = next;
    }
    r->up = to / factor;
    r->down = from / factor;
    size_t reach = from > to ? (ZEROS * from + to - 1) / to : ZEROS;
    r->window = from == to ? 1 : 2 * reach;
    r->ahead = from == to ? 0 : reach;
    size_t enough = from > to ? (PHASES * to + from - 1) / from : PHASES;
    r->phases = r->up < enough ? r->up : enough;
    r->pitch = up(r->window, TILE);
    r->room = 2 * r->window + block;
}

static void resample_lay_out(resampler *r, arena *a, int beside) {
    r->taps = piece(a, (uint64_t)(r->phases + 1) * r->pitch);
    r->past = piece(a, r->room + TILE); /* the last row's filling is read */
    align(a);
    r->beside = beside ? piece(a, r->room) : NULL;
    align(a);
}

/* sin(pi x) / (pi x) */
static double sinc(double x) {
    if (x == 0.0) return 1.0;
    int64_t whole = (int64_t)(x + (x < 0.0 ? -0.5 : 0.5));
    double angle = 3.14159265358979323846 * (x - (double)whole);
    double square = angle * angle, sum = 1.0;
    for (int k = 20; k >= 2; k -= 2) sum = 1.0 - square / (double)(k * (k + 1)) * sum;
    double sine = whole % 2 ? -angle * sum : angle * sum;
    return sine / (3.14159265358979323846 * x);
}

/* The modified Bessel function I0(2 sqrt(x)) of x up to 16. */
static double bessel(double x) {
    double term = 1.0, sum = 1.0;
    for (int k = 1; k <= 40; k++) {
        term *= x / (double)(k * k);
        sum += term;
    }
    return sum;
}

static void resample_open(resampler *r) {
    if (r->window == 1) return;
    double reach = (double)r->ahead;
    double band = r->up < r->down ? CUTOFF * (double)r->up / (double)r->down : CUTOFF;
    for (size_t p = 0; p <= r->phases; p++) {
        float *row = r->taps + p * r->pitch;
        double sum = 0.0;
        /* Twice, as the sum must be 1 and there is no room for doubles. */
        for (int pass = 0; pass < 2; pass++)
            for (size_t j = 0; j < r->window; j++) {
                double time = (double)p / (double)r->phases + reach - 1.0 - (double)j;
                double inside = 1.0 - time / reach * (time / reach);
                double window = bessel(BETA * BETA / 4.0 * (inside > 0.0 ? inside : 0.0));
                double tap = sinc(band * time) * window;
                if (pass)
                    row[j] = (float)(tap / sum);
                else
                    sum += tap;
            }
    }
}

/* Zeros as far as the first output looks back. */
static void resample_clear(resampler *r) {
    for (size_t i = 0; i < r->room + TILE; i++) r->past[i] = 0.0f;
    for (size_t i = 0; r->beside && i < r->room; i++) r->beside[i] = 0.0f;
    r->start = r->phase = 0;
    r->end = r->window - 1 - r->ahead;
}

/* Take n samples, at most a block, when all outputs that are ready have been fetched. */
static void resample_put(resampler *r, const float *x, const float *beside, size_t n) {
    if (r->end + n > r->room) {
        /* Less than a window is left, behind more than one: the places are apart. */
        size_t left = r->end - r->start;
        memcpy(r->past, r->past + r->start, left * sizeof *x);
        if (r->beside) memcpy(r->beside, r->beside + r->start, left * sizeof *x);
        r->start = 0;
        r->end = left;
    }
    memcpy(r->past + r->end, x, n * sizeof *x);
    if (r->beside) memcpy(r->beside + r->end, beside, n * sizeof *x);
    r->end += n;
}

static int resample_ready(const resampler *r) { return r->end >= r->start + r->window; }

/* One sum, made of TILE sums side by side whatever LANES is. */
static float weigh(const float *x, const float *taps, size_t n) {
    vf sum[PARTS];
    float sums[TILE];
    for (int c = 0; c < PARTS; c++) sum[c] = v_all(0.0f);
    for (size_t k = 0; k < n; k += TILE)
        for (int c = 0; c < PARTS; c++) {
            size_t at = k + (size_t)c * LANES;
            sum[c] += v_load(x + at) * v_load(taps + at);
        }
    for (int c = 0; c < PARTS; c++) v_store(sums + c * LANES, sum[c]);
    for (int half = TILE / 2; half; half /= 2)
        for (int i = 0; i < half; i++) sums[i] += sums[i + half];
    return sums[0];
}

/* The next output, where one is ready. */
static float resample_next(const resampler *r) {
    const float *x = r->past + r->start;
    if (r->window == 1) return x[0];
    uint64_t place = (uint64_t)r->phase * r->phases;
    const float *row = r->taps + (size_t)(place / r->up) * r->pitch;
    float y = weigh(x, row, r->pitch);
    if (r->phases == r->up) return y;
    float share = (float)(place % r->up) / (float)r->up;
    return y + share * (weigh(x, row + r->pitch, r->pitch) - y);
}

/* What goes with the input at the time of the next output, between two samples. */
static float resample_beside(const resampler *r) {
    const float *at = r->beside + r->start + r->window - 1 - r->ahead;
    return at[0] + (float)r->phase / (float)r->up * (at[1] - at[0]);
}

static void resample_step(resampler *r) {
    r->phase += r->down;
    r->start += r->phase / r->up;
    r->phase %= r->up;
}
#endif
