/* Norms, rotary embedding, activations and sums: everything between the products. All in f32, the
 * same bits on every path and for any number of threads: sums run in a fixed order, and the
 * functions are our own (kernels/math_functions.h), so that no libm's version shows. */
#ifndef FPTQ_KERNELS_ELEMENTWISE_H
#define FPTQ_KERNELS_ELEMENTWISE_H

#include <stdint.h>

#include "kernels/team.h"

/* output (T, C) = input (T, C) / sqrt(mean of squares + epsilon) * weight (C) (Zhang and Sennrich
 * 2019). output may be input. */
void norm_rms(const struct compute *compute, float *output, const float *input, const float *weight,
              int64_t tokens, int64_t channels, float epsilon);
/* output (T, C) = (input - mean) / sqrt(variance + epsilon) * weight (C) + bias (C). */
void norm_layer(const struct compute *compute, float *output, const float *input,
                const float *weight, const float *bias, int64_t tokens, int64_t channels,
                float epsilon);

/* Frequency scaling of RoPE; kind none: frequency i is theta^(-2i/dimension). */
struct rope_scaling {
    enum { ROPE_PLAIN, ROPE_LINEAR, ROPE_LLAMA3 } kind;
    float factor, low_frequency_factor, high_frequency_factor; /* llama3 (Meta 2024) */
    float original_context;
};
/* table (context, dimension): row p holds cos(p f_i) for i < dimension/2, then sin(p f_i). Angles
 * are f32 products of f32 position and f32 frequency, as in transformers. */
void rope_table_fill(float *table, int64_t context, int dimension, float theta,
                     const struct rope_scaling *scaling);
/* Rotate x (T, heads * dimension; row stride `stride`) in place, rotate-half pairs (i, i +
 * dimension/2), token t by row position + t of the table (Su et al. 2021). */
void rope_apply(const struct compute *compute, float *x, int64_t stride, int64_t tokens, int heads,
                int dimension, const float *table, int64_t position);

/* gate (T, C; row stride) = silu(gate) * up (T, C; row stride), silu(x) = x / (1 + exp(-x)). */
void activation_silu_multiply(const struct compute *compute, float *gate, int64_t gate_stride,
                              const float *up, int64_t up_stride, int64_t tokens, int64_t channels);
/* x (T, C) = gelu(x), the tanh form (BLOOM), computed as x / (1 + exp(-2 u)): the same function. */
void activation_gelu_tanh(const struct compute *compute, float *x, int64_t tokens,
                          int64_t channels);
/* x += y, `count` numbers each */
void elementwise_add(const struct compute *compute, float *x, const float *y, int64_t count);
/* x (T, C; row stride) += bias (C) */
void elementwise_add_bias(const struct compute *compute, float *x, int64_t stride,
                          const float *bias, int64_t tokens, int64_t channels);
/* What int8 with one scale for each token and part keeps of x (T, parts * width; row stride
 * `stride`), in place: scale * rint(x / scale), half to even, scale = max |x| of the part / 127. */
void elementwise_round_int8(const struct compute *compute, float *x, int64_t stride, int64_t tokens,
                            int64_t parts, int64_t width);

#endif
