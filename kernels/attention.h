/* Causal attention over a cache of keys and values, chunk by chunk.
 *
 * The two products go through kernels/matmul in the model's precision, over blocks of keys at fixed
 * absolute positions, with a running maximum and sum in f32 (online softmax, Milakov and Gimelshein
 * 2018; Dao et al. 2022). A token's result does not depend on how the sequence is cut into chunks,
 * nor on the number of threads. */
#ifndef FPTQ_KERNELS_ATTENTION_H
#define FPTQ_KERNELS_ATTENTION_H

#include <stddef.h>
#include <stdint.h>

#include "kernels/matmul.h"

struct attention_shape {
    int heads, kv_heads, head_dim;   /* heads is a multiple of kv_heads (grouped-query attention) */
    int64_t context;                 /* positions the cache has room for */
    int64_t window;                  /* a token sees this many positions, itself included; 0: all */
    float scale;                     /* scores are multiplied by it, > 0: 1/sqrt(head_dim) */
    const float *alibi_slopes;       /* (heads), score += slope * key position; NULL: none */
    enum matmul_precision precision; /* MATMUL_BF16: cache in bf16; MATMUL_F32: cache in f32 */
};

/* Bytes of the cache of one layer and one sequence, which is to be aligned to 64 bytes. Its layout
 * is the kernel's own; it needs no clearing, since what was not appended is never read. */
size_t attention_cache_bytes(const struct attention_shape *shape);
/* Scratch that each thread of the team must have, for both calls below, on any path and in either
 * precision; it includes matmul_scratch_bytes(). */
size_t attention_scratch_bytes(const struct attention_shape *shape, int64_t max_tokens);

/* Put keys (after RoPE) and values f32 (T, kv_heads * head_dim), row stride `stride`, into the
 * cache at positions position .. position + T - 1. */
void attention_append(const struct compute *compute, void *cache,
                      const struct attention_shape *shape, int64_t position, int64_t tokens,
                      const float *keys, const float *values, int64_t stride);

/* output f32 (T, heads * head_dim) for queries f32 (T, heads * head_dim, row stride query_stride)
 * at positions position .. position + T - 1, whose keys are in the cache already. */
void attention_run(const struct compute *compute, float *output, const float *queries,
                   int64_t query_stride, const void *cache, const struct attention_shape *shape,
                   int64_t position, int64_t tokens);

#endif
