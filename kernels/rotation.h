/* A fixed random rotation of vectors, for the residual stream of a model (QuaRot, arXiv 2404.00456;
 * SpinQuant's R1, arXiv 2405.16406): it spreads what stands out in one channel over all of them.
 *
 *   Q = diag(signs) (H kron B) / sqrt(2^k)    of order 2^k b
 *
 * signs: +1 or -1, from a seed. H: Sylvester's Hadamard matrix of order 2^k, multiplied as a fast
 * transform. B: a small orthogonal matrix of order b, for widths that are no power of two: a
 * Hadamard matrix where one of Paley's constructions gives it (12, 20, 28, 36, 44, 104, ... divided
 * by its length), else the discrete Hartley transform of the width's odd part, cas(2 pi i j / b) /
 * sqrt(b).
 *
 * In f32; a vector's result is the same bits on every path, for any number of threads and whatever
 * other vectors go with it. */
#ifndef FPTQ_KERNELS_ROTATION_H
#define FPTQ_KERNELS_ROTATION_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/team.h"

struct rotation {
    const struct compute *compute;
    int64_t width;  /* order of Q */
    int64_t order;  /* b; 1: no B */
    float *signs;   /* (width) signs / sqrt(2^k) */
    float *matrix;  /* (b, b) the transpose of B; NULL without */
    float *scratch; /* of each thread */
};

/* Q of a width >= 1; compute must outlive it. False when memory runs out. */
bool rotation_create(const struct compute *compute, int64_t width, uint64_t seed,
                     struct rotation *rotation);
void rotation_free(struct rotation *rotation);
/* Both work in place, on all threads of the team, for one caller at a time.
 * x (rows, width) = x Q. */
void rotation_apply_rows(const struct rotation *rotation, float *x, int64_t rows);
/* x (width, columns) = Q^T x. */
void rotation_apply_columns(const struct rotation *rotation, float *x, int64_t columns);

#endif
