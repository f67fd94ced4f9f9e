/* driver WEIGHTS IN OUT [RATE PIECE]: raw float32 samples through a model, or through a stream at a
 * rate, PIECE samples at a time; in memory of exactly its size. Ends with 3 if the weights are refused, and says why. */
#include <stdio.h>
#include <stdlib.h>

#include "stream.h"

static void *read_file(const char *path, size_t *bytes) {
    FILE *file = fopen(path, "rb");
    if (!file) exit(2);
    fseek(file, 0, SEEK_END);
    *bytes = (size_t)ftell(file);
    rewind(file);
    void *data = NULL;
    if (posix_memalign(&data, 64, *bytes + !*bytes) || fread(data, 1, *bytes, file) != *bytes) exit(2);
    fclose(file);
    return data;
}

static void run_hops(const void *weights, size_t bytes, float *wave, size_t samples) {
    size_t size = enhance_size(weights, bytes);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size)) exit(2);
    enhance *e = enhance_open(memory, size, weights, bytes);
    if (!e) exit(4);
    size_t hop = (size_t)enhance_hop(e);
    for (size_t i = 0; i + hop <= samples; i += hop) enhance_process(e, wave + i, wave + i);
    free(memory);
}

static void run_stream(const void *weights, size_t bytes, float *wave, size_t samples, int rate,
                       size_t piece) {
    size_t size = enhance_stream_size(weights, bytes, rate);
    if (!size) exit(5);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size)) exit(2);
    enhance_stream *s = enhance_stream_open(memory, size, weights, bytes, rate);
    if (!s) exit(4);
    for (size_t i = 0; i < samples; i += piece) {
        size_t n = samples - i < piece ? samples - i : piece;
        enhance_stream_process(s, wave + i, wave + i, n);
    }
    free(memory);
}

int main(int count, char **names) {
    size_t bytes, length;
    if (count != 4 && count != 6) return 2;
    void *weights = read_file(names[1], &bytes);
    float *wave = read_file(names[2], &length);
    const char *why = enhance_refusal(weights, bytes);
    if (why) {
        puts(why);
        return 3;
    }
    if (count == 4)
        run_hops(weights, bytes, wave, length / sizeof *wave);
    else
        run_stream(weights, bytes, wave, length / sizeof *wave, atoi(names[4]), (size_t)atoi(names[5]));
    FILE *file = fopen(names[3], "wb");
    fwrite(wave, 1, length, file);
    fclose(file);
    puts(enhance_instructions());
    free(wave);
    free(weights);
    return 0;
}
