/* The layers of the network on one frame. A plane is (F, C): the channels of a frequency side by
 * side, so that a kernel of three frequencies reads one piece of memory. */
#ifndef ENHANCE_LAYERS_H
#define ENHANCE_LAYERS_H
#include "read.h"

/* A sample as it may be: a number, not far beyond full scale. */
INLINE float bounded(float x) {
    if (!(x >= -1e6f)) return x < 0.0f ? -1e6f : 0.0f; /* or not a number */
    return x > 1e6f ? 1e6f : x;
}

/* Samples below 1e-15 as 0: where a processor is slow on the tiniest numbers, none come up. */
INLINE float without_trace(float x) { return x > 1e-15f || x < -1e-15f ? x : 0.0f; }

/* (rows, columns) -> (columns, rows), rows of the source `stride` apart. */
static void transpose(const float *x, size_t rows, size_t columns, size_t stride, float *y) {
    for (size_t c = 0; c < columns; c++)
        for (size_t r = 0; r < rows; r++) y[c * rows + r] = x[r * stride + c];
}

/* Rows of a product, n of `stride` floats, added to a plane of as many columns. */
static void add_rows(const float *y, size_t n, size_t columns, size_t stride, float *x) {
    for (size_t r = 0; r < n; r++)
        for (size_t c = 0; c < columns; c += LANES) {
            float *to = x + r * columns + c;
            v_store_first(to, v_load(to) + v_load(y + r * stride + c), columns - c);
        }
}

/* A product whose outputs are used without filling: y (rows, outputs). */
static void multiply_close(enhance *e, const product *w, const float *x, size_t rows, float *y) {
    multiply(w, x, rows, w->inputs, e->bytes, e->y);
    for (size_t r = 0; r < rows; r++)
        memcpy(y + r * w->outputs, e->y + r * w->pitch, w->outputs * sizeof *y);
}

/* Gated outputs of one frequency: the first C of `a` (plus `b`, where there is one) under the
 * sigmoid of the next C; then, where there is a shift, that and an ELU. */
INLINE void gate(const float *a, const float *b, size_t C, const float *shift, float *out) {
    for (size_t c = 0; c < C; c += LANES) {
        vf value = v_load(a + c), under = v_load(a + C + c);
        if (b) {
            value = value + v_load(b + c);
            under = under + v_load(b + C + c);
        }
        value = value * v_sigmoid(under);
        if (shift) value = v_elu(value + v_load(shift + c));
        v_store_first(out + c, value, C - c);
    }
}

/* The input of an encoder layer with the frames before it: (F, frames, C); `past` is moved on. */
static const float *with_past(enhance *e, size_t i, const float *plane) {
    size_t F = e->size[i], C = e->channels[i], T = e->frames;
    if (T == 1) return plane;
    for (size_t c = 0; c < C; c++) {
        float *past = e->past[i] + c * (T - 1) * F;
        for (size_t t = 0; t < T - 1; t++)
            for (size_t f = 0; f < F; f++) e->x[(f * T + t) * C + c] = past[t * F + f];
        for (size_t f = 0; f < F; f++) e->x[(f * T + T - 1) * C + c] = plane[f * C + c];
        for (size_t t = 0; t + 2 < T; t++) memcpy(past + t * F, past + (t + 1) * F, F * sizeof *past);
        for (size_t f = 0; f < F; f++) past[(T - 2) * F + f] = plane[f * C + c];
    }
    return e->x;
}

/* Encoder layer i: a kernel of three frequencies, stride 2, as one product. */
static void encode(enhance *e, size_t i, const float *plane) {
    size_t rows = e->size[i + 1], C = e->channels[i + 1];
    const product *w = &e->encoder[i];
    const float *x = with_past(e, i, plane);
    multiply(w, x, rows, 2 * e->frames * e->channels[i], e->bytes, e->y);
    for (size_t f = 0; f < rows; f++)
        gate(e->y + f * w->pitch, NULL, C, e->encoder_shift[i], e->skip[i] + f * C);
}

/* Decoder layer i of decoder d, from plane `in` and the skip to plane `out`. Input f has a part in
 * outputs 2 f, 2 f + 1 and 2 f + 2; the product makes the three, side by side. */
static void decode(enhance *e, size_t d, size_t i, const float *in, float *out) {
    size_t F = e->size[i + 1], C = e->channels[i + 1], made = made_by(e, i);
    const product *w = &e->decoder[d][i];
    const float *shift = i ? e->decoder_shift[d][i] : NULL;
    for (size_t f = 0; f < F; f++) {
        memcpy(e->x + 2 * f * C, in + f * C, C * sizeof *in);
        memcpy(e->x + (2 * f + 1) * C, e->skip[i] + f * C, C * sizeof *in);
    }
    multiply(w, e->x, F, 2 * C, e->bytes, e->y);
    for (size_t r = 0; r < e->size[i]; r++) {
        size_t f = r / 2;
        /* Behind the last input there is the bias alone. */
        const float *here = f < F ? e->y + f * w->pitch + r % 2 * 2 * made : w->bias;
        const float *before = r % 2 || !f ? NULL : e->y + (f - 1) * w->pitch + 4 * made;
        gate(here, before, made, shift, out + r * made);
    }
}

/* One step of n cells from the products of input and state, whose gates lie n apart. */
INLINE void step_cells(const enhance *e, const float *x, const float *s, size_t n, float *h,
                       float *c) {
    for (size_t j = 0; j < n; j += LANES) {
        const float *a = x + j, *b = s + j;
        if (e->cell == LSTM) {
            vf in = v_sigmoid(v_load(a) + v_load(b));
            vf keep = v_sigmoid(v_load(a + n) + v_load(b + n));
            vf out = v_sigmoid(v_load(a + 2 * n) + v_load(b + 2 * n));
            vf new = v_tanh(v_load(a + 3 * n) + v_load(b + 3 * n));
            vf held = keep * v_load(c + j) + in * new;
            v_store_first(c + j, held, n - j);
            v_store_first(h + j, out * v_tanh(held), n - j);
        } else {
            vf reset = v_sigmoid(v_load(a) + v_load(b));
            vf keep = v_sigmoid(v_load(a + n) + v_load(b + n));
            vf new = v_tanh(v_load(a + 2 * n) + reset * v_load(b + 2 * n));
            v_store_first(h + j, new + keep * (v_load(h + j) - new), n - j);
        }
    }
}

/* Recurrent layer i on x (inputs), in groups; its output is the state. */
static void recur(enhance *e, size_t i, const float *x) {
    size_t n = e->hidden / e->groups;
    for (size_t g = 0; g < e->groups; g++) {
        const product *input = &e->rnn[i].input[g], *held = &e->rnn[i].held[g];
        float *h = e->h[i] + g * n, *c = e->c[i] + g * n;
        multiply(input, x + g * input->inputs, 1, 0, e->bytes, e->y);
        multiply(held, h, 1, 0, e->bytes, e->z);
        step_cells(e, e->y, e->z, n, h, c);
    }
}

/* The grouped bottleneck: plane (F, C) -> plane (F, C), by way of (C, F), as the network has it. */
static const float *bottleneck(enhance *e, const float *plane) {
    size_t C = width_of(e), F = places_of(e), n = e->hidden / e->groups;
    transpose(plane, F, C, C, e->x);
    for (size_t i = 0; i < e->recurrent; i++) {
        /* Unit k of every group feeds each group of the next layer. */
        if (i) transpose(e->h[i - 1], e->groups, n, n, e->x);
        recur(e, i, e->x);
    }
    const float *last = e->h[e->recurrent - 1];
    if (e->join.inputs) {
        multiply(&e->join, last, 1, 0, e->bytes, e->y);
        last = e->y;
    }
    transpose(last, C, F, F, e->w);
    return e->w;
}

/* Mixing by a recurrence up the frequencies and another down, half of the channels each: x (F, C)
 * -> mixed (F, C). `z` holds state, gates of the state, and those of all inputs. */
static void mix_recurrent(enhance *e, const recurrence *path, const float *x, float *mixed) {
    size_t C = width_of(e), F = places_of(e), n = C / 2;
    float *h = mixed + F * C, *c = h + n, *held = c + n;
    for (size_t way = 0; way < 2; way++) {
        const product *input = &path->mix[2 * way];
        multiply(input, x, F, C, e->bytes, e->y);
        for (size_t j = 0; j < 2 * n; j++) h[j] = 0.0f;
        for (size_t step = 0; step < F; step++) {
            size_t f = way ? F - 1 - step : step;
            multiply(&path->mix[2 * way + 1], h, 1, 0, e->bytes, held);
            step_cells(e, e->y + f * input->pitch, held, n, h, c);
            memcpy(mixed + f * C + way * n, h, n * sizeof *h);
        }
    }
}

/* y (rows, N) = x (rows, K), rows `stride` apart, by m (K, N), rows `pitch` apart, times gain. */
static void small_product(const float *x, size_t rows, size_t K, size_t stride, const float *m,
                          size_t N, size_t pitch, float gain, float *y, size_t y_stride) {
    for (size_t r = 0; r < rows; r++)
        for (size_t n = 0; n < N; n += LANES) {
            vf sum = v_all(0.0f);
            for (size_t k = 0; k < K; k++) sum = sum + v_load(m + k * pitch + n) * x[r * stride + k];
            v_store_first(y + r * y_stride + n, sum * gain, N - n);
        }
}

static void softmax(float *x, size_t n) {
    float largest = x[0], sum = 0.0f;
    for (size_t i = 1; i < n; i++) largest = x[i] > largest ? x[i] : largest;
    for (size_t i = 0; i < n; i += LANES) v_store_first(x + i, v_exp(v_load(x + i) - largest), n - i);
    for (size_t i = 0; i < n; i++) sum += x[i];
    for (size_t i = 0; i < n; i++) x[i] /= sum;
}

/* Mixing by attention among the frequencies: x (F, C) -> mixed (F, C). */
static void mix_attention(enhance *e, const recurrence *path, const float *x, float *mixed) {
    size_t C = width_of(e), F = places_of(e), heads = most(1, C / 16), n = C / heads;
    const product *all = &path->mix[0];
    float *placed = mixed + F * C, *keys = placed, *scores = mixed + 2 * F * C;
    float root[LANES];
    v_store(root, v_rsqrt(v_all((float)n)));
    memcpy(placed, x, F * C * sizeof *x);
    add_rows(path->place, 1, F * C, F * C, placed);
    multiply(all, placed, F, C, e->bytes, e->y);
    for (size_t head = 0; head < heads; head++) {
        const float *query = e->y + head * n, *value = query + 2 * C;
        transpose(query + C, F, n, all->pitch, keys); /* (n, F) */
        small_product(query, F, n, all->pitch, keys, F, F, root[0], scores, F);
        for (size_t f = 0; f < F; f++) softmax(scores + f * F, F);
        small_product(scores, F, F, F, value, n, all->pitch, 1.0f, mixed + head * n, C);
    }
}

static void elu(float *x, size_t n) {
    for (size_t i = 0; i < n; i += LANES) v_store_first(x + i, v_elu(v_load(x + i)), n - i);
}

/* Mixing by a dense layer over frequencies, then one over channels: x (F, C) -> mixed (F, C). */
static void mix_dense(enhance *e, const recurrence *path, const float *x, float *mixed) {
    size_t C = width_of(e), F = places_of(e);
    float *turned = mixed + F * C;
    transpose(x, F, C, C, turned);
    multiply_close(e, &path->mix[0], turned, C, mixed); /* (C, F) */
    elu(mixed, C * F);
    transpose(mixed, C, F, F, turned);
    multiply_close(e, &path->mix[1], turned, F, mixed);
    elu(mixed, F * C);
}

/* Block i of two paths, on plane x (F, C) in place: a recurrence over time that every frequency
 * runs through, then mixing over frequency. */
static void two_paths(enhance *e, size_t i, float *x) {
    const recurrence *path = &e->rnn[i];
    size_t C = width_of(e), F = places_of(e), H = e->hidden, gates = path->input[0].pitch;
    float *held = e->z, *mixed = e->z + F * gates; /* behind it as much as the mixing needs */
    multiply(&path->input[0], x, F, C, e->bytes, e->y);
    multiply(&path->held[0], e->h[i], F, H, e->bytes, held);
    for (size_t f = 0; f < F; f++)
        step_cells(e, e->y + f * gates, held + f * gates, H, e->h[i] + f * H, e->c[i] + f * H);
    multiply(&path->out, e->h[i], F, H, e->bytes, e->y);
    add_rows(e->y, F, C, path->out.pitch, x);
    if (e->mixing == MIX_RECURRENT) mix_recurrent(e, path, x, mixed);
    if (e->mixing == MIX_ATTENTION) mix_attention(e, path, x, mixed);
    if (e->mixing == MIX_DENSE) mix_dense(e, path, x, mixed);
    multiply(&path->mix_out, mixed, F, C, e->bytes, e->y);
    add_rows(e->y, F, C, path->mix_out.pitch, x);
}

/* Factors max(energy, least) ^ power, in place. */
static void powers(float *energy, size_t n, float least, float power) {
    for (size_t i = 0; i < n; i += LANES) {
        vf log = v_log(v_at_least(v_load(energy + i), least));
        v_store_first(energy + i, v_exp(log * power), n - i);
    }
}
#endif
