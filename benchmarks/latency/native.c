/* native WEIGHTS IN OUT: two seconds through the hops, then through a stream at 44.1 kHz, both
 * written; prints the instruction set and the bytes of stack that opening and processing took.
 *
 * A painted stack: deep below, every byte is set, then the call is made from the same depth, and
 * what is still painted was not used. */
#include <stdio.h>
#include <stdlib.h>

#include "stream.h"

#define DEPTH 262144
#define PAINT 0xA5

#define APART __attribute__((noinline))

static const void *weights;
static size_t bytes, size, samples;
static void *memory;
static float *wave;
static enhance *e;
static enhance_stream *s;

static void *read_file(const char *path, size_t *length) {
    FILE *file = fopen(path, "rb");
    if (!file) exit(2);
    fseek(file, 0, SEEK_END);
    *length = (size_t)ftell(file);
    rewind(file);
    void *data = aligned_alloc(64, (*length + 64) / 64 * 64);
    if (!data || fread(data, 1, *length, file) != *length) exit(2);
    fclose(file);
    return data;
}

APART static void paint(void) {
    volatile unsigned char stack[DEPTH];
    for (size_t i = 0; i < DEPTH; i++) stack[i] = PAINT;
}

APART static size_t used(void) {
    volatile unsigned char stack[DEPTH];
    size_t i = 0;
    while (i < DEPTH && stack[i] == PAINT) i++;
    return DEPTH - i;
}

static void open_hops(void) { e = enhance_open(memory, size, weights, bytes); }
static void run_hop(void) { enhance_process(e, wave, wave); }
static void open_stream(void) { s = enhance_stream_open(memory, size, weights, bytes, 44100); }
static void run_stream(void) { enhance_stream_process(s, wave, wave, samples); }

APART static size_t stack_of(void (*call)(void)) {
    paint();
    call();
    return used();
}

static void save(const char *path, const char *mode) {
    FILE *file = fopen(path, mode);
    if (!file || fwrite(wave, sizeof *wave, samples, file) != samples) exit(2);
    fclose(file);
}

int main(int count, char **names) {
    size_t length, stack[4];
    if (count != 4) return 2;
    weights = read_file(names[1], &bytes);
    float *in = read_file(names[2], &length);
    samples = length / sizeof *in;
    wave = aligned_alloc(64, (length + 63) / 64 * 64);
    size = enhance_size(weights, bytes);
    memory = aligned_alloc(64, (size + 63) / 64 * 64);
    if (!size || !memory || !wave) return 3;
    stack[0] = stack_of(open_hops);
    if (!e) return 4;
    for (size_t i = 0; i < samples; i++) wave[i] = in[i];
    stack[1] = stack_of(run_hop);
    size_t hop = (size_t)enhance_hop(e);
    float *first = wave;
    for (wave += hop; wave + hop <= first + samples; wave += hop) run_hop();
    wave = first;
    save(names[3], "wb");
    free(memory);
    size = enhance_stream_size(weights, bytes, 44100);
    memory = aligned_alloc(64, size);
    stack[2] = stack_of(open_stream);
    if (!s) return 4;
    for (size_t i = 0; i < samples; i++) wave[i] = in[i];
    stack[3] = stack_of(run_stream);
    save(names[3], "ab");
    printf("%s,%zu,%zu,%zu,%zu\n", enhance_instructions(), stack[0], stack[1], stack[2], stack[3]);
    return 0;
}
