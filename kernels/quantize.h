/* Group-wise int4 weights (FPTQ, arXiv 2308.15987, fine-grained weight quantization).
 *
 * A row of `columns` weights is cut into groups of group_size along the input dimension; the last
 * may be shorter; group_size 0 means the whole row. Each group has a scale s and (not symmetric) an
 * integer zero point z, 0 where symmetric: w ~ (q - z) s, with q and z in -8 .. 7.
 *   symmetric, amax/7.5: s = max|w| / 7.5
 *   symmetric, amax/7:   s = max|w| / 7
 *   zero points: lo = min(0, min w), hi = max(0, max w), s = (hi - lo) / 15, z = rint(-8 - lo / s)
 *   q = clamp(rint(w * (1 / s) + z), -8, 7); amax/7: -7, 7
 * All in f32, every operation rounded once; the reciprocal is taken once a group, and each rint
 * rounds the exact sum in its brackets (the product with 1 / s included), half to even.
 *
 * s is rounded to its stored type before any integer is computed, and upwards: a scale rounded down
 * would leave the extreme weights too far beyond the last level. So every weight lies within half a
 * step s (and a few units in the last place of f32) of (q - z) s; what the clamp cuts off does so
 * too, unless a range is shrunk on purpose (clipping). s is at least the smallest f16, 2^-24, or in
 * f32 2^-126, so that 1 / s is finite. A group of zeros has s = 1, z = 0, q = 0. The same bits on
 * every path. */
#ifndef FPTQ_KERNELS_QUANTIZE_H
#define FPTQ_KERNELS_QUANTIZE_H

#include <stdbool.h>
#include <stdint.h>

#include "kernels/number.h"
#include "kernels/path.h"

enum quantize_range { QUANTIZE_AMAX_7_5, QUANTIZE_AMAX_7 };

struct quantize_format {
    int64_t group_size; /* 0: the whole row */
    bool symmetric;
    enum quantize_range range;   /* symmetric only */
    enum number_type scale_type; /* NUMBER_F16 or NUMBER_F32 */
    int bits; /* 4, or 8 with group_size 0 and symmetric, for kernels/quantize_int8.h */
};

/* Rows to quantize, as they lie in the file, and the exact folds to apply first:
 * w[r, c] * row_multiplier[r] * column_multiplier[c] (in f32, in this order). */
struct quantize_source {
    const void *data;
    enum number_type type;
    int64_t columns, stride;
    const float *column_multiplier; /* (columns), or NULL */
    const float *row_multiplier;    /* (rows), or NULL */
    /* (rows, groups): what each group's range (max|w|, or lo and hi) is multiplied by before its
     * scale is made, in 0.01 .. 1; weights beyond it take the last level. NULL: 1. */
    const float *shrink;
};

/* The scale and zero point (0 where symmetric) of a group whose weights, with 0, reach from lo to
 * hi. */
struct quantize_grid {
    float scale, zero_point;
};
struct quantize_grid quantize_grid(const struct quantize_format *format, float lo, float hi);

/* Row r of source as f32, folded. */
void quantize_fold_row(const struct quantize_source *source, int64_t r, float *w);

/* Groups in a row of `columns` weights. */
int64_t quantize_group_count(const struct quantize_format *format, int64_t columns);

/* Quantize rows row_begin .. row_end - 1 on the calling thread.
 *
 * packed: 4-bit elements in the order of HDF5's N-Bit filter: element e = (r - row_begin) * columns
 *     + c in byte e / 2, even e in the HIGH nibble, two's complement; written whole (a last odd
 *     nibble is 0).
 * scales: f32 (rows here, groups), already rounded to scale_type.
 * zero_points: int8 (rows here, groups); NULL when symmetric.
 * squared_error, squared_weight: doubles (rows here): sums over the row of (w - (q - z) s)^2 and of
 *     w^2, folded w, in f32 in a fixed order; NULL: not wanted. (Without `shrink` errors are taken
 *     before the clamp: where it acts the error is half a step on either side.)
 * scratch: quantize_scratch_bytes(columns), 64-byte aligned.
 *
 * Returns -1, or the first row that cannot be quantized: where a folded weight is not finite, or is
 * beyond 1e19, so that its square is not, or where a scale does not fit scale_type. Its outputs and
 * those of later rows are then undefined. */
int64_t quantize_rows_int4(enum kernel_path path, const struct quantize_format *format,
                           const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                           uint8_t *packed, float *scales, int8_t *zero_points,
                           double *squared_error, double *squared_weight, void *scratch);
size_t quantize_scratch_bytes(int64_t columns);

/* values int8 (count), -8..7 -> nibbles as above. And back. */
void quantize_pack_nibbles(uint8_t *packed, const int8_t *values, int64_t count);
void quantize_unpack_nibbles(int8_t *values, const uint8_t *packed, int64_t count);

#endif
