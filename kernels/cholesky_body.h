/* cholesky_kernel.h's functions, on `lanes`: LANES doubles, with lanes_load, lanes_store, lanes_set
 * and lanes_subtract_product (a - b c, rounded once), which cholesky_PATH.c gives before it
 * includes this. VECTORS: vectors in a row of a block of sums. */
#include <math.h>

#include "kernels/cholesky_kernel.h"
#include "kernels/unroll.h"

enum { BLOCK_ROWS = 6, BLOCK_COLUMNS = VECTORS * LANES, STRIP = CHOLESKY_STRIP };

/* `rows` <= BLOCK_ROWS rows of BLOCK_COLUMNS sums in registers. */
static inline __attribute__((always_inline)) void subtract_block(double *c, int64_t c_stride,
                                                                 const double *a, int64_t a_stride,
                                                                 const double *b, const int rows,
                                                                 int64_t depth) {
    lanes sums[BLOCK_ROWS][VECTORS];
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
    for (int v = 0; v < VECTORS; v++)
        sums[i][v] = lanes_load(c + i * c_stride + v * LANES);
    for (int64_t k = 0; k < depth; k++, b += CHOLESKY_STRIDE) {
        lanes factors[VECTORS];
        UNROLL
        for (int v = 0; v < VECTORS; v++)
            factors[v] = lanes_load(b + v * LANES);
        UNROLL
        for (int i = 0; i < rows; i++) {
            const lanes factor = lanes_set(a[i * a_stride + k]);
            UNROLL
            for (int v = 0; v < VECTORS; v++)
                sums[i][v] = lanes_subtract_product(sums[i][v], factor, factors[v]);
        }
    }
    UNROLL
    for (int i = 0; i < rows; i++)
        UNROLL
    for (int v = 0; v < VECTORS; v++)
        lanes_store(c + i * c_stride + v * LANES, sums[i][v]);
}

static void subtract(double *c, int64_t c_stride, const double *a, int64_t a_stride,
                     const double *b, int64_t rows, int64_t depth, int64_t columns) {
    for (int64_t j = 0; j < columns; j += BLOCK_COLUMNS) {
        int64_t i = 0;
        for (; i + BLOCK_ROWS <= rows; i += BLOCK_ROWS)
            subtract_block(c + i * c_stride + j, c_stride, a + i * a_stride, a_stride, b + j,
                           BLOCK_ROWS, depth);
        for (; i < rows; i++)
            subtract_block(c + i * c_stride + j, c_stride, a + i * a_stride, a_stride, b + j, 1,
                           depth);
    }
}

/* sum (STRIP) -= factor . x (STRIP) */
static inline void subtract_scaled(double *sum, double factor, const double *x) {
    const lanes all = lanes_set(factor);
    UNROLL
    for (int c = 0; c < STRIP; c += LANES)
        lanes_store(sum + c, lanes_subtract_product(lanes_load(sum + c), all, lanes_load(x + c)));
}

/* A strip of `solve`: what a column adds to those before it is multiplied by zeros of L^T. */
static void solve_strip(double *x, const double *transposed, int64_t rows) {
    for (int j = 0; j < STRIP; j++) {
        const double *line = transposed + j * CHOLESKY_STRIDE;
        for (int64_t i = 0; i < rows; i++) {
            double *row = x + i * CHOLESKY_STRIDE;
            const double value = row[j] / line[j];
            subtract_scaled(row, value, line);
            row[j] = value;
        }
    }
}

static void solve(double *x, const double *transposed, int64_t rows) {
    for (int64_t j = 0; j < CHOLESKY_TILE; j += STRIP) {
        const double *line = transposed + j * CHOLESKY_STRIDE + j;
        const int64_t next = j + STRIP;
        solve_strip(x + j, line, rows);
        subtract(x + next, CHOLESKY_STRIDE, x + j, CHOLESKY_STRIDE, line + STRIP, rows, STRIP,
                 CHOLESKY_TILE - next);
    }
}

/* Column j of a row as it is to be: the original and what the errors before it ask for. Returns
 * the error that it leaves. */
static inline double round_weight(const struct gptq_strip *strip, int64_t row, int j, double weight,
                                  double wanted, double diagonal) {
    const int64_t at = row * strip->group_count + strip->groups[j];
    const double scale = (double)strip->scales[at];
    const double zero_point = strip->zero_points ? (double)strip->zero_points[at] : 0;
    double level = rint(wanted / scale + zero_point);
    level = level < -8 ? -8 : level > 7 ? 7 : level;
    const double quantized = (level - zero_point) * scale;
    const double rounding = (wanted - quantized) * diagonal;
    strip->objective[row] += rounding * rounding;
    strip->levels[row * strip->stride + j] = (int8_t)level;
    return quantized - weight;
}

static void walk(const struct gptq_strip *strip) {
    for (int j = STRIP - 1; j >= 0; j--) {
        const double *line = strip->factor + j * CHOLESKY_STRIDE;
        if (strip->groups[j] < 0)
            continue;
        for (int64_t row = 0; row < strip->rows; row++) {
            double *sum = strip->sums + row * CHOLESKY_STRIDE;
            const double weight = (double)strip->weights[row * strip->stride + j];
            const double wanted = weight + sum[j] / line[j];
            double error = wanted - weight;
            if (strip->levels)
                error = round_weight(strip, row, j, weight, wanted, line[j]);
            else
                strip->predicted[row * CHOLESKY_TILE + STRIP - 1 - j] = (float)wanted;
            strip->errors[row * strip->stride + j] = error;
            subtract_scaled(sum, error, line);
        }
    }
}

#define CHOLESKY_FUNCTIONS                                                                         \
    { .subtract = subtract, .solve = solve, .walk = walk }
