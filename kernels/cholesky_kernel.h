/* Inside kernels/cholesky and kernels/gptq: what is done to tiles of doubles, a table for each path
 * (cholesky_body.h in cholesky_PATH.c). Every number is one chain of fused multiply-adds in the
 * order written here: the same bits on all paths. */
#ifndef FPTQ_KERNELS_CHOLESKY_KERNEL_H
#define FPTQ_KERNELS_CHOLESKY_KERNEL_H

#include "kernels/cholesky.h"

/* Columns that are worked off one by one before the rest of a tile sees them. */
enum { CHOLESKY_STRIP = 32 };

/* GPTQ's walk through a strip of columns, from the last to the first (kernels/gptq.h has the
 * names). Arrays point at the strip's first column. */
struct gptq_strip {
    int64_t rows;
    const double *factor; /* (STRIP, STRIP; stride CHOLESKY_STRIDE) on L's diagonal */
    double *sums;   /* (rows, .; stride CHOLESKY_STRIDE): sum over what came before of -error L */
    double *errors; /* (rows, .; stride): quantized - original */
    const float *weights;  /* (rows, .; stride): original */
    int64_t stride;        /* of errors, weights and levels */
    const int32_t *groups; /* (STRIP) the group of each column; -1: padding */
    /* Either round to a grid: */
    int8_t *levels;            /* (rows, .; stride), or NULL */
    const float *scales;       /* (rows, group_count) */
    const int8_t *zero_points; /* the same, or NULL: zeros */
    int64_t group_count;
    double *objective; /* (rows): raised by (error that rounding brings)^2 L_jj^2 */
    /* or let the columns take what they would be if none of them were rounded: */
    float *predicted; /* (rows, STRIP; stride CHOLESKY_TILE), the last column first */
};

struct cholesky_functions {
    /* c (rows, columns; c_stride) -= a (rows, depth; a_stride) . b (depth, columns; stride
     * CHOLESKY_STRIDE), in ascending depth; columns a multiple of CHOLESKY_STRIP. */
    void (*subtract)(double *c, int64_t c_stride, const double *a, int64_t a_stride,
                     const double *b, int64_t rows, int64_t depth, int64_t columns);
    /* x (rows, TILE; CHOLESKY_STRIDE) . L^T = x, in place; transposed: L^T of a tile on the
     * diagonal. */
    void (*solve)(double *x, const double *transposed, int64_t rows);
    void (*walk)(const struct gptq_strip *strip);
};

extern const struct cholesky_functions cholesky_portable, cholesky_avx2, cholesky_avx512;

static inline const struct cholesky_functions *cholesky_of_path(enum kernel_path path) {
    return path == PATH_PORTABLE ? &cholesky_portable
           : path == PATH_AVX2   ? &cholesky_avx2
                                 : &cholesky_avx512;
}

#endif
