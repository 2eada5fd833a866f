/* Ranges by the error of the output against a brute-force search in double over the same factors:
 * the error that was found is the least, and so never above that of the whole range; the same bits
 * on every path. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/clip_output.h"
#include "kernels/matmul.h"
#include "tests/random.h"

struct trial {
    int64_t rows, columns, samples, groups, size;
    struct quantize_format format;
    float *weights, *x, *column, *row;
};

static struct trial make_trial(struct random *random, int64_t group_size) {
    struct trial trial = {
        .rows = random_integer(random, 1, 24),
        .columns = random_integer(random, 1, 300),
        .samples = random_integer(random, 1, 90),
        .format = {group_size, random_integer(random, 0, 1) != 0,
                   random_integer(random, 0, 1) ? QUANTIZE_AMAX_7 : QUANTIZE_AMAX_7_5,
                   random_integer(random, 0, 1) ? NUMBER_F16 : NUMBER_F32},
    };
    trial.groups = quantize_group_count(&trial.format, trial.columns);
    trial.size = group_size && group_size < trial.columns ? group_size : trial.columns;
    trial.weights = malloc((size_t)(trial.rows * trial.columns) * sizeof(float));
    trial.x = malloc((size_t)(trial.samples * trial.columns) * sizeof(float));
    trial.column = malloc((size_t)trial.columns * sizeof(float));
    trial.row = malloc((size_t)trial.rows * sizeof(float));
    for (int64_t i = 0; i < trial.rows * trial.columns; i++)
        trial.weights[i] = random_normal(random) * (random_integer(random, 0, 30) ? 1.0f : 6.0f);
    for (int64_t c = 0; c < trial.columns; c++)
        trial.column[c] = random_integer(random, 0, 15) ? 1.0f : 0.05f;
    for (int64_t r = 0; r < trial.rows; r++)
        trial.row[r] = 0.5f + (float)random_uniform(random);
    for (int64_t i = 0; i < trial.samples * trial.columns; i++)
        trial.x[i] = random_normal(random) / trial.column[i % trial.columns];
    return trial;
}

static void free_trial(struct trial *trial) {
    free(trial->weights);
    free(trial->x);
    free(trial->column);
    free(trial->row);
}

static struct quantize_source source_of(const struct trial *trial, const float *shrink) {
    return (struct quantize_source){
        .data = trial->weights,
        .type = NUMBER_F32,
        .columns = trial->columns,
        .stride = trial->columns,
        .column_multiplier = trial->column,
        .row_multiplier = trial->row,
        .shrink = shrink,
    };
}

/* errors (rows, groups) of the output, the weights being quantized with `shrink`. */
static void measure(const struct trial *trial, const float *shrink, double *errors) {
    const int64_t rows = trial->rows, columns = trial->columns;
    uint8_t *packed = malloc((size_t)(rows * columns) / 2 + 1);
    int8_t *levels = malloc((size_t)(rows * columns));
    int8_t *zeros = calloc((size_t)(rows * trial->groups), 1);
    float *scales = malloc((size_t)(rows * trial->groups) * sizeof *scales);
    void *scratch = aligned_alloc(64, (quantize_scratch_bytes(columns) + 63) & ~(size_t)63);
    const struct quantize_source source = source_of(trial, shrink);
    assert_int_equal(quantize_rows_int4(PATH_PORTABLE, &trial->format, &source, 0, rows, packed,
                                        scales, trial->format.symmetric ? NULL : zeros, NULL, NULL,
                                        scratch),
                     -1);
    quantize_unpack_nibbles(levels, packed, rows * columns);
    for (int64_t r = 0; r < rows; r++)
        for (int64_t g = 0; g < trial->groups; g++) {
            const int64_t at = r * trial->groups + g, begin = g * trial->size;
            const int64_t end = begin + trial->size < columns ? begin + trial->size : columns;
            errors[at] = 0;
            for (int64_t m = 0; m < trial->samples; m++) {
                double sum = 0;
                for (int64_t c = begin; c < end; c++) {
                    const double w =
                        (double)trial->weights[r * columns + c] * trial->row[r] * trial->column[c];
                    const double q = (double)scales[at] * (levels[r * columns + c] - zeros[at]);
                    sum += (w - q) * trial->x[m * columns + c];
                }
                errors[at] += sum * sum;
            }
        }
    free(packed);
    free(levels);
    free(zeros);
    free(scales);
    free(scratch);
}

/* shrink (rows, groups) as searched on `path`. */
static void search(const struct trial *trial, enum kernel_path path, float *shrink) {
    struct team *team = team_create(2, matmul_scratch_bytes());
    const struct compute compute = {path, team};
    struct clip_output_sample sample;
    assert_true(clip_output_prepare(&compute, trial->x, trial->samples, trial->columns,
                                    trial->format.group_size, &sample));
    void *workspace = aligned_alloc(64, clip_output_workspace(path, &sample));
    const struct quantize_source source = source_of(trial, NULL);
    /* In two calls, as rows are shared out to threads. */
    const int64_t middle = trial->rows / 2;
    assert_int_equal(
        clip_output_search(path, &trial->format, &source, 0, middle, &sample, shrink, workspace),
        -1);
    assert_int_equal(clip_output_search(path, &trial->format, &source, middle, trial->rows, &sample,
                                        shrink + middle * trial->groups, workspace),
                     -1);
    free(workspace);
    clip_output_release(&sample);
    team_destroy(team);
}

static int check_trial(const struct trial *trial) {
    const size_t count = (size_t)(trial->rows * trial->groups);
    float *shrink = malloc(count * sizeof *shrink), *other = malloc(count * sizeof *other);
    double *errors = malloc(count * sizeof *errors), *least = malloc(count * sizeof *least);
    double *whole = malloc(count * sizeof *whole);
    int clipped = 0;
    search(trial, PATH_PORTABLE, shrink);
    for (int path = PATH_AVX2; path < PATH_COUNT; path++)
        if (kernel_path_supported((enum kernel_path)path)) {
            search(trial, (enum kernel_path)path, other);
            assert_memory_equal(shrink, other, count * sizeof *shrink);
        }
    for (int step = 0; step < CLIP_OUTPUT_STEPS; step++) {
        for (size_t i = 0; i < count; i++)
            other[i] = 1.0f - (float)step / 20;
        measure(trial, other, errors);
        for (size_t i = 0; i < count; i++)
            least[i] = step ? fmin(least[i], errors[i]) : errors[i];
        if (step == 0)
            memcpy(whole, errors, count * sizeof *whole);
    }
    measure(trial, shrink, errors);
    for (size_t i = 0; i < count; i++) {
        /* Two candidates nearer to each other than f32 can tell. */
        assert_true(errors[i] <= least[i] + 1e-4 * whole[i]);
        assert_true(errors[i] <= whole[i] * (1 + 1e-4));
        clipped += shrink[i] < 1;
    }
    free(shrink);
    free(other);
    free(errors);
    free(least);
    free(whole);
    return clipped;
}

static void test_least_error(void **state) {
    static const int64_t sizes[] = {32, 64, 50, 7, 0, 200, 128};
    struct random *random = *state;
    int clipped = 0;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        for (int repeat = 0; repeat < 3; repeat++) {
            struct trial trial = make_trial(random, sizes[i]);
            clipped += check_trial(&trial);
            free_trial(&trial);
        }
    assert_true(clipped > 0);
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_least_error, &random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
