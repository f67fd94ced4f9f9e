/* Discrete Fourier transforms of real frames, any length.
 *
 * Stockham's self-sorting transform with mixed radices. In a stage of radix r, the sequence of n
 * complex numbers is r blocks of m = n / r; output k of all r-point transforms over the blocks is
 * turned by a root of one and written where the next stage wants it:
 *
 *     y[z + s (r p + k)] = root(p k s) sum_j x[u + j m] root(j k m),   u = z + s p
 *
 * s is the product of the earlier radices, root(i) = exp(-2 pi i / n). Real and imaginary parts lie
 * apart, so that neighbouring u are lanes. */
#ifndef ENHANCE_FFT_H
#define ENHANCE_FFT_H
#include "product.h"

#define MOST_STAGES 16

typedef struct {
    size_t samples, n;          /* real samples; n is half of them if they are even */
    size_t stages, radix[MOST_STAGES];
    const float *roots;         /* (n, 2) cosine and minus sine of 2 pi i / n */
    const float *ends;          /* (n + 1, 2) the same of 2 pi i / samples, where they are even */
    float *turns;               /* each stage: for k = 1 to r - 1 (m) real, (m) imaginary */
    float *re[2], *im[2];       /* (n) */
} fft;

static void fft_plan(fft *f, size_t samples) {
    f->samples = samples;
    f->n = samples % 2 ? samples : samples / 2;
    f->stages = 0;
    for (size_t left = f->n; left > 1;) {
        size_t r = 4;
        if (left % 4) {
            r = 2;
            while (left % r) r++;
        }
        f->radix[f->stages++] = r;
        left /= r;
    }
}

static size_t fft_turns_size(const fft *f) {
    size_t floats = 0;
    for (size_t i = 0; i < f->stages; i++)
        floats += 2 * (f->radix[i] - 1) * (f->n / f->radix[i]);
    return floats;
}

/* Lay the roots of each stage out, once. */
static void fft_open(fft *f) {
    float *to = f->turns;
    size_t s = 1;
    for (size_t i = 0; i < f->stages; i++) {
        size_t r = f->radix[i], m = f->n / r;
        for (size_t k = 1; k < r; k++, to += 2 * m)
            for (size_t u = 0; u < m; u++) {
                const float *root = f->roots + 2 * (u / s * k * s % f->n);
                to[u] = root[0];
                to[m + u] = root[1];
            }
        s *= r;
    }
}

/* Output k of one vector of u: turned (k > 0) and put at `at`, lane by lane where s is short. */
INLINE void fft_put(vf re, vf im, const float *turn, size_t m, size_t u, size_t k, size_t r,
                    size_t s, float *yr, float *yi) {
    if (k) {
        vf c = v_load(turn + u), d = v_load(turn + m + u);
        vf turned = re * c - im * d;
        im = re * d + im * c;
        re = turned;
    }
    size_t p = u / s, z = u - p * s;
    if (s % LANES == 0) {
        size_t at = z + s * (r * p + k);
        v_store(yr + at, re);
        v_store(yi + at, im);
        return;
    }
    float a[LANES], b[LANES];
    v_store(a, re);
    v_store(b, im);
    for (size_t lane = 0; lane < LANES && u + lane < m; lane++) {
        size_t at = z + s * (r * p + k);
        yr[at] = a[lane];
        yi[at] = b[lane];
        if (++z == s) {
            z = 0;
            p++;
        }
    }
}

static void fft_stage4(const float *xr, const float *xi, const float *turn, size_t m, size_t s,
                       float *yr, float *yi) {
    for (size_t u = 0; u < m; u += LANES) {
        vf ar = v_load(xr + u), ai = v_load(xi + u);
        vf br = v_load(xr + m + u), bi = v_load(xi + m + u);
        vf cr = v_load(xr + 2 * m + u), ci = v_load(xi + 2 * m + u);
        vf dr = v_load(xr + 3 * m + u), di = v_load(xi + 3 * m + u);
        vf er = ar + cr, ei = ai + ci, fr = ar - cr, fi = ai - ci;
        vf gr = br + dr, gi = bi + di, hr = bi - di, hi = dr - br; /* h = -i (b - d) */
        fft_put(er + gr, ei + gi, turn, m, u, 0, 4, s, yr, yi);
        fft_put(fr + hr, fi + hi, turn, m, u, 1, 4, s, yr, yi);
        fft_put(er - gr, ei - gi, turn + 2 * m, m, u, 2, 4, s, yr, yi);
        fft_put(fr - hr, fi - hi, turn + 4 * m, m, u, 3, 4, s, yr, yi);
    }
}

static void fft_stage(const fft *f, const float *xr, const float *xi, const float *turn, size_t r,
                      size_t s, float *yr, float *yi) {
    size_t m = f->n / r;
    for (size_t u = 0; u < m; u += LANES)
        for (size_t k = 0; k < r; k++) {
            vf re = v_load(xr + u), im = v_load(xi + u);
            for (size_t j = 1; j < r; j++) {
                const float *root = f->roots + 2 * (j * k % r * m);
                vf a = v_load(xr + j * m + u), b = v_load(xi + j * m + u);
                re = re + (a * root[0] - b * root[1]);
                im = im + (a * root[1] + b * root[0]);
            }
            fft_put(re, im, turn + (k ? 2 * (k - 1) * m : 0), m, u, k, r, s, yr, yi);
        }
}

/* Transform what lies in re[0], im[0]; returns which of the two holds the result. */
static int fft_run(const fft *f) {
    const float *turn = f->turns;
    int from = 0;
    size_t s = 1;
    for (size_t i = 0; i < f->stages; i++) {
        size_t r = f->radix[i];
        int to = 1 - from;
        if (r == 4)
            fft_stage4(f->re[from], f->im[from], turn, f->n / 4, s, f->re[to], f->im[to]);
        else
            fft_stage(f, f->re[from], f->im[from], turn, r, s, f->re[to], f->im[to]);
        turn += 2 * (r - 1) * (f->n / r);
        s *= r;
        from = to;
    }
    return from;
}

/* x (samples) -> spectrum (samples / 2 + 1, 2). Even lengths: even and odd samples are real and
 * imaginary part of a sequence half as long, whose spectrum is taken apart. */
static void fft_real(const fft *f, const float *x, float *spectrum) {
    size_t n = f->n;
    if (f->samples % 2) {
        for (size_t i = 0; i < n; i++) {
            f->re[0][i] = x[i];
            f->im[0][i] = 0.0f;
        }
    } else {
        for (size_t i = 0; i < n; i++) {
            f->re[0][i] = x[2 * i];
            f->im[0][i] = x[2 * i + 1];
        }
    }
    int at = fft_run(f);
    const float *re = f->re[at], *im = f->im[at];
    if (f->samples % 2) {
        for (size_t k = 0; k <= n / 2; k++) {
            spectrum[2 * k] = re[k];
            spectrum[2 * k + 1] = im[k];
        }
        return;
    }
    for (size_t k = 0; k <= n; k++) {
        size_t a = k == n ? 0 : k, b = k == 0 ? 0 : n - k;
        float even_re = 0.5f * (re[a] + re[b]), even_im = 0.5f * (im[a] - im[b]);
        float odd_re = 0.5f * (im[a] + im[b]), odd_im = 0.5f * (re[b] - re[a]);
        float c = f->ends[2 * k], d = f->ends[2 * k + 1];
        spectrum[2 * k] = even_re + (c * odd_re - d * odd_im);
        spectrum[2 * k + 1] = even_im + (c * odd_im + d * odd_re);
    }
}

/* Back again; the imaginary parts of a real frame's ends are taken as 0. An inverse transform is
 * a transform with real and imaginary parts exchanged on both sides. */
static void fft_real_inverse(const fft *f, const float *spectrum, float *x) {
    size_t n = f->n;
    float *re = f->im[0], *im = f->re[0];
    float gain = 1.0f / (float)n;
    if (f->samples % 2) {
        re[0] = spectrum[0];
        im[0] = 0.0f;
        for (size_t k = 1; k <= n / 2; k++) {
            re[k] = re[n - k] = spectrum[2 * k];
            im[k] = spectrum[2 * k + 1];
            im[n - k] = -spectrum[2 * k + 1];
        }
        int at = fft_run(f);
        for (size_t i = 0; i < n; i++) x[i] = f->im[at][i] * gain;
        return;
    }
    for (size_t k = 0; k < n; k++) {
        const float *a = spectrum + 2 * k, *b = spectrum + 2 * (n - k);
        float a_im = k ? a[1] : 0.0f, b_im = k ? -b[1] : 0.0f;
        float even_re = 0.5f * (a[0] + b[0]), even_im = 0.5f * (a_im + b_im);
        float half_re = 0.5f * (a[0] - b[0]), half_im = 0.5f * (a_im - b_im);
        float c = f->ends[2 * k], d = -f->ends[2 * k + 1];
        float odd_re = half_re * c - half_im * d, odd_im = half_re * d + half_im * c;
        re[k] = even_re - odd_im;
        im[k] = even_im + odd_re;
    }
    int at = fft_run(f);
    for (size_t i = 0; i < n; i++) {
        x[2 * i] = f->im[at][i] * gain;
        x[2 * i + 1] = f->re[at][i] * gain;
    }
}
#endif
