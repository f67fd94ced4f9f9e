/* A model: its sizes, where its weights lie, and the memory of one stream. */
#ifndef ENHANCE_MODEL_H
#define ENHANCE_MODEL_H
#include "fft.h"

#define MOST_LAYERS 12
#define MOST_RECURRENT 8
#define MOST_GROUPS 8

enum { LSTM, GRU };
enum { GROUPED, DUAL_PATH };
enum { MIX_RECURRENT, MIX_ATTENTION, MIX_DENSE };
enum { COMPLEX_MASK, COMPLEX_MAPPING, MAGNITUDE_PHASE };

/* One recurrent layer: its groups; or one block of two paths, which has one. */
typedef struct {
    product input[MOST_GROUPS], held[MOST_GROUPS]; /* gates side by side; LSTM i f o g, GRU r z n */
    product out;                                   /* of two paths: back to the channels */
    product mix[4];     /* recurrent: input, held upwards, then downwards; attention: query, key
                           and value side by side; dense: positions, channels */
    const float *place; /* attention: (F, C) */
    product mix_out;
} recurrence;

struct enhance {
    int sample_rate, cell, bottleneck, mixing, output;
    size_t window, hop, overlap, bins;
    size_t layers, frames, decoders, outputs; /* frames seen by a kernel; outputs of a decoder */
    size_t channels[MOST_LAYERS + 1], size[MOST_LAYERS + 1]; /* of the input and after each layer */
    size_t hidden, recurrent, groups;
    float level_frames, inward, outward; /* exponents of the energy: compression and back */

    const float *taper; /* (window) */
    fft transform;
    product encoder[MOST_LAYERS], decoder[2][MOST_LAYERS]; /* decoder[d][i] makes encoder i's input */
    const float *encoder_shift[MOST_LAYERS], *decoder_shift[2][MOST_LAYERS];
    recurrence rnn[MOST_RECURRENT];
    product join; /* inputs is 0 where there is none */

    /* What is remembered, in one block and in this order. */
    size_t state_size;
    float *state;
    float *heard;                      /* (overlap) the last samples of the input */
    float *level;                      /* mean power, number of frames */
    float *past[MOST_LAYERS];          /* (C, frames - 1, F) input of each encoder layer */
    float *h[MOST_RECURRENT], *c[MOST_RECURRENT]; /* (hidden), of two paths (F, hidden) */
    float *made;                       /* (overlap) of the output, to be added to */

    /* Scratch. */
    float *frame, *spectrum, *energy, *plane, *skip[MOST_LAYERS];
    float *x, *y, *z; /* inputs and outputs of products, and more of them */
    float *w, *v;     /* the bottleneck's plane, the decoder's */
    float *out;       /* what the decoders give, (bins, outputs) each */
    uint8_t *bytes;
};

INLINE size_t most(size_t a, size_t b) { return a > b ? a : b; }
INLINE size_t gates_of(const enhance *e) { return e->cell == LSTM ? 4 : 3; }
INLINE size_t width_of(const enhance *e) { return e->channels[e->layers]; }
INLINE size_t places_of(const enhance *e) { return e->size[e->layers]; }

/* Channels that decoder layer i makes. */
INLINE size_t made_by(const enhance *e, size_t i) { return i ? e->channels[i] : e->outputs; }

/* A piece of memory; a multiple of 64 bytes except within the state. */
typedef struct {
    float *base;   /* NULL to count only */
    uint64_t used; /* floats */
} arena;

static float *piece(arena *a, uint64_t floats) {
    float *at = a->base ? a->base + a->used : NULL;
    a->used += floats;
    return at;
}

static void align(arena *a) { a->used = (a->used + 15) / 16 * 16; }

static void lay_out_state(enhance *e, arena *a) {
    size_t rows = e->bottleneck == DUAL_PATH ? places_of(e) : 1;
    uint64_t start = a->used;
    e->state = piece(a, 0);
    e->heard = piece(a, e->overlap);
    e->level = piece(a, e->level_frames > 0.0f ? 2 : 0);
    for (size_t i = 0; i < e->layers; i++)
        e->past[i] = piece(a, (uint64_t)e->channels[i] * (e->frames - 1) * e->size[i]);
    for (size_t i = 0; i < e->recurrent; i++) {
        e->h[i] = piece(a, rows * e->hidden);
        e->c[i] = piece(a, e->cell == LSTM ? rows * e->hidden : 0);
    }
    e->made = piece(a, e->overlap);
    e->state_size = (size_t)(a->used - start);
}

/* Everything a stream needs. Vectors read and write up to LANES - 1 floats behind a piece's end,
 * hence the 64 bytes behind each. */
static void lay_out(enhance *e, arena *a) {
    lay_out_state(e, a);
    uint64_t C = width_of(e), F = places_of(e), D = C * F, gates = gates_of(e);
    uint64_t x = most(D, e->hidden), y = up(D, TILE), z = 0, bytes = 0, v = 0;
    for (size_t i = 0; i < e->layers; i++) {
        uint64_t f = e->size[i + 1], c = e->channels[i + 1];
        x = most(x, 2 * c * f);
        y = most(y, f * up(2 * c, TILE));
        y = most(y, f * up(6 * made_by(e, i), TILE));
        v = most(v, (uint64_t)e->size[i] * made_by(e, i));
        bytes = most(bytes, (uint64_t)e->size[i] * e->channels[i] * e->frames);
    }
    if (e->bottleneck == DUAL_PATH) {
        uint64_t parts = e->mixing == MIX_ATTENTION ? 3 * C : most(C, gates * (C / 2));
        y = most(y, F * up(most(gates * e->hidden, parts), TILE));
        y = most(y, C * up(F, TILE));
        z = F * up(gates * e->hidden, TILE) + 2 * C * F + F * F + 4 * gates * C;
    } else {
        y = most(y, up(gates * (e->hidden / e->groups), TILE));
        z = up(gates * (e->hidden / e->groups), TILE);
    }
    bytes = most(most(bytes, x), most(D, F * e->hidden));
    align(a);
    struct {
        float **at;
        uint64_t floats;
    } pieces[] = {
        {&e->frame, most(e->transform.samples, e->window)},
        {&e->spectrum, 2 * e->bins},
        {&e->energy, e->bins},
        {&e->plane, 2 * e->bins},
        {&e->x, most(x, bytes)},
        {&e->y, y},
        {&e->z, z},
        {&e->w, D},
        {&e->v, v},
        {&e->out, e->bins * 3},
        {&e->transform.turns, fft_turns_size(&e->transform)},
        {&e->transform.re[0], e->transform.n},
        {&e->transform.re[1], e->transform.n},
        {&e->transform.im[0], e->transform.n},
        {&e->transform.im[1], e->transform.n},
    };
    for (size_t i = 0; i < sizeof pieces / sizeof *pieces; i++) {
        *pieces[i].at = piece(a, pieces[i].floats + 16);
        align(a);
    }
    for (size_t i = 0; i < e->layers; i++) {
        e->skip[i] = piece(a, (uint64_t)e->size[i + 1] * e->channels[i + 1] + 16);
        align(a);
    }
    e->bytes = (uint8_t *)piece(a, (bytes + 64) / 4 + 16);
    align(a);
}

/* Bytes of a stream: the struct, then what `lay_out` lays out, each at a multiple of 64 bytes. */
static size_t room(enhance *model) {
    arena count = {NULL, 0};
    lay_out(model, &count);
    return up(sizeof *model, 64) + (size_t)count.used * sizeof(float);
}
#endif
