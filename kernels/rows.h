/* Loops over one row of f32, a table for each path; elementwise.c and attention.c run them over a
 * team. The code is the same for all paths (rows_body.h) and written so that the compiler
 * vectorises it; sums run in 16 lanes and then a fixed tree, so that all paths give the same bits.
 */
#ifndef FPTQ_KERNELS_ROWS_H
#define FPTQ_KERNELS_ROWS_H

#include <stdint.h>

#include "kernels/path.h"

/* A row's softmax over the blocks so far: starts as {-INFINITY, 0, 0}. */
struct softmax {
    float largest, total; /* sum of exp(score - largest) */
    float factor;         /* of the last step: what came before it must be multiplied by it */
};

enum { ROWS_LANES = 16 };

struct row_functions {
    void (*norm_rms)(float *output, const float *input, const float *weight, int64_t count,
                     float epsilon);
    void (*norm_layer)(float *output, const float *input, const float *weight, const float *bias,
                       int64_t count, float epsilon);
    /* (x[i], x[i + half]) turned by the angle whose cosine and sine are table[i], table[i + half].
     */
    void (*rotate)(float *x, const float *table, int64_t half);
    void (*silu_multiply)(float *gate, const float *up, int64_t count);
    void (*gelu_tanh)(float *x, int64_t count);
    void (*add)(float *x, const float *y, int64_t count);
    float (*dot)(const float *x, const float *y, int64_t count);
    /* x = scale * rint(x / scale), half to even, scale = max |x| / 127, at least 2^-126. */
    void (*round_int8)(float *x, int64_t count);
    void (*narrow_bf16)(uint16_t *narrow, const float *x, int64_t count);

    /* One step of an online softmax: scores become exp(score - largest so far), where a score is
     * score[i] * scale + slope * (position + i), scale > 0. */
    void (*softmax)(struct softmax *running, float *score, int64_t count, float scale, float slope,
                    int64_t position);
    /* sum[i] = sum[i] * factor + x[i] */
    void (*scale_add)(float *sum, float factor, const float *x, int64_t count);
    /* Sum of (x - scale q)^2, q = clamp(rint(x * (1 / scale)), -127, 127). */
    float (*int8_error)(const float *x, int64_t count, float scale);
    /* output[i] = x[i] / divisor, and never -0. */
    void (*divide)(float *output, const float *x, float divisor, int64_t count);

    /* x (count, width) = H x, H Sylvester's Hadamard matrix of order count, a power of two. */
    void (*hadamard)(float *x, int64_t count, int64_t width);
    /* output (order, ROWS_LANES) = matrix (order, order) * x (order, ROWS_LANES) */
    void (*mix_lanes)(float *output, const float *x, const float *matrix, int64_t order);
};

extern const struct row_functions rows_portable, rows_avx2, rows_avx512;

static inline const struct row_functions *rows_of_path(enum kernel_path path) {
    return path == PATH_PORTABLE ? &rows_portable : path == PATH_AVX2 ? &rows_avx2 : &rows_avx512;
}

#endif
