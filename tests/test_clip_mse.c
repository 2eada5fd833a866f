/* The weights' own best ranges: the chosen factor's error, in double from quantize_rows_int4's
 * integers, is within 1e-3 of the least of all 80; the same factors on every path. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/clip_mse.h"
#include "tests/random.h"

enum { ROWS = 3, MOST_COLUMNS = 300 };

struct trial {
    struct quantize_format format;
    struct quantize_source source;
    int64_t columns, groups, group_size;
    float *wide; /* (ROWS, columns) folded */
};

/* The sum of |w - w'|^2.4 of every group for one factor, by the quantizer itself. */
static void errors_for(const struct trial *trial, float factor, double *errors) {
    const int64_t columns = trial->columns, groups = trial->groups;
    float shrink[ROWS * MOST_COLUMNS], scales[ROWS * MOST_COLUMNS];
    int8_t zero_points[ROWS * MOST_COLUMNS], levels[ROWS * MOST_COLUMNS];
    uint8_t packed[ROWS * MOST_COLUMNS / 2 + 1];
    void *scratch = aligned_alloc(64, (quantize_scratch_bytes(columns) + 63) & ~(size_t)63);
    for (int64_t i = 0; i < ROWS * groups; i++)
        shrink[i] = factor;
    struct quantize_source source = trial->source;
    source.shrink = shrink;
    assert_int_equal(quantize_rows_int4(PATH_PORTABLE, &trial->format, &source, 0, ROWS, packed,
                                        scales, trial->format.symmetric ? NULL : zero_points, NULL,
                                        NULL, scratch),
                     -1);
    free(scratch);
    quantize_unpack_nibbles(levels, packed, ROWS * columns);
    memset(errors, 0, (size_t)(ROWS * groups) * sizeof *errors);
    for (int64_t i = 0; i < ROWS * columns; i++) {
        const int64_t group = i / columns * groups + i % columns / trial->group_size;
        const int zero = trial->format.symmetric ? 0 : zero_points[group];
        const double back = (levels[i] - zero) * (double)scales[group];
        errors[group] += pow(fabs((double)trial->wide[i] - back), 2.4);
    }
}

static void check_trial(struct trial *trial) {
    const int64_t count = ROWS * trial->groups;
    float shrink[ROWS * MOST_COLUMNS], other[ROWS * MOST_COLUMNS];
    double least[ROWS * MOST_COLUMNS], chosen[ROWS * MOST_COLUMNS], errors[ROWS * MOST_COLUMNS];
    float *scratch = aligned_alloc(64, (clip_mse_scratch_bytes(trial->columns) + 63) & ~(size_t)63);
    for (int path = 0; path < PATH_COUNT; path++)
        if (kernel_path_supported((enum kernel_path)path)) {
            clip_mse_search((enum kernel_path)path, &trial->format, &trial->source, 0, ROWS,
                            path ? other : shrink, scratch);
            if (path)
                assert_memory_equal(shrink, other, (size_t)count * sizeof *shrink);
        }
    free(scratch);
    for (int64_t i = 0; i < count; i++) {
        least[i] = INFINITY;
        chosen[i] = -1;
    }
    for (int step = 0; step < 80; step++) {
        const float factor = 1 - (float)step / 100;
        errors_for(trial, factor, errors);
        for (int64_t i = 0; i < count; i++) {
            least[i] = fmin(least[i], errors[i]);
            if (shrink[i] == factor)
                chosen[i] = errors[i];
        }
    }
    for (int64_t i = 0; i < count; i++)
        assert_true(chosen[i] >= 0 && chosen[i] <= least[i] * 1.001 + 1e-30);
}

static void test_search(void **state) {
    struct random *random = *state;
    static const int64_t sizes[] = {0, 128, 64, 16, 24, 50};
    for (int round = 0; round < 60; round++) {
        const int64_t columns = random_integer(random, 1, MOST_COLUMNS);
        const enum number_type type = (enum number_type)random_integer(random, 0, 2);
        const float magnitude = round % 5 ? 0.02f : 1e-6f;
        float wide[ROWS * MOST_COLUMNS], column[MOST_COLUMNS], row[ROWS];
        unsigned char data[sizeof wide];
        for (int64_t i = 0; i < ROWS * columns; i++)
            wide[i] = magnitude * random_normal(random) * (random_integer(random, 0, 30) ? 1 : 4);
        for (int64_t i = 0; i < columns && i < 16; i++)
            wide[i] = 0; /* a group of zeros, in some */
        number_narrow(data, wide, type, (size_t)(ROWS * columns));
        for (int64_t c = 0; c < columns; c++)
            column[c] = 0.5f + (float)random_uniform(random);
        for (int64_t r = 0; r < ROWS; r++)
            row[r] = 0.5f + (float)random_uniform(random);
        struct trial trial = {
            .format = {.group_size = sizes[round % 6],
                       .symmetric = random_integer(random, 0, 1) != 0,
                       .range = (enum quantize_range)random_integer(random, 0, 1),
                       .scale_type = (enum number_type)random_integer(random, 0, 1),
                       .bits = 4},
            .source = {.data = data,
                       .type = type,
                       .columns = columns,
                       .stride = columns,
                       .column_multiplier = round % 2 ? column : NULL,
                       .row_multiplier = round % 3 ? row : NULL},
            .columns = columns,
            .wide = wide,
        };
        trial.groups = quantize_group_count(&trial.format, columns);
        trial.group_size = trial.format.group_size ? trial.format.group_size : columns;
        for (int64_t r = 0; r < ROWS; r++)
            quantize_fold_row(&trial.source, r, wide + r * columns);
        check_trial(&trial);
    }
}

/* The grid of a group, alone, is the quantizer's. */
static void test_grid(void **state) {
    struct random *random = *state;
    for (int round = 0; round < 3000; round++) {
        const struct quantize_format format = {
            .symmetric = random_integer(random, 0, 1) != 0,
            .range = (enum quantize_range)random_integer(random, 0, 1),
            .scale_type = (enum number_type)random_integer(random, 0, 1),
            .bits = 4};
        enum { COLUMNS = 4 };
        const float magnitude = (float)exp(-40 * random_uniform(random));
        float w[COLUMNS], lo = 0, hi = 0, scale;
        int8_t zero_point = 0;
        uint8_t packed[COLUMNS / 2];
        for (int c = 0; c < COLUMNS; c++) {
            w[c] = round ? magnitude * random_normal(random) : 0;
            lo = fminf(lo, w[c]);
            hi = fmaxf(hi, w[c]);
        }
        const struct quantize_source source = {
            .data = w, .type = NUMBER_F32, .columns = COLUMNS, .stride = COLUMNS};
        void *scratch = aligned_alloc(64, (quantize_scratch_bytes(COLUMNS) + 63) & ~(size_t)63);
        assert_int_equal(quantize_rows_int4(PATH_PORTABLE, &format, &source, 0, 1, packed, &scale,
                                            format.symmetric ? NULL : &zero_point, NULL, NULL,
                                            scratch),
                         -1);
        free(scratch);
        const struct quantize_grid grid = quantize_grid(&format, lo, hi);
        assert_true(grid.scale == scale && grid.zero_point == zero_point);
    }
}

/* A weight that is not finite leaves its group alone. */
static void test_not_finite(void **state) {
    (void)state;
    float w[32], shrink[2], scratch[64];
    const float bad[] = {NAN, INFINITY, -INFINITY};
    const struct quantize_format format = {.group_size = 16, .bits = 4};
    const struct quantize_source source = {
        .data = w, .type = NUMBER_F32, .columns = 32, .stride = 32};
    for (int i = 0; i < 3; i++) {
        for (int c = 0; c < 32; c++)
            w[c] = c == 3 ? bad[i] : (float)(c % 7) - 3;
        clip_mse_search(PATH_PORTABLE, &format, &source, 0, 1, shrink, scratch);
        assert_true(shrink[0] == 1 && shrink[1] > 0.2f && shrink[1] <= 1);
    }
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_search, &random),
        cmocka_unit_test_prestate(test_grid, &random),
        cmocka_unit_test_prestate(test_not_finite, &random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
