/* libFuzzer's way into the reader of weights (enhance_refusal, _size, _open) and what follows: hops,
 * and a stream at a rate that the input chooses. All memory is of exactly the size asked for, so
 * that the address sanitizer sees a step beyond. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

#define MOST_BYTES (1u << 24) /* of a stream that is run: larger ones are slow, which is no fault */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

/* Most changes would end at the length or the checksum: those are made right, but for one in eight. */
static void repair(uint32_t *words, size_t bytes) {
    if (bytes < 256 || words[bytes / 4 - 1] % 8 == 7) return;
    uint32_t sum = 2166136261u;
    for (size_t i = 4; i < bytes / 4; i++) sum = (sum ^ words[i]) * 16777619u;
    words[2] = (uint32_t)bytes;
    words[3] = sum;
}

static void *room(size_t bytes) {
    void *memory = NULL;
    if (posix_memalign(&memory, 64, bytes)) abort();
    return memory;
}

static void run_hops(const void *weights, size_t bytes, size_t size) {
    void *memory = room(size);
    enhance *e = enhance_open(memory, size, weights, bytes);
    if (!e) abort();
    size_t hop = (size_t)enhance_hop(e);
    float *wave = room(hop * sizeof *wave);
    for (int frame = 0; frame < 3; frame++) {
        for (size_t i = 0; i < hop; i++) wave[i] = (float)(i % 7) * 0.1f - 0.3f;
        enhance_process(e, wave, wave);
    }
    enhance_reset(e);
    free(wave);
    free(memory);
}

static void run_stream(const void *weights, size_t bytes, int rate) {
    size_t size = enhance_stream_size(weights, bytes, rate);
    if (!size || size > MOST_BYTES) return;
    void *memory = room(size);
    enhance_stream *s = enhance_stream_open(memory, size, weights, bytes, rate);
    if (!s) abort();
    size_t count = (size_t)enhance_stream_latency(s) + 100;
    if (count < 20000) {
        float *wave = room(count * sizeof *wave);
        for (size_t i = 0; i < count; i++) wave[i] = (float)(i % 5) * 0.2f - 0.4f;
        enhance_stream_process(s, wave, wave, count);
        enhance_stream_set_limit(s, wave[0]);
        enhance_stream_process(s, wave, wave, 7);
        free(wave);
    }
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    bytes -= bytes % 64; /* anything else is refused at once */
    uint32_t *weights = room(bytes + !bytes);
    memcpy(weights, data, bytes);
    repair(weights, bytes);
    size_t size = enhance_size(weights, bytes);
    if ((size == 0) != (enhance_refusal(weights, bytes) != NULL)) abort();
    if (size && size <= MOST_BYTES) {
        static const int rates[] = {16000, 48000, 44100, 8000, 16001, 1000, 768000, 999};
        run_hops(weights, bytes, size);
        run_stream(weights, bytes, rates[weights[bytes / 4 - 2] % 8]);
    }
    free(weights);
    return 0;
}
