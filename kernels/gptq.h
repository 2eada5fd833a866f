/* GPTQ: int4 weights rounded one column after another, each taking up the errors of those before it
 * (Frantar et al., arXiv 2210.17323), so that sum over x of |x (W - Wq)^T|^2 = tr((W - Wq) H
 * (W - Wq)^T), H = sum of x^T x, is small.
 *
 * Computed without an inverse. With the columns in the order of rounding and H = R R^T, R upper
 * triangular, column j is rounded from w_j + sum over i < j of (w_i - q_i) R_ij / R_jj: the same
 * weights as GPTQ's own, which updates all columns by the factor of the inverse, R^-1 (Chee et al.,
 * arXiv 2307.13304, theorem 6). The objective is the sum of (rounding errors)_j^2 R_jj^2. Taken
 * from the last column to the first, R is the Cholesky factor L of H (kernels/cholesky.h). All in
 * doubles, in one order: the same bits on every path and for any number of threads.
 *
 * Grids are those of kernels/quantize.h. A group takes its grid from its weights as they would be
 * if none of them were rounded (as GPTQ updates them), when its first column comes: where groups
 * are 32, 64 or 128 columns and come in their own order. Else ("static groups": `act_order`, which
 * rounds the columns of greatest H_jj first, other group sizes, whole rows), from its original
 * weights.
 *
 * A dead column (H_jj = 0) has weight 0. Damping: the mean of the other H_jj times `damping` is
 * added to each H_jj; where the matrix is not positive even so, ten times that, and so on. */
#ifndef FPTQ_KERNELS_GPTQ_H
#define FPTQ_KERNELS_GPTQ_H

#include "kernels/cholesky.h"
#include "kernels/quantize.h"

/* Where a row's columns are in an upper triangle with its diagonal, packed by rows. */
static inline int64_t gptq_packed_at(int64_t columns, int64_t row, int64_t column) {
    return row * columns - row * (row - 1) / 2 + column - row;
}
static inline int64_t gptq_packed_count(int64_t columns) {
    return columns * (columns + 1) / 2;
}

/* H of a linear's input, in fixed point: H_ij = sums[gptq_packed_at(columns, i, j)], any unit. */
struct gptq_hessian {
    const int64_t *sums;
    int64_t columns;
    const float *scale; /* (columns) s_j: x_j / s_j is the input, H_ij / (s_i s_j) its H; or NULL */
};

/* What serves all the linears that have the input. */
struct gptq_factor {
    int64_t columns, padded; /* whole tiles */
    bool act_order;
    double damping;   /* that made H positive */
    int64_t dead;     /* columns */
    double *tiles;    /* L, of columns order[0], order[1], .. */
    double *diagonal; /* (columns) of H, in the columns' own order, before damping */
    int32_t *order;   /* (padded): rounded from the last to the first; -1: padding, first */
};

size_t gptq_factor_bytes(int64_t columns);
/* memory: 64-byte aligned, gptq_factor_bytes(), where the factor will live. False where H is not
 * positive whatever the damping: it is not finite. */
bool gptq_factor_create(const struct compute *compute, const struct gptq_hessian *hessian,
                        bool act_order, double damping, void *memory, struct gptq_factor *factor);

/* What quantize_rows_int4 gives, for rows row_begin .. row_end - 1 from 0, but for: */
struct gptq_rows {
    int8_t *levels;                         /* (rows, columns) */
    float *scales;                          /* (rows, groups) */
    int8_t *zero_points;                    /* (rows, groups), or NULL: symmetric */
    double *squared_error, *squared_weight; /* (rows) */
    double *objective; /* (rows) of (w - wq) H (w - wq)^T, H damped, in the units of its sums */
};

/* At most GPTQ_ROWS rows on the calling thread. Returns -1, or the first row that cannot be
 * quantized, as quantize_rows_int4. scratch: gptq_scratch_bytes(columns), 64-byte aligned. */
enum { GPTQ_ROWS = 96 };
int64_t gptq_quantize_rows(enum kernel_path path, const struct gptq_factor *factor,
                           const struct quantize_format *format,
                           const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                           const struct gptq_rows *rows, void *scratch);
size_t gptq_scratch_bytes(int64_t columns);

#endif
