/* Int8 weights against the formulas in double, one weight at a time. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/quantize_int8.h"
#include "tests/random.h"

enum { ROWS = 5, BEGIN = 2, MOST_COLUMNS = 700 };

static void check_row(const float *w, int64_t columns, enum number_type type, const int8_t *levels,
                      float scale, double squared_error, double squared_weight) {
    double largest = 0, error = 0, squares = 0;
    for (int64_t c = 0; c < columns; c++)
        largest = fmax(largest, fabs((double)w[c]));
    if (largest == 0) {
        assert_true(scale == 1);
    } else {
        const double exact = largest / 127;
        const double unit = type == NUMBER_F16 ? exact / 1024 + 6e-8 : exact * 6e-8 + 0x1p-126;
        assert_true(scale > 0 && scale >= exact * (1 - 6e-8) && scale <= exact + unit);
        if (type == NUMBER_F16)
            assert_true(scale >= exact * (1 - 6e-8) &&
                        number_from_f16(number_to_f16(scale)) == scale);
    }
    for (int64_t c = 0; c < columns; c++) {
        const double place = (double)w[c] / (double)scale, difference = levels[c] - place;
        assert_in_range(levels[c] + 127, 0, 254);
        /* The nearest level; beside it only where f32 rounds at the middle between two. */
        assert_true(fabs(difference) <= 0.5 + 127 * 2e-7);
        const double left = (double)w[c] - levels[c] * (double)scale;
        error += left * left;
        squares += (double)w[c] * w[c];
    }
    assert_true(fabs(error - squared_error) <= 1e-4 * error + 1e-10 * squares + 1e-30);
    assert_true(fabs(squares - squared_weight) <= 1e-5 * squares + 1e-30);
}

static void check_trial(struct random *random, int64_t columns, float magnitude) {
    const int64_t stride = columns + random_integer(random, 0, 9);
    const enum number_type type = (enum number_type)random_integer(random, 0, 2);
    const enum number_type scale_type = random_integer(random, 0, 1) ? NUMBER_F16 : NUMBER_F32;
    const size_t count = (size_t)((BEGIN + ROWS) * stride);
    float *wide = calloc(count, sizeof *wide), column[MOST_COLUMNS], row[BEGIN + ROWS];
    void *data = malloc(count * sizeof(float));
    for (size_t i = 0; i < count; i++)
        wide[i] = i / (size_t)stride == BEGIN + 1 ? 0 : magnitude * random_normal(random);
    number_narrow(data, wide, type, count);
    number_widen(wide, data, type, count);
    for (int64_t c = 0; c < columns; c++)
        column[c] = 0.1f + 3 * (float)random_uniform(random);
    for (int64_t r = 0; r < BEGIN + ROWS; r++)
        row[r] = 0.1f + 3 * (float)random_uniform(random);
    const struct quantize_source source = {
        .data = data,
        .type = type,
        .columns = columns,
        .stride = stride,
        .column_multiplier = random_integer(random, 0, 1) ? column : NULL,
        .row_multiplier = random_integer(random, 0, 1) ? row : NULL};
    int8_t *levels = malloc((size_t)(ROWS * columns));
    float scales[ROWS], scratch[MOST_COLUMNS];
    double errors[ROWS], squares[ROWS];
    assert_int_equal(quantize_rows_int8(&source, scale_type, BEGIN, BEGIN + ROWS, levels, scales,
                                        errors, squares, scratch),
                     -1);
    for (int64_t r = 0; r < ROWS; r++) {
        float *w = wide + (BEGIN + r) * stride;
        for (int64_t c = 0; c < columns; c++) {
            w[c] *= source.row_multiplier ? row[BEGIN + r] : 1;
            w[c] *= source.column_multiplier ? column[c] : 1;
        }
        check_row(w, columns, scale_type, levels + r * columns, scales[r], errors[r], squares[r]);
    }
    free(wide);
    free(data);
    free(levels);
}

static void test_formulas(void **state) {
    static const int64_t columns[] = {1, 2, 15, 16, 17, 31, 128, 172, 500, MOST_COLUMNS};
    static const float magnitudes[] = {1, 0.02f, 1e-7f, 1000};
    for (size_t i = 0; i < sizeof columns / sizeof *columns; i++)
        for (size_t j = 0; j < sizeof magnitudes / sizeof *magnitudes; j++)
            for (int repeat = 0; repeat < 5; repeat++)
                check_trial(*state, columns[i], magnitudes[j]);
}

static void test_not_finite(void **state) {
    struct random *random = *state;
    enum { COLUMNS = 40 };
    static const float bad[] = {NAN, INFINITY, -INFINITY, 1e30f, 65504 * 127.1f};
    float data[ROWS * COLUMNS], scales[ROWS], scratch[COLUMNS];
    int8_t levels[ROWS * COLUMNS];
    for (int i = 0; i < ROWS * COLUMNS; i++)
        data[i] = random_normal(random);
    const struct quantize_source source = {
        .data = data, .type = NUMBER_F32, .columns = COLUMNS, .stride = COLUMNS};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int64_t row = random_integer(random, 0, ROWS - 1);
        float *weight = data + row * COLUMNS + random_integer(random, 0, COLUMNS - 1);
        const float kept = *weight;
        *weight = bad[i];
        assert_int_equal(
            quantize_rows_int8(&source, NUMBER_F16, 0, ROWS, levels, scales, NULL, NULL, scratch),
            row);
        *weight = kept;
    }
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_formulas, &random),
        cmocka_unit_test_prestate(test_not_finite, &random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
