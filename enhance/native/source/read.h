/* Reading a block of weights, which is not trusted.
 *
 * Little endian; every section begins at a multiple of 64 bytes:
 *
 *   header     64 words: magic, version, bytes, checksum of all words behind these four, then the
 *              sizes in the order of `read_header`
 *   tables     window (W), roots of the transform (n, 2), for even lengths its ends (n + 1, 2)
 *   encoder    for each layer: product (3 frames C, 2 C'), shift (C')
 *   recurrent  for each layer: for each group product of the input and of the state; or of a block
 *              of two paths: input, state, out, the mixing's, mix_out
 *   join       product (hidden, C F) where hidden is another size
 *   decoders   for each: for each layer from the innermost: product (2 C, 6 C'), shift (C') except
 *              of the last
 *   the end    64 bytes of zeros, metadata (JSON; not read here)
 *
 *   product    16 words: kind (0 float, 1 bytes), K, N; bias; weights, or scale, sum and bytes
 *
 * Rows of the encoder's products: [position k][frame t][channel]. */
#ifndef ENHANCE_READ_H
#define ENHANCE_READ_H
#include "model.h"

#define MAGIC 0x57484e45u /* "ENHW" */
#define FORMAT 1u
#define MOST_BYTES (1u << 28)

typedef struct {
    const uint8_t *at;
    size_t left;
    const char *why; /* the first thing found wrong, or NULL */
} reader;

static void refuse(reader *r, const char *why) {
    if (!r->why) r->why = why;
}

static const void *section(reader *r, size_t bytes) {
    size_t whole = bytes > r->left ? bytes : up(bytes, 64);
    if (r->why || whole > r->left) {
        refuse(r, "weights: cut short");
        return NULL;
    }
    const void *found = r->at;
    r->at += whole;
    r->left -= whole;
    return found;
}

static const float *floats(reader *r, size_t n) {
    if (n > r->left / 4) {
        refuse(r, "weights: cut short");
        return NULL;
    }
    const float *found = section(r, 4 * n);
    for (size_t i = 0; found && i < n; i++)
        if (!(found[i] > -1e30f && found[i] < 1e30f)) {
            refuse(r, "weights: a number is not finite");
            return NULL;
        }
    return found;
}

static void read_bytes(reader *r, product *p, size_t count) {
    p->scale = floats(r, p->pitch);
    p->sum = section(r, 4 * p->pitch);
    p->bytes = section(r, count);
    int wide = 0;
    for (size_t i = 0; p->bytes && i < count; i++) wide |= p->bytes[i] > 63 || p->bytes[i] < -63;
    if (wide) refuse(r, "weights: a byte is out of range");
}

static void read_product(reader *r, product *p, size_t inputs, size_t outputs) {
    *p = (product){.inputs = inputs, .outputs = outputs, .pitch = up(outputs, TILE)};
    const uint32_t *head = section(r, 64);
    if (!head) return;
    if (inputs == 0 || inputs > 32768 || head[0] > 1 || head[1] != inputs || head[2] != outputs) {
        refuse(r, "weights: a matrix has another size than the model");
        return;
    }
    size_t rows = head[0] ? up(inputs, 4) : 4 * inputs; /* in bytes of a column */
    if (p->pitch > r->left / rows) {
        refuse(r, "weights: cut short");
        return;
    }
    p->bias = floats(r, p->pitch);
    if (head[0])
        read_bytes(r, p, rows * p->pitch);
    else
        p->weights = floats(r, inputs * p->pitch);
}

/* The next word, which must lie within bounds. */
static size_t number(reader *r, const uint32_t **at, size_t least, size_t largest) {
    size_t value = *(*at)++;
    if (value < least || value > largest) {
        refuse(r, "weights: a size is out of range");
        return least;
    }
    return value;
}

static float exponent(reader *r, const uint32_t **at) {
    float value;
    memcpy(&value, (*at)++, sizeof value);
    if (!(value >= -1.0f && value <= 16.0f)) refuse(r, "weights: a power is out of range");
    return value;
}

static void read_header(reader *r, enhance *e) {
    const uint32_t *head = section(r, 256);
    if (!head) return;
    head += 5; /* what `read_weights` looks at, and the length of the metadata */
    e->sample_rate = (int)number(r, &head, 1, 1000000);
    e->window = number(r, &head, 1, 8192);
    e->hop = number(r, &head, 1, 8192);
    size_t samples = number(r, &head, 2, 8192);
    e->layers = number(r, &head, 1, MOST_LAYERS);
    e->frames = number(r, &head, 1, 16);
    e->cell = (int)number(r, &head, LSTM, GRU);
    e->hidden = number(r, &head, 1, 8192);
    e->recurrent = number(r, &head, 1, MOST_RECURRENT);
    e->groups = number(r, &head, 1, MOST_GROUPS);
    e->bottleneck = (int)number(r, &head, GROUPED, DUAL_PATH);
    e->mixing = (int)number(r, &head, MIX_RECURRENT, MIX_DENSE);
    e->level_frames = (float)number(r, &head, 0, 1u << 24);
    e->decoders = number(r, &head, 1, 2);
    e->output = (int)number(r, &head, COMPLEX_MASK, MAGNITUDE_PHASE);
    e->inward = exponent(r, &head);
    e->outward = exponent(r, &head);
    e->channels[0] = 2;
    for (size_t i = 1; i <= e->layers; i++) e->channels[i] = number(r, &head, 1, 1024);

    e->overlap = e->window - e->hop;
    if (e->hop > e->window || e->window > 2 * e->hop || samples < e->window)
        refuse(r, "weights: window and hop do not fit");
    e->bins = samples / 2 + 1;
    fft_plan(&e->transform, samples);
    e->size[0] = e->bins;
    for (size_t i = 0; i < e->layers; i++) {
        if (e->size[i] < 3) refuse(r, "weights: too many layers");
        e->size[i + 1] = e->size[i] < 3 ? 1 : (e->size[i] - 3) / 2 + 1;
    }
    if (e->output == MAGNITUDE_PHASE && e->decoders == 2)
        refuse(r, "weights: a magnitude branch and two decoders");
    e->outputs = (e->output == MAGNITUDE_PHASE ? 3 : 2) / e->decoders;
    size_t C = width_of(e), D = C * places_of(e);
    if (e->bottleneck == GROUPED && (e->hidden % e->groups || D % e->groups))
        refuse(r, "weights: groups do not divide");
    if (e->bottleneck == DUAL_PATH && e->mixing == MIX_RECURRENT && C % 2)
        refuse(r, "weights: channels do not divide");
    if (e->bottleneck == DUAL_PATH && e->mixing == MIX_ATTENTION && C % most(1, C / 16))
        refuse(r, "weights: channels do not divide");
}

static void read_grouped(reader *r, const enhance *e, recurrence *layer, size_t inputs) {
    size_t units = e->hidden / e->groups, gates = gates_of(e) * units;
    for (size_t g = 0; g < e->groups; g++) {
        read_product(r, &layer->input[g], inputs / e->groups, gates);
        read_product(r, &layer->held[g], units, gates);
    }
}

static void read_path(reader *r, const enhance *e, recurrence *path) {
    size_t C = width_of(e), F = places_of(e), gates = gates_of(e);
    read_product(r, &path->input[0], C, gates * e->hidden);
    read_product(r, &path->held[0], e->hidden, gates * e->hidden);
    read_product(r, &path->out, e->hidden, C);
    if (e->mixing == MIX_RECURRENT)
        for (size_t way = 0; way < 2; way++) {
            read_product(r, &path->mix[2 * way], C, gates * (C / 2));
            read_product(r, &path->mix[2 * way + 1], C / 2, gates * (C / 2));
        }
    if (e->mixing == MIX_ATTENTION) {
        path->place = floats(r, F * C);
        read_product(r, &path->mix[0], C, 3 * C);
    }
    if (e->mixing == MIX_DENSE) {
        read_product(r, &path->mix[0], F, F);
        read_product(r, &path->mix[1], C, C);
    }
    read_product(r, &path->mix_out, C, C);
}

static void read_layers(reader *r, enhance *e) {
    size_t C = width_of(e), D = C * places_of(e), n = e->transform.n;
    e->taper = floats(r, e->window);
    e->transform.roots = floats(r, 2 * n);
    if (e->transform.samples % 2 == 0) e->transform.ends = floats(r, 2 * (n + 1));
    for (size_t i = 0; i < e->layers; i++) {
        size_t inputs = 3 * e->frames * e->channels[i];
        read_product(r, &e->encoder[i], inputs, 2 * e->channels[i + 1]);
        e->encoder_shift[i] = floats(r, e->channels[i + 1]);
    }
    for (size_t i = 0; i < e->recurrent; i++) {
        if (e->bottleneck == DUAL_PATH)
            read_path(r, e, &e->rnn[i]);
        else
            read_grouped(r, e, &e->rnn[i], i ? e->hidden : D);
    }
    if (e->bottleneck == GROUPED && e->hidden != D) read_product(r, &e->join, e->hidden, D);
    for (size_t d = 0; d < e->decoders; d++)
        for (size_t i = e->layers; i-- > 0;) {
            read_product(r, &e->decoder[d][i], 2 * e->channels[i + 1], 6 * made_by(e, i));
            if (i) e->decoder_shift[d][i] = floats(r, e->channels[i]);
        }
    section(r, 64); /* vectors may read so far behind the last number */
}

/* FNV-1a over words. */
static uint32_t checksum(const uint32_t *words, size_t n) {
    uint32_t sum = 2166136261u;
    for (size_t i = 0; i < n; i++) sum = (sum ^ words[i]) * 16777619u;
    return sum;
}

/* Fill a model from weights; NULL, or why they are refused. */
static const char *read_weights(enhance *e, const void *weights, size_t bytes) {
    reader r = {weights, bytes, NULL};
    const uint32_t *words = weights;
    *e = (enhance){0};
    if (!weights || (uintptr_t)weights % 16) return "weights: not at a multiple of 16 bytes";
    if (bytes < 256 || bytes % 64 || bytes > MOST_BYTES || words[0] != MAGIC)
        return "weights: not of enhance";
    if (words[1] != FORMAT) return "weights: of another version";
    if (words[2] != bytes) return "weights: cut short";
    if (checksum(words + 4, bytes / 4 - 4) != words[3]) return "weights: damaged (checksum)";
    if (words[4] > bytes) return "weights: cut short";
    read_header(&r, e);
    if (!r.why) read_layers(&r, e);
    arena count = {NULL, 0};
    if (!r.why) lay_out(e, &count);
    if (count.used > MOST_BYTES / 4) refuse(&r, "weights: need too much memory");
    return r.why;
}
#endif
