#include "stream.h"

#include "band.h"
#include "resample.h"

#define BLOCK 64 /* samples that are taken at a time */
#define MOST_RATIO 100

struct enhance_stream {
    enhance *model;
    size_t hop, late;         /* the model's */
    size_t skip;              /* samples of the model's output that are still to be left out */
    resampler there, back;
    upper_band band;
    int full;                 /* the upper band is kept */
    size_t latency;
    size_t ring, read, write, made; /* its length; places of the output, the input, of `wet` */
    float *dry, *wet;         /* (ring) the input; what the model made of it, in its place */
    float *fresh;             /* (hop) input of the model */
    size_t filled;            /* samples of it */
    float *out;               /* (hop) output of the model */
    float strength, floor;    /* the settings: share that is kept, and what a limit leaves in */
    float share, target;      /* of the model's output in ours: now, and where it goes */
    float rise;               /* in a sample */
    size_t left, ramp;        /* samples until it is there; of a whole way */
    int begun;                /* a sample has come */
};

/* Sizes of a stream; 0 if there can be none. */
static int stream_plan(enhance_stream *s, const enhance *model, int rate) {
    int own = model->sample_rate;
    if (rate < 1000 || rate > 768000) return 0;
    if (rate / MOST_RATIO >= own || own / MOST_RATIO >= rate) return 0;
    *s = (enhance_stream){.hop = model->hop, .late = model->overlap};
    s->band.hop = s->hop;
    s->band.late = s->late;
    resample_plan(&s->there, (size_t)rate, (size_t)own, BLOCK);
    resample_plan(&s->back, (size_t)own, (size_t)rate, s->hop);
    /* The worst case: an output that waits for the first sample of a hop. */
    uint64_t inner = s->back.ahead + s->late + s->hop - 1;
    s->latency = (size_t)(inner * (uint64_t)rate / (uint64_t)own) + s->there.ahead;
    s->ring = s->latency + BLOCK;
    s->ramp = (size_t)rate / 50;
    s->full = rate > own;
    s->strength = s->share = s->target = 1.0f;
    return 1;
}

static void stream_lay_out(enhance_stream *s, arena *a) {
    resample_lay_out(&s->there, a, 0);
    resample_lay_out(&s->back, a, 1);
    band_lay_out(&s->band, a);
    s->dry = piece(a, s->ring);
    s->wet = piece(a, s->ring);
    align(a);
    s->fresh = piece(a, s->hop);
    s->out = piece(a, s->hop);
    align(a);
}

/* Bytes: the struct, the model, the rest. */
static size_t stream_room(enhance_stream *s, enhance *model) {
    arena count = {NULL, 0};
    stream_lay_out(s, &count);
    return up(sizeof *s, 64) + up(room(model), 64) + (size_t)count.used * sizeof(float);
}

size_t enhance_stream_size(const void *weights, size_t bytes, int rate) {
    enhance model;
    enhance_stream s;
    if (read_weights(&model, weights, bytes) || !stream_plan(&s, &model, rate)) return 0;
    return stream_room(&s, &model);
}

enhance_stream *enhance_stream_open(void *memory, size_t size, const void *weights, size_t bytes,
                                    int rate) {
    enhance model;
    enhance_stream plan, *s = memory;
    if (!memory || (uintptr_t)memory % 64) return NULL;
    if (read_weights(&model, weights, bytes) || !stream_plan(&plan, &model, rate)) return NULL;
    if (size < stream_room(&plan, &model)) return NULL;
    uint8_t *at = (uint8_t *)memory + up(sizeof *s, 64);
    size_t inner = up(room(&model), 64);
    plan.model = enhance_open(at, inner, weights, bytes);
    if (!plan.model) return NULL;
    arena space = {(float *)(at + inner), 0};
    stream_lay_out(&plan, &space);
    for (size_t i = 0; i < space.used; i++) space.base[i] = 0.0f;
    resample_open(&plan.there);
    resample_open(&plan.back);
    band_open(&plan.band, model.sample_rate);
    *s = plan;
    enhance_stream_reset(s);
    return s;
}

int enhance_stream_latency(const enhance_stream *s) { return (int)s->latency; }

void enhance_stream_reset(enhance_stream *s) {
    enhance_reset(s->model);
    resample_clear(&s->there);
    resample_clear(&s->back);
    band_clear(&s->band);
    for (size_t i = 0; i < s->ring; i++) s->dry[i] = s->wet[i] = 0.0f;
    s->skip = s->late;
    s->filled = s->write = s->made = s->left = 0;
    s->read = s->ring - s->latency;
    s->share = s->target;
    s->begun = 0;
}

/* Where the settings lead: see wet_share of enhance/device/aligned_stream.py. */
static void aim(enhance_stream *s) {
    float target = s->strength * (1.0f - s->floor);
    if (target == s->target) return;
    s->target = target;
    if (s->begun) {
        s->left = s->ramp;
        s->rise = (target - s->share) / (float)s->ramp;
    } else {
        s->share = target;
    }
}

void enhance_stream_set_limit(enhance_stream *s, float decibels) {
    float floor[LANES];
    v_store(floor, v_exp(v_all(decibels * -0.115129255f))); /* ln 10 / 20 */
    s->floor = decibels >= 0.0f && decibels < 100.0f ? floor[0] : 0.0f;
    aim(s);
}

void enhance_stream_set_strength(enhance_stream *s, float share) {
    s->strength = share > 0.0f ? share < 1.0f ? share : 1.0f : 0.0f; /* not a number: 0 */
    aim(s);
}

void enhance_stream_set_full_band(enhance_stream *s, int on) {
    s->full = on && s->back.up > s->back.down;
}

INLINE size_t next_place(const enhance_stream *s, size_t at) { return at + 1 < s->ring ? at + 1 : 0; }

/* A whole hop has come: through the model, and back to the stream's rate as far as it reaches. */
static void step_stream(enhance_stream *s) {
    const float *made = s->out, *gains = s->band.gains;
    s->filled = 0;
    enhance_process(s->model, s->fresh, s->out);
    if (s->full) {
        band_step(&s->band, s->fresh, s->out);
        made = s->band.lower;
    }
    size_t skipped = s->skip < s->hop ? s->skip : s->hop;
    s->skip -= skipped;
    resample_put(&s->back, made + skipped, gains + skipped, s->hop - skipped);
    while (resample_ready(&s->back)) {
        float y = resample_next(&s->back);
        if (s->full) y += resample_beside(&s->back) * s->dry[s->made];
        s->wet[s->made] = y;
        s->made = next_place(s, s->made);
        resample_step(&s->back);
    }
}

/* The next sample that goes out. */
static float blend(enhance_stream *s) {
    float dry = s->dry[s->read], wet = s->wet[s->read];
    s->read = next_place(s, s->read);
    if (s->left) s->share = --s->left ? s->share + s->rise : s->target;
    if (s->share == 1.0f) return wet;
    if (s->share == 0.0f) return dry;
    return s->share * wet + (1.0f - s->share) * dry;
}

void enhance_stream_process(enhance_stream *s, const float *in, float *out, size_t count) {
    float block[BLOCK];
    s->begun |= count > 0;
    while (count) {
        size_t n = count < BLOCK ? count : BLOCK;
        for (size_t i = 0; i < n; i++) {
            float x = bounded(in[i]);
            s->dry[s->write] = x;
            s->write = next_place(s, s->write);
            block[i] = without_trace(x);
        }
        resample_put(&s->there, block, NULL, n);
        while (resample_ready(&s->there)) {
            s->fresh[s->filled++] = resample_next(&s->there);
            resample_step(&s->there);
            if (s->filled == s->hop) step_stream(s);
        }
        for (size_t i = 0; i < n; i++) out[i] = blend(s);
        in += n;
        out += n;
        count -= n;
    }
}
