/* The rotation is orthogonal, the same for rows and columns, of elements of one size where a
 * Hadamard matrix is known; the same bits on every path, for any threads and any company. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/rotation.h"
#include "tests/random.h"

static float *identity(int64_t width) {
    float *x = calloc((size_t)(width * width), sizeof *x);
    for (int64_t i = 0; i < width; i++)
        x[i * width + i] = 1;
    return x;
}

/* Row r of x (rows, width) times Q (width, width), element c. */
static double product(const float *x, const float *q, int64_t width, int64_t r, int64_t c) {
    double sum = 0;
    for (int64_t i = 0; i < width; i++)
        sum += (double)x[r * width + i] * (double)q[i * width + c];
    return sum;
}

/* Rows are orthonormal; the largest element. */
static double check_orthogonal(const float *q, int64_t width) {
    double largest = 0;
    for (int64_t i = 0; i < width * width; i++)
        largest = fmax(largest, fabs((double)q[i]));
    for (int64_t a = 0; a < width; a++)
        for (int64_t b = 0; b <= a; b++) {
            double dot = 0;
            for (int64_t i = 0; i < width; i++)
                dot += (double)q[a * width + i] * (double)q[b * width + i];
            assert_true(fabs(dot - (a == b)) < 2e-6);
        }
    return largest;
}

static void test_orthogonal(void **state) {
    struct random *random = *state;
    static const struct {
        int64_t width, order; /* negative: Q is no Hadamard matrix */
    } cases[] = {{1, 1},   {2, 1},   {64, 1},   {12, 12},  {48, 12},   {20, 20},
                 {28, 28}, {56, 28}, {36, 36},  {144, 36}, {44, 44},   {104, 104},
                 {7, -7},  {6, -3},  {52, -13}, {10, -5},  {208, 104}, {576, 36}};
    struct team *team = team_create(2, 64);
    const struct compute compute = {kernel_path_best(), team};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const int64_t width = cases[i].width;
        struct rotation rotation;
        assert_true(rotation_create(&compute, width, random_bits(random), &rotation));
        assert_int_equal(rotation.order, cases[i].order < 0 ? -cases[i].order : cases[i].order);
        float *q = identity(width);
        rotation_apply_rows(&rotation, q, width);
        const double largest = check_orthogonal(q, width) * sqrt((double)width);
        assert_true(cases[i].order < 0 ? largest > 1.01 : fabs(largest - 1) < 1e-6);
        rotation_free(&rotation);
        free(q);
    }
    team_destroy(team);
}

/* x Q for rows, Q^T x for columns, against the matrix that the identity gives. */
static void test_rows_and_columns(void **state) {
    struct random *random = *state;
    struct team *team = team_create(2, 64);
    const struct compute compute = {kernel_path_best(), team};
    for (int trial = 0; trial < 6; trial++) {
        const int64_t width = random_integer(random, 1, 12) << random_integer(random, 0, 5);
        const int64_t count = random_integer(random, 1, 40);
        struct rotation rotation;
        assert_true(rotation_create(&compute, width, (uint64_t)trial, &rotation));
        float *q = identity(width);
        rotation_apply_rows(&rotation, q, width);
        float *x = malloc((size_t)(count * width) * sizeof *x);
        float *rows = malloc((size_t)(count * width) * sizeof *x);
        float *columns = malloc((size_t)(count * width) * sizeof *x);
        for (int64_t i = 0; i < count * width; i++)
            rows[i] = x[i] = random_normal(random);
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = 0; c < width; c++)
                columns[c * count + r] = x[r * width + c];
        rotation_apply_rows(&rotation, rows, count);
        rotation_apply_columns(&rotation, columns, count);
        for (int64_t r = 0; r < count; r++)
            for (int64_t c = 0; c < width; c++) {
                const double expected = product(x, q, width, r, c);
                assert_true(fabs((double)rows[r * width + c] - expected) < 1e-5);
                assert_true(rows[r * width + c] == columns[c * count + r]);
            }
        rotation_free(&rotation);
        free(q);
        free(x);
        free(rows);
        free(columns);
    }
    team_destroy(team);
}

static void test_same_bits(void **state) {
    struct random *random = *state;
    enum { WIDTH = 240, ROWS = 37 };
    float x[ROWS * WIDTH], first[ROWS * WIDTH], other[ROWS * WIDTH], alone[WIDTH];
    for (int i = 0; i < ROWS * WIDTH; i++)
        x[i] = random_normal(random);
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!kernel_path_supported((enum kernel_path)path))
            continue;
        struct team *team = team_create(1 + path % 3, 64);
        const struct compute compute = {(enum kernel_path)path, team};
        struct rotation rotation;
        assert_true(rotation_create(&compute, WIDTH, 5, &rotation));
        float *to = path == 0 ? first : other;
        memcpy(to, x, sizeof x);
        rotation_apply_rows(&rotation, to, ROWS);
        assert_memory_equal(to, first, sizeof first);
        memcpy(alone, x + 20 * WIDTH, sizeof alone);
        rotation_apply_rows(&rotation, alone, 1);
        assert_memory_equal(alone, first + 20 * WIDTH, sizeof alone);
        rotation_free(&rotation);
        assert_true(rotation_create(&compute, WIDTH, 6, &rotation));
        memcpy(other, x, sizeof x);
        rotation_apply_rows(&rotation, other, ROWS);
        assert_memory_not_equal(other, first, sizeof first);
        rotation_free(&rotation);
        team_destroy(team);
    }
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_orthogonal, &random),
        cmocka_unit_test_prestate(test_rows_and_columns, &random),
        cmocka_unit_test_prestate(test_same_bits, &random),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
