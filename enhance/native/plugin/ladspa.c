/* LADSPA plug-ins over the stream: enhance_mono, and enhance_stereo with a stream for each channel.
 *
 * Any rate, any block. Weights are linked in as `enhance_weights`. A host may not cope with a
 * plug-in that refuses to begin (FFmpeg does not): where the rate is impossible or the weights are
 * refused, the input passes as it is, and standard error says so once. */
#include <ladspa.h>
#include <stdio.h>
#include <stdlib.h>

#include "stream.h"

extern const unsigned int enhance_weights[];
extern const size_t enhance_weights_size;

#define MOST_CHANNELS 2

/* Ports: an input and an output of each channel, the limit, the latency. */
enum { LIMIT, LATENCY, CONTROLS };

typedef struct {
    size_t channels;
    enhance_stream *stream[MOST_CHANNELS]; /* NULL: passes as it is */
    LADSPA_Data *in[MOST_CHANNELS], *out[MOST_CHANNELS], *control[CONTROLS];
} plugin;

static enhance_stream *open_stream(unsigned long rate) {
    int whole = rate <= 768000 ? (int)rate : 0;
    size_t size = enhance_stream_size(enhance_weights, enhance_weights_size, whole);
    void *memory = size ? aligned_alloc(64, size) : NULL;
    if (!memory) return NULL;
    enhance_stream *s =
        enhance_stream_open(memory, size, enhance_weights, enhance_weights_size, whole);
    if (!s) free(memory);
    return s;
}

static const char *why_not(void) {
    const char *why = enhance_refusal(enhance_weights, enhance_weights_size);
    return why ? why : "no such rate, too little memory, or compiled without -ffp-contract=off";
}

static LADSPA_Handle instantiate(const LADSPA_Descriptor *descriptor, unsigned long rate) {
    plugin *p = calloc(1, sizeof *p);
    if (!p) return NULL;
    p->channels = (descriptor->PortCount - CONTROLS) / 2;
    for (size_t c = 0; c < p->channels; c++)
        if (!(p->stream[c] = open_stream(rate))) {
            while (c--) { /* all channels or none, or they would lie apart */
                free(p->stream[c]);
                p->stream[c] = NULL;
            }
            fprintf(stderr, "enhance: at %lu Hz the input passes as it is (%s)\n", rate, why_not());
            break;
        }
    return p;
}

static void report_latency(const plugin *p) {
    if (p->control[LATENCY])
        *p->control[LATENCY] =
            p->stream[0] ? (LADSPA_Data)enhance_stream_latency(p->stream[0]) : 0.0f;
}

static void connect_port(LADSPA_Handle handle, unsigned long port, LADSPA_Data *at) {
    plugin *p = handle;
    if (port < p->channels)
        p->in[port] = at;
    else if (port < 2 * p->channels)
        p->out[port - p->channels] = at;
    else if (port < 2 * p->channels + CONTROLS)
        p->control[port - 2 * p->channels] = at;
}

static void activate(LADSPA_Handle handle) {
    plugin *p = handle;
    for (size_t c = 0; c < p->channels; c++)
        if (p->stream[c]) enhance_stream_reset(p->stream[c]);
    report_latency(p);
}

static void run(LADSPA_Handle handle, unsigned long count) {
    plugin *p = handle;
    for (size_t c = 0; c < p->channels; c++) {
        if (!p->in[c] || !p->out[c]) continue;
        if (p->stream[c]) {
            enhance_stream_set_limit(p->stream[c], p->control[LIMIT] ? *p->control[LIMIT] : -1.0f);
            enhance_stream_process(p->stream[c], p->in[c], p->out[c], count);
        } else {
            for (unsigned long i = 0; i < count; i++) p->out[c][i] = p->in[c][i];
        }
    }
    report_latency(p);
}

static void cleanup(LADSPA_Handle handle) {
    plugin *p = handle;
    for (size_t c = 0; c < p->channels; c++) free(p->stream[c]); /* it begins its memory */
    free(p);
}

#define AUDIO_IN (LADSPA_PORT_INPUT | LADSPA_PORT_AUDIO)
#define AUDIO_OUT (LADSPA_PORT_OUTPUT | LADSPA_PORT_AUDIO)
#define CONTROL_KINDS LADSPA_PORT_INPUT | LADSPA_PORT_CONTROL, LADSPA_PORT_OUTPUT | LADSPA_PORT_CONTROL
#define CONTROL_NAMES "Attenuation Limit (dB)", "latency" /* by this name hosts know it */
#define CONTROL_HINTS                                                                              \
    {LADSPA_HINT_BOUNDED_BELOW | LADSPA_HINT_BOUNDED_ABOVE | LADSPA_HINT_DEFAULT_MAXIMUM, 0, 100}, \
    {0, 0, 0}

static const LADSPA_PortDescriptor mono_kinds[] = {AUDIO_IN, AUDIO_OUT, CONTROL_KINDS};
static const char *const mono_names[] = {"Input", "Output", CONTROL_NAMES};
static const LADSPA_PortRangeHint mono_hints[] = {{0, 0, 0}, {0, 0, 0}, CONTROL_HINTS};

static const LADSPA_PortDescriptor stereo_kinds[] = {AUDIO_IN, AUDIO_IN, AUDIO_OUT, AUDIO_OUT,
                                                     CONTROL_KINDS};
static const char *const stereo_names[] = {"Input (Left)", "Input (Right)", "Output (Left)",
                                           "Output (Right)", CONTROL_NAMES};
static const LADSPA_PortRangeHint stereo_hints[] = {{0, 0, 0}, {0, 0, 0}, {0, 0, 0}, {0, 0, 0},
                                                    CONTROL_HINTS};

#define DESCRIPTOR(id, label, name, channels, kinds, names, hints)                            \
    {                                                                                         \
        id, label, LADSPA_PROPERTY_HARD_RT_CAPABLE, name, "enhance", "MIT",                   \
            2 * channels + CONTROLS, kinds, names, hints, NULL, instantiate, connect_port,    \
            activate, run, NULL, NULL, NULL, cleanup                                          \
    }

static const LADSPA_Descriptor descriptors[] = {
    DESCRIPTOR(5238014, "enhance_mono", "Speech enhancement", 1, mono_kinds, mono_names, mono_hints),
    DESCRIPTOR(5238015, "enhance_stereo", "Speech enhancement, stereo", 2, stereo_kinds,
               stereo_names, stereo_hints),
};

#if defined(__GNUC__)
__attribute__((visibility("default")))
#endif
const LADSPA_Descriptor *ladspa_descriptor(unsigned long index) {
    return index < sizeof descriptors / sizeof *descriptors ? &descriptors[index] : NULL;
}
