/* driver WEIGHTS IN OUT: raw float32 samples through a model, in memory of exactly its size.
 * Ends with 3 if the weights are refused, and says why. */
#include <stdio.h>
#include <stdlib.h>

#include "enhance.h"

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

int main(int count, char **names) {
    size_t bytes, length;
    if (count != 4) return 2;
    void *weights = read_file(names[1], &bytes);
    float *wave = read_file(names[2], &length);
    const char *why = enhance_refusal(weights, bytes);
    if (why) {
        puts(why);
        return 3;
    }
    size_t size = enhance_size(weights, bytes);
    void *memory = NULL;
    if (posix_memalign(&memory, 64, size)) return 2;
    enhance *e = enhance_open(memory, size, weights, bytes);
    if (!e) return 4;
    size_t hop = (size_t)enhance_hop(e);
    for (size_t i = 0; i + hop <= length / sizeof *wave; i += hop) enhance_process(e, wave + i, wave + i);
    FILE *file = fopen(names[3], "wb");
    fwrite(wave, 1, length, file);
    fclose(file);
    puts(enhance_instructions());
    free(memory);
    free(wave);
    free(weights);
    return 0;
}
