/* Int4 weights against an independent loop, the half-step promise, and the same bits on every path.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/quantize.h"
#include "tests/random.h"

enum { MAX_COLUMNS = 2560 };

struct result {
    uint8_t *packed;
    int8_t *levels, *zero_points;
    float *scales;
    double *errors, *squares;
};

struct trial {
    int64_t rows, columns, row_begin, stride, misaligned; /* misaligned: bytes */
    float magnitude;
    struct quantize_format format;
    enum number_type type;
    bool has_column, has_row, has_shrink;
    void *data;
    float *wide, *column, *row, *shrink; /* wide: the weights as f32, folded */
};

static int64_t size_of_group(const struct trial *trial) {
    return trial->format.group_size ? trial->format.group_size : trial->columns;
}

/* Row r of the trial lies in row row_begin + r of the data; the rest of the data is NaN. */
static void make_trial(struct trial *trial, struct random *random) {
    const int64_t count = trial->rows * trial->columns;
    trial->row_begin = random_integer(random, 0, 3);
    trial->stride = trial->columns + random_integer(random, 0, 40);
    trial->misaligned = random_integer(random, 0, 3);
    const size_t size = number_size(trial->type);
    const size_t rows_before = (size_t)(trial->row_begin + trial->rows);
    trial->data = malloc(rows_before * (size_t)trial->stride * size + 3);
    memset(trial->data, 0xff, rows_before * (size_t)trial->stride * size + 3);
    trial->wide = malloc((size_t)count * sizeof(float));
    trial->column = malloc((size_t)trial->columns * sizeof(float));
    trial->row = malloc(rows_before * sizeof(float));
    for (int64_t i = 0; i < count; i++)
        trial->wide[i] = trial->magnitude * random_normal(random) *
                         (random_integer(random, 0, 49) ? 0.05f : 1.0f);
    /* A group of zeros, and one of a single sign. */
    for (int64_t i = 0; i < trial->columns && i < size_of_group(trial); i++)
        trial->wide[i] = 0;
    for (int64_t i = 0; trial->rows > 1 && i < trial->columns; i++)
        trial->wide[trial->columns + i] = fabsf(trial->wide[trial->columns + i]);
    for (int64_t r = 0; r < trial->rows; r++) {
        float *wide = trial->wide + r * trial->columns;
        unsigned char *data = (unsigned char *)trial->data + trial->misaligned +
                              (size_t)((trial->row_begin + r) * trial->stride) * size;
        unsigned char row[4 * MAX_COLUMNS];
        number_narrow(row, wide, trial->type, (size_t)trial->columns);
        number_widen(wide, row, trial->type, (size_t)trial->columns);
        memcpy(data, row, (size_t)trial->columns * size);
    }
    for (int64_t i = 0; i < trial->columns; i++)
        trial->column[i] = 0.1f + 3.0f * (float)random_uniform(random);
    for (size_t i = 0; i < rows_before; i++)
        trial->row[i] = 0.1f + 3.0f * (float)random_uniform(random);
    const size_t groups =
        rows_before * (size_t)quantize_group_count(&trial->format, trial->columns);
    trial->shrink = malloc(groups * sizeof(float));
    for (size_t i = 0; i < groups; i++)
        trial->shrink[i] =
            random_integer(random, 0, 3) ? 0.3f + 0.7f * (float)random_uniform(random) : 1.0f;
    for (int64_t i = 0; i < count; i++) {
        if (trial->has_row)
            trial->wide[i] *= trial->row[trial->row_begin + i / trial->columns];
        if (trial->has_column)
            trial->wide[i] *= trial->column[i % trial->columns];
    }
}

static void free_trial(struct trial *trial) {
    free(trial->data);
    free(trial->wide);
    free(trial->column);
    free(trial->row);
    free(trial->shrink);
}

static struct result quantize(const struct trial *trial, enum kernel_path path) {
    const int64_t groups = quantize_group_count(&trial->format, trial->columns);
    const size_t count = (size_t)(trial->rows * trial->columns);
    const size_t all_groups = (size_t)(trial->rows * groups);
    struct result result = {malloc(count / 2 + 1),
                            malloc(count),
                            malloc(all_groups),
                            malloc(all_groups * sizeof(float)),
                            malloc((size_t)trial->rows * 8),
                            malloc((size_t)trial->rows * 8)};
    const struct quantize_source source = {
        .data = (const unsigned char *)trial->data + trial->misaligned,
        .type = trial->type,
        .columns = trial->columns,
        .stride = trial->stride,
        .column_multiplier = trial->has_column ? trial->column : NULL,
        .row_multiplier = trial->has_row ? trial->row : NULL,
        .shrink = trial->has_shrink ? trial->shrink : NULL};
    void *scratch = aligned_alloc(64, quantize_scratch_bytes(trial->columns));
    assert_int_equal(quantize_rows_int4(path, &trial->format, &source, trial->row_begin,
                                        trial->row_begin + trial->rows, result.packed,
                                        result.scales,
                                        trial->format.symmetric ? NULL : result.zero_points,
                                        result.errors, result.squares, scratch),
                     -1);
    free(scratch);
    if (count % 2)
        assert_int_equal(result.packed[count / 2] & 0x0f, 0);
    quantize_unpack_nibbles(result.levels, result.packed, (int64_t)count);
    return result;
}

static void free_result(struct result *result) {
    free(result->packed);
    free(result->levels);
    free(result->zero_points);
    free(result->scales);
    free(result->errors);
    free(result->squares);
}

/* The formulas of the header, one weight at a time, with libm. */
static void check_group(const struct trial *trial, const struct result *result, int64_t r,
                        int64_t group, double sums[2]) {
    const int64_t groups = quantize_group_count(&trial->format, trial->columns);
    const int64_t size = size_of_group(trial), begin = group * size;
    const int64_t end = begin + size < trial->columns ? begin + size : trial->columns;
    const float *w = trial->wide + r * trial->columns;
    const bool symmetric = trial->format.symmetric;
    float lo = 0, hi = 0;
    for (int64_t c = begin; c < end; c++) {
        lo = fminf(lo, w[c]);
        hi = fmaxf(hi, w[c]);
    }
    const float shrink =
        trial->has_shrink ? trial->shrink[(trial->row_begin + r) * groups + group] : 1.0f;
    lo *= shrink;
    hi *= shrink;
    const bool seven = symmetric && trial->format.range == QUANTIZE_AMAX_7;
    const float exact = symmetric ? fmaxf(-lo, hi) / (seven ? 7.0f : 7.5f) : (hi - lo) / 15.0f;
    const float scale = result->scales[r * groups + group];
    const int zero = symmetric ? 0 : result->zero_points[r * groups + group];
    if (lo == 0 && hi == 0) {
        assert_true(scale == 1 && zero == 0);
    } else {
        /* Rounded up to the stored type, by less than one unit of it. */
        const float unit =
            trial->format.scale_type == NUMBER_F16 ? exact / 1024 + 6e-8f : 0x1p-126f;
        assert_true(scale >= exact && scale <= exact + unit && scale > 0);
        if (trial->format.scale_type == NUMBER_F16)
            assert_true(number_from_f16(number_to_f16(scale)) == scale);
        if (!symmetric)
            assert_int_equal(zero, (int)rint(-8.0 - (double)(lo / scale)));
    }
    for (int64_t c = begin; c < end; c++) {
        const int level = result->levels[r * trial->columns + c];
        /* Exact in double: 48 bits of the product, a zero point of 4. */
        const double expected = rint((double)w[c] * (double)(1.0f / scale) + zero);
        assert_int_equal(level, (int)fmin(7, fmax(seven ? -7 : -8, expected)));
        const double error = (double)w[c] - (double)(level - zero) * scale;
        /* Half a step; 16 units of f32 for the reciprocal and the sum of rounding at its edge. */
        const double limit = 0.5 * scale * (1 + 16 * 6e-8) + 16 * 6e-8 * fabsf(w[c]);
        assert_true(fabs(error) <= limit || (trial->has_shrink && w[c] > hi && level == 7) ||
                    (trial->has_shrink && w[c] < lo && level == (seven ? -7 : -8)));
        sums[0] += error * error;
        sums[1] += (double)w[c] * w[c];
    }
}

static void check_trial(struct trial *trial, struct random *random) {
    make_trial(trial, random);
    struct result first = quantize(trial, PATH_PORTABLE);
    for (int64_t r = 0; r < trial->rows; r++) {
        double sums[2] = {0};
        for (int64_t g = 0; g < quantize_group_count(&trial->format, trial->columns); g++)
            check_group(trial, &first, r, g, sums);
        assert_true(fabs(sums[0] - first.errors[r]) <= 1e-4 * sums[0] + 1e-30);
        assert_true(fabs(sums[1] - first.squares[r]) <= 1e-4 * sums[1] + 1e-30);
    }
    const size_t count = (size_t)(trial->rows * trial->columns);
    const size_t groups =
        (size_t)(trial->rows * quantize_group_count(&trial->format, trial->columns));
    for (int path = PATH_AVX2; path < PATH_COUNT; path++) {
        if (!kernel_path_supported((enum kernel_path)path))
            continue;
        struct result other = quantize(trial, (enum kernel_path)path);
        assert_memory_equal(first.packed, other.packed, (count + 1) / 2);
        assert_memory_equal(first.scales, other.scales, groups * sizeof(float));
        if (!trial->format.symmetric)
            assert_memory_equal(first.zero_points, other.zero_points, groups);
        assert_memory_equal(first.errors, other.errors, (size_t)trial->rows * sizeof(double));
        assert_memory_equal(first.squares, other.squares, (size_t)trial->rows * sizeof(double));
        free_result(&other);
    }
    free_result(&first);
    free_trial(trial);
}

static struct trial random_trial(struct random *random) {
    const int kind = (int)random_integer(random, 0, 2);
    return (struct trial){
        .rows = random_integer(random, 1, 6),
        .columns = random_integer(random, 1, MAX_COLUMNS),
        .magnitude = 1,
        .format = {.group_size = random_integer(random, 0, 200),
                   .symmetric = kind > 0,
                   .range = kind == 2 ? QUANTIZE_AMAX_7 : QUANTIZE_AMAX_7_5,
                   .scale_type = random_integer(random, 0, 1) ? NUMBER_F16 : NUMBER_F32,
                   .bits = 4},
        .type = (enum number_type)random_integer(random, 0, 2),
        .has_column = random_integer(random, 0, 1) != 0,
        .has_row = random_integer(random, 0, 1) != 0,
        .has_shrink = random_integer(random, 0, 2) == 0,
    };
}

static void test_all_formats(void **state) {
    struct random *random = *state;
    static const int64_t sizes[] = {0, 128, 64, 32, 256, 24, 50, 1, 100000};
    static const int64_t columns[] = {1, 2, 31, 128, 172, 288, 500, 1031, 2048, 2560};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++)
        for (size_t c = 0; c < sizeof columns / sizeof *columns; c++)
            for (int kind = 0; kind < 3; kind++) {
                struct trial trial = random_trial(random);
                trial.columns = columns[c];
                trial.format.group_size = sizes[s];
                trial.format.symmetric = kind > 0;
                trial.format.range = kind == 2 ? QUANTIZE_AMAX_7 : QUANTIZE_AMAX_7_5;
                check_trial(&trial, random);
            }
    for (int i = 0; i < 300; i++) {
        struct trial trial = random_trial(random);
        check_trial(&trial, random);
    }
}

/* Scales about the smallest f16, about the smallest normal f32, and towards the largest f16. */
static void test_extreme_magnitudes(void **state) {
    struct random *random = *state;
    static const float magnitudes[] = {1e-5f, 1e-7f, 1e-9f, 1e-37f, 1e-39f, 1e-44f, 1e4f};
    for (size_t i = 0; i < sizeof magnitudes / sizeof *magnitudes; i++)
        for (int repeat = 0; repeat < 10; repeat++) {
            struct trial trial = random_trial(random);
            trial.magnitude = magnitudes[i];
            trial.type = trial.type == NUMBER_F16 ? NUMBER_F32 : trial.type;
            check_trial(&trial, random);
        }
}

/* A weight that is not finite is found in its row; a scale beyond f16 too. */
static void test_not_finite(void **state) {
    struct random *random = *state;
    enum { ROWS = 7, COLUMNS = 200, GROUPS = 4 };
    const struct quantize_format format = {.group_size = 64, .scale_type = NUMBER_F16, .bits = 4};
    float data[ROWS * COLUMNS], scales[ROWS * GROUPS];
    int8_t zero_points[ROWS * GROUPS];
    uint8_t packed[ROWS * COLUMNS / 2];
    for (int i = 0; i < ROWS * COLUMNS; i++)
        data[i] = random_normal(random);
    void *scratch = aligned_alloc(64, quantize_scratch_bytes(COLUMNS));
    const float bad[] = {NAN, -NAN, INFINITY, -INFINITY, 1e9f, -1e9f, 65504 * 15.01f};
    const struct quantize_source source = {
        .data = data, .type = NUMBER_F32, .columns = COLUMNS, .stride = COLUMNS};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const int64_t row = random_integer(random, 0, ROWS - 1);
        float *weight = data + row * COLUMNS + random_integer(random, 0, COLUMNS - 1);
        const float kept = *weight;
        *weight = bad[i];
        for (int path = 0; path < PATH_COUNT; path++)
            if (kernel_path_supported((enum kernel_path)path))
                assert_int_equal(quantize_rows_int4((enum kernel_path)path, &format, &source, 0,
                                                    ROWS, packed, scales, zero_points, NULL, NULL,
                                                    scratch),
                                 row);
        *weight = kept;
    }
    free(scratch);
}

static void test_nibbles(void **state) {
    struct random *random = *state;
    for (int64_t count = 0; count < 70; count++) {
        int8_t values[70] = {0}, back[70];
        uint8_t packed[36];
        for (int64_t i = 0; i < count; i++)
            values[i] = (int8_t)((int)random_integer(random, 0, 15) - 8);
        quantize_pack_nibbles(packed, values, count);
        if (count)
            assert_int_equal(packed[0] >> 4, values[0] & 15);
        quantize_unpack_nibbles(back, packed, count);
        assert_memory_equal(values, back, (size_t)count);
    }
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_all_formats, &random),
        cmocka_unit_test_prestate(test_extreme_magnitudes, &random),
        cmocka_unit_test_prestate(test_not_finite, &random),
        cmocka_unit_test_prestate(test_nibbles, &random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
