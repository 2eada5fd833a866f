/* Int8 weights, one symmetric scale for each row (output channel): w ~ q s,
 *   s = max|w| / 127, rounded upwards to its stored type, at least 2^-24 (f16) or 2^-126 (f32)
 *   q = clamp(rint(w * (1 / s)), -127, 127), half to even
 * in f32, every operation rounded once. A row of zeros has s = 1. One portable loop for every
 * machine, so the same bits. */
#ifndef FPTQ_KERNELS_QUANTIZE_INT8_H
#define FPTQ_KERNELS_QUANTIZE_INT8_H

#include "kernels/quantize.h"

/* Quantize rows row_begin .. row_end - 1 of source (its `shrink` is not used) on the calling
 * thread.
 *
 * levels: int8 (rows here, columns). scales: f32 (rows here), already rounded to scale_type.
 * squared_error, squared_weight: doubles (rows here): sums over the row of (w - q s)^2 and w^2, w
 *     folded, in a fixed order; NULL: not wanted.
 * scratch: (columns).
 *
 * Returns -1, or the first row with a weight that is not finite or whose square is not, or whose
 * scale does not fit scale_type; outputs of it and later rows are then undefined. */
int64_t quantize_rows_int8(const struct quantize_source *source, enum number_type scale_type,
                           int64_t row_begin, int64_t row_end, int8_t *levels, float *scales,
                           double *squared_error, double *squared_weight, float *scratch);

#endif
