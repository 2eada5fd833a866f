/* Plain C: the definition that the vector kernels keep to. */
enum { COLUMNS = 8, ROWS = 4, SPAN = 8, UNIT = COLUMNS * 4, NIBBLE_SIGN = 8 };

#include "kernels/w4a8_body.h"

static inline void multiply(int rows, const struct w4a8_block *block, const int8_t *x,
                            const int32_t *x_sums, float *sum, int32_t *carry) {
    for (int64_t group = 0; group < block->groups; group++) {
        const int8_t *w = (const int8_t *)block->weights + group * block->weight_stride;
        const char *grid = block->grid + group * block->grid_stride;
        for (int i = 0; i < rows * COLUMNS; i++) {
            const int row = i / COLUMNS, column = i % COLUMNS;
            int32_t total = block->opens ? 0 : carry[i];
            for (int64_t k = 0; k < block->count; k++)
                total +=
                    w[(k / 4 * COLUMNS + column) * 4 + k % 4] * x[(k / 4 * rows + row) * 4 + k % 4];
            if (!block->closes) {
                carry[i] = total;
                continue;
            }
            if (block->has_zero_points)
                total -= ((const int8_t *)grid)[COLUMNS * 4 + column] * x_sums[group * rows + row];
            float scale;
            memcpy(&scale, grid + column * 4, sizeof scale);
            sum[i] = fmaf(scale, (float)total, sum[i]);
        }
        x += block->count * rows;
    }
}

#define MULTIPLY(rows)                                                                             \
    static void multiply_##rows(const struct w4a8_block *block, const int8_t *x,                   \
                                const int32_t *x_sums, float *sum, int32_t *carry) {               \
        multiply(rows, block, x, x_sums, sum, carry);                                              \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)

static void multiply_rows(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    static multiply_tile *const by_rows[ROWS] = {multiply_1, multiply_2, multiply_3, multiply_4};
    multiply_tiles(block, rows, by_rows);
}

const struct w4a8_kernel w4a8_portable = {
    .columns = COLUMNS,
    .lane_columns = COLUMNS,
    .span = SPAN,
    .tile_rows = ROWS,
    .row_multiple = 1,
    .x_span = 4,
    .multiply = {multiply_rows, multiply_rows},
    W4A8_BODY_FUNCTIONS,
};
