/* One int8 scale for all tokens of a site, by least squared error on a sample of them instead of by
 * the largest activation: clipping a few large ones may serve all others.
 *
 *   error(s) = sum over x of (x - s q(x))^2,   q(x) = clamp(rint(x / s), -127, 127)
 *   s = (maximum / 127) 2^(-i/16),             i = 0 .. 96, down to 1/64 of the maximum's scale
 *
 * The first i of least error is taken. Each token's error is summed in f32 (16 lanes, then a tree),
 * the tokens' in double in their order: the same bits on every path and for any threads. */
#ifndef FPTQ_KERNELS_STATIC_SCALE_H
#define FPTQ_KERNELS_STATIC_SCALE_H

#include <stdint.h>

#include "kernels/team.h"

enum { STATIC_SCALE_STEPS = 97 };

/* x f32 (rows, columns); maximum > 0: the largest |x| of calibration, whose scale is candidate 0.
 * Returns 0 where memory runs out. */
float static_scale_least_squares(const struct compute *compute, const float *x, int64_t rows,
                                 int64_t columns, float maximum);

#endif
