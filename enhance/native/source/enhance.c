#include "layers.h"

#define VERSION "1"

/* The frame: the overlap heard before and the new hop, under the window, zeros up to the transform;
 * its spectrum. */
static void analyse(enhance *e, const float *in) {
    size_t O = e->overlap;
    float *frame = e->frame;
    memcpy(frame, e->heard, O * sizeof *frame);
    for (size_t i = 0; i < e->hop; i++) frame[O + i] = without_trace(bounded(in[i]));
    memcpy(e->heard, frame + e->hop, O * sizeof *frame);
    for (size_t i = 0; i < e->window; i++) frame[i] *= e->taper[i];
    for (size_t i = e->window; i < e->transform.samples; i++) frame[i] = 0.0f;
    fft_real(&e->transform, frame, e->spectrum);
}

/* Energies (bins) of the complex numbers x (bins, 2). */
static void energies(const float *x, size_t bins, float *energy) {
    for (size_t k = 0; k < bins; k++)
        energy[k] = x[2 * k] * x[2 * k] + x[2 * k + 1] * x[2 * k + 1];
}

/* The gain that takes the running level out: the mean power of a bin, over all frames until there
 * are level_frames of them, from then on forgetting. */
static float level_gain(enhance *e) {
    float sum = 0.0f, gain[LANES];
    for (size_t k = 0; k < e->bins; k++) sum += e->energy[k];
    float now = sum / (float)e->bins;
    float *mean = &e->level[0], *count = &e->level[1];
    *count = *count + 1.0f < e->level_frames ? *count + 1.0f : e->level_frames;
    *mean = *mean + (now - *mean) / *count;
    v_store(gain, v_rsqrt(v_at_least(v_all(*mean), 1e-9f)));
    return gain[0];
}

/* The network's input (bins, 2): the spectrum without its level, its magnitude compressed. */
static void compress(enhance *e) {
    energies(e->spectrum, e->bins, e->energy);
    float gain = e->level_frames > 0.0f ? level_gain(e) : 1.0f;
    if (e->inward == 0.0f) {
        for (size_t i = 0; i < 2 * e->bins; i++) e->plane[i] = e->spectrum[i] * gain;
        return;
    }
    for (size_t k = 0; k < e->bins; k++) e->energy[k] *= gain * gain;
    powers(e->energy, e->bins, 1e-8f, e->inward);
    for (size_t k = 0; k < e->bins; k++)
        for (size_t i = 2 * k; i < 2 * k + 2; i++)
            e->plane[i] = e->spectrum[i] * gain * e->energy[k];
}

/* All decoders: from the bottleneck's plane to `out`: (bins, outputs) of each. */
static void decode_all(enhance *e, const float *plane) {
    for (size_t d = 0; d < e->decoders; d++) {
        const float *x = plane;
        for (size_t i = e->layers; i-- > 0;) {
            /* In place: a layer takes its input apart before it writes. */
            float *to = i ? e->v : e->out + d * e->bins;
            decode(e, d, i, x, to);
            x = to;
        }
    }
}

/* What the decoders gave, as the spectrum (bins, 2): masked, or itself uncompressed. */
static void put_out(enhance *e) {
    size_t step = e->outputs, bins = e->bins;
    const float *re = e->out, *im = e->decoders == 2 ? e->out + bins : e->out + 1;
    if (e->output == COMPLEX_MAPPING) {
        for (size_t k = 0; k < bins; k++) {
            e->spectrum[2 * k] = re[k * step];
            e->spectrum[2 * k + 1] = im[k * step];
        }
        if (e->outward == 0.0f) return;
        energies(e->spectrum, bins, e->energy);
        powers(e->energy, bins, 1e-8f, e->outward);
        for (size_t k = 0; k < bins; k++) {
            e->spectrum[2 * k] *= e->energy[k];
            e->spectrum[2 * k + 1] *= e->energy[k];
        }
        return;
    }
    size_t n = bins * e->outputs * e->decoders;
    for (size_t i = 0; i < n; i += LANES)
        v_store_first(e->out + i, v_tanh(v_load(e->out + i)) * 2.0f, n - i);
    if (e->output == MAGNITUDE_PHASE) {
        /* The direction alone is the complex mask's; below a length of 1e-2 it shrinks. */
        for (size_t k = 0; k < bins; k++)
            e->energy[k] = re[k * step] * re[k * step] + im[k * step] * im[k * step];
        for (size_t k = 0; k < bins; k += LANES)
            v_store(e->energy + k, v_rsqrt(v_at_least(v_load(e->energy + k), 1e-4f)));
    }
    for (size_t k = 0; k < bins; k++) {
        float a = re[k * step], b = im[k * step], *s = e->spectrum + 2 * k;
        if (e->output == MAGNITUDE_PHASE) {
            float magnitude = e->out[k * step + 2];
            float turn = (magnitude < 0.0f ? -magnitude : magnitude) * e->energy[k];
            a *= turn;
            b *= turn;
        }
        float masked = a * s[0] - b * s[1];
        s[1] = a * s[1] + b * s[0];
        s[0] = masked;
    }
}

/* Samples that the frame completes; the rest waits for the next one. */
static void synthesise(enhance *e, float *out) {
    size_t O = e->overlap;
    fft_real_inverse(&e->transform, e->spectrum, e->frame);
    for (size_t i = 0; i < e->window; i++) e->frame[i] *= e->taper[i];
    for (size_t i = 0; i < O; i++) e->frame[i] += e->made[i];
    memcpy(out, e->frame, e->hop * sizeof *out);
    memcpy(e->made, e->frame + e->hop, O * sizeof *out);
}

void enhance_process(enhance *e, const float *in, float *out) {
    analyse(e, in);
    compress(e);
    for (size_t i = 0; i < e->layers; i++) encode(e, i, i ? e->skip[i - 1] : e->plane);
    const float *x = e->skip[e->layers - 1];
    if (e->bottleneck == DUAL_PATH) {
        memcpy(e->w, x, width_of(e) * places_of(e) * sizeof *x);
        for (size_t i = 0; i < e->recurrent; i++) two_paths(e, i, e->w);
        x = e->w;
    } else {
        x = bottleneck(e, x);
    }
    decode_all(e, x);
    put_out(e);
    synthesise(e, out);
}

void enhance_reset(enhance *e) {
    for (size_t i = 0; i < e->state_size; i++) e->state[i] = 0.0f;
}

/* Whether a * b + c is rounded twice, as it must be: (1 + 2^-12)^2 - 1 - 2^-11 is 2^-24 if the
 * product is not rounded by itself. */
static int rounds_products(void) {
    volatile float a = 1.000244140625f, c = -1.00048828125f;
    float x = a, y = a, z = c;
    return x * y + z == 0.0f;
}

const char *enhance_refusal(const void *weights, size_t bytes) {
    enhance model;
    return read_weights(&model, weights, bytes);
}

size_t enhance_size(const void *weights, size_t bytes) {
    enhance model;
    return read_weights(&model, weights, bytes) ? 0 : room(&model);
}

enhance *enhance_open(void *memory, size_t size, const void *weights, size_t bytes) {
    enhance model;
    if (!memory || (uintptr_t)memory % 64 || !rounds_products()) return NULL;
    if (read_weights(&model, weights, bytes)) return NULL;
    size_t needed = room(&model);
    if (size < needed) return NULL;
    float *base = (float *)((uint8_t *)memory + up(sizeof model, 64));
    for (size_t i = 0; i < (needed - up(sizeof model, 64)) / sizeof *base; i++) base[i] = 0.0f;
    arena space = {base, 0};
    lay_out(&model, &space);
    fft_open(&model.transform);
    memcpy(memory, &model, sizeof model);
    return memory;
}

int enhance_sample_rate(const enhance *e) { return e->sample_rate; }
int enhance_hop(const enhance *e) { return (int)e->hop; }
int enhance_latency(const enhance *e) { return (int)e->overlap; }
size_t enhance_state_size(const enhance *e) { return e->state_size; }
float *enhance_state(enhance *e) { return e->state; }
const char *enhance_version(void) { return VERSION; }
const char *enhance_instructions(void) { return INSTRUCTIONS; }
