/* Speech enhancement of one channel at any rate, in pieces of any size: as many samples out as in.
 *
 * Around the network of enhance.h, in the same source file and of the same kind: memory is the
 * caller's, the bits are the same everywhere. Where the rate is not the model's, it is converted
 * by a filter of 32 samples of the lower rate each way.
 *
 *     size_t size = enhance_stream_size(weights, bytes, 48000);       // 0: refused
 *     enhance_stream *s = enhance_stream_open(aligned_alloc(64, size), size, weights, bytes, 48000);
 *     while (read(piece, n)) { enhance_stream_process(s, piece, piece, n); write(piece, n); }
 */
#ifndef ENHANCE_STREAM_H
#define ENHANCE_STREAM_H
#include "enhance.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct enhance_stream enhance_stream;

/* Bytes of memory that a stream needs, a multiple of 64; 0 if the weights are refused, or the rate
 * is not from 1000 to 768000 or not within 100 times the model's, up or down. */
ENHANCE_API size_t enhance_stream_size(const void *weights, size_t bytes, int rate);

/* Begin a stream at `rate` samples per second, in memory at a multiple of 64 bytes; as
 * enhance_open. To close it, free the memory. */
ENHANCE_API enhance_stream *enhance_stream_open(void *memory, size_t size, const void *weights,
                                                size_t bytes, int rate);

/* Samples by which the output is late, whatever the pieces: filters, the model, the wait for a
 * whole hop. */
ENHANCE_API int enhance_stream_latency(const enhance_stream *s);

/* Enhance `count` samples; full scale is 1. `in` and `out` may be the same. Samples that are not
 * numbers count as 0, those beyond 1e6 as 1e6. A hop is computed when its last sample is there. */
ENHANCE_API void enhance_stream_process(enhance_stream *s, const float *in, float *out,
                                        size_t count);

/* Forget the past; the settings stay. */
ENHANCE_API void enhance_stream_reset(enhance_stream *s);

/* Most decibels by which anything is suppressed; below 0, or 100 and above: no limit, as at the
 * beginning. This and the strength are reached within 20 ms, without a click, or at once before the
 * first sample. */
ENHANCE_API void enhance_stream_set_limit(enhance_stream *s, float decibels);

/* Share of the model's work that is kept, 0 to 1, as at the beginning. With 0 the input comes out,
 * to the last bit, late. */
ENHANCE_API void enhance_stream_set_strength(enhance_stream *s, float share);

/* Whether what lies above the model's band is kept, with the gain of the band below it; as at the
 * beginning. To be called before the first sample. */
ENHANCE_API void enhance_stream_set_full_band(enhance_stream *s, int on);

#ifdef __cplusplus
}
#endif
#endif
