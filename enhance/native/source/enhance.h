/* Speech enhancement, one hop of samples at a time.
 *
 * Plain C11, one source file, no library: no allocation, no threads, no global state, nothing of
 * libc but memcpy. A model is a block of weights (enhance.bin, or the array of
 * enhance_weights.c), read where it lies and never written; any number of streams may share it.
 *
 *     size_t size = enhance_size(weights, bytes);          // 0: see enhance_refusal
 *     enhance *e = enhance_open(aligned_alloc(64, size), size, weights, bytes);
 *     while (read(in, enhance_hop(e))) { enhance_process(e, in, out); write(out, enhance_hop(e)); }
 *
 * Results are the same to the last bit for every instruction set and compiler: compile with
 * -ffp-contract=off and never with -ffast-math.
 */
#ifndef ENHANCE_H
#define ENHANCE_H

#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef ENHANCE_API
#define ENHANCE_API
#endif

typedef struct enhance enhance;

/* Why these weights cannot be used, or NULL if they can. Weights are not trusted: their sizes,
 * checksum and every number are looked at. They must lie at a multiple of 16 bytes. */
ENHANCE_API const char *enhance_refusal(const void *weights, size_t bytes);

/* Bytes of memory that one stream needs, a multiple of 64; 0 if the weights are refused. */
ENHANCE_API size_t enhance_size(const void *weights, size_t bytes);

/* Begin a stream in memory of the caller, at a multiple of 64 bytes. The weights must stay where
 * they are. NULL if they are refused, the memory is too small or not aligned, or the code was
 * compiled so that it would not give the same bits (products contracted with additions).
 * To close a stream, free the memory. */
ENHANCE_API enhance *enhance_open(void *memory, size_t size, const void *weights, size_t bytes);

/* Samples per second, samples of a hop, samples by which the output is late. */
ENHANCE_API int enhance_sample_rate(const enhance *e);
ENHANCE_API int enhance_hop(const enhance *e);
ENHANCE_API int enhance_latency(const enhance *e);

/* Enhance one hop; full scale is 1. `in` and `out` may be the same. Samples that are not numbers
 * count as 0, those beyond 1e6 as 1e6. */
ENHANCE_API void enhance_process(enhance *e, const float *in, float *out);

/* Forget the past. */
ENHANCE_API void enhance_reset(enhance *e);

/* All that a stream remembers: so many floats, to be copied out, or in to go on from there. They
 * are the states of the ONNX file, one after the other, in its order. */
ENHANCE_API size_t enhance_state_size(const enhance *e);
ENHANCE_API float *enhance_state(enhance *e);

/* Version of this code, and the instruction set it was compiled for. */
ENHANCE_API const char *enhance_version(void);
ENHANCE_API const char *enhance_instructions(void);

#ifdef __cplusplus
}
#endif
#endif
