#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/elementwise.h"
#include "tests/random.h"

/* Random rows, with room between them that nothing may touch. */
struct rows {
    int64_t tokens, channels, stride;
    float *x, *y, *weight, *bias;
};

static const float UNTOUCHED = 123456.0f;

static float *random_array(struct random *random, int64_t count, float scale) {
    float *array = malloc((size_t)count * sizeof *array);
    assert_non_null(array);
    for (int64_t i = 0; i < count; i++)
        array[i] = scale * random_normal(random);
    return array;
}

static struct rows rows_create(struct random *random, bool contiguous) {
    struct rows rows = {.tokens = random_integer(random, 1, 40),
                        .channels = random_integer(random, 1, 3) == 1
                                        ? random_integer(random, 1, 40)
                                        : random_integer(random, 41, 2500)};
    rows.stride = rows.channels + (contiguous ? 0 : random_integer(random, 0, 9));
    rows.x = random_array(random, rows.tokens * rows.stride, 4.0f);
    rows.y = random_array(random, rows.tokens * rows.stride, 1.0f);
    rows.weight = random_array(random, rows.channels, 1.0f);
    rows.bias = random_array(random, rows.channels, 1.0f);
    for (int64_t t = 0; t < rows.tokens; t++)
        for (int64_t j = rows.channels; j < rows.stride; j++)
            rows.x[t * rows.stride + j] = UNTOUCHED;
    return rows;
}

static void rows_free(struct rows *rows) {
    free(rows->x);
    free(rows->y);
    free(rows->weight);
    free(rows->bias);
}

/* A function under test: x is its input and output. */
typedef void function(const struct compute *compute, const struct rows *rows, float *x);
/* What it should give in double for the row x, and the tolerance. */
typedef double expectation(const struct rows *rows, int64_t t, int64_t j, double *tolerance);

static void run_norm_rms(const struct compute *compute, const struct rows *rows, float *x) {
    norm_rms(compute, x, x, rows->weight, rows->tokens, rows->channels, 1e-5f);
}

static void run_norm_layer(const struct compute *compute, const struct rows *rows, float *x) {
    norm_layer(compute, x, x, rows->weight, rows->bias, rows->tokens, rows->channels, 1e-5f);
}

static void run_silu(const struct compute *compute, const struct rows *rows, float *x) {
    activation_silu_multiply(compute, x, rows->stride, rows->y, rows->stride, rows->tokens,
                             rows->channels);
}

static void run_gelu(const struct compute *compute, const struct rows *rows, float *x) {
    activation_gelu_tanh(compute, x, rows->tokens, rows->channels);
}

static void run_add(const struct compute *compute, const struct rows *rows, float *x) {
    elementwise_add(compute, x, rows->y, rows->tokens * rows->channels);
}

static void run_add_bias(const struct compute *compute, const struct rows *rows, float *x) {
    elementwise_add_bias(compute, x, rows->stride, rows->bias, rows->tokens, rows->channels);
}

/* As many parts as divide the channels. */
static int64_t parts_of(const struct rows *rows) {
    return rows->channels % 3 == 0 ? 3 : rows->channels % 2 == 0 ? 2 : 1;
}

static void run_round_int8(const struct compute *compute, const struct rows *rows, float *x) {
    const int64_t parts = parts_of(rows);
    elementwise_round_int8(compute, x, rows->stride, rows->tokens, parts, rows->channels / parts);
}

/* A sum of C squares errs by C/16 + 4 roundings at most. */
static double expect_norm_rms(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    const float *x = rows->x + t * rows->stride;
    double squares = 0.0;
    for (int64_t i = 0; i < rows->channels; i++)
        squares += (double)x[i] * (double)x[i];
    const double y =
        (double)x[j] / sqrt(squares / (double)rows->channels + 1e-5) * (double)rows->weight[j];
    const int64_t roundings = rows->channels / 16 + 16;
    *tolerance = fabs(y) * (double)roundings * 0x1p-24;
    return y;
}

/* The mean errs by the roundings of its sum, and that error is not scaled down by the result. */
static double expect_norm_layer(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    const float *x = rows->x + t * rows->stride;
    const double count = (double)rows->channels;
    double mean = 0.0, magnitude = 0.0, squares = 0.0;
    for (int64_t i = 0; i < rows->channels; i++) {
        mean += (double)x[i] / count;
        magnitude += fabs((double)x[i]) / count;
    }
    for (int64_t i = 0; i < rows->channels; i++)
        squares += ((double)x[i] - mean) * ((double)x[i] - mean);
    const double factor = (double)rows->weight[j] / sqrt(squares / count + 1e-5);
    const double y = ((double)x[j] - mean) * factor;
    *tolerance =
        (count / 16.0 + 24.0) * 0x1p-24 *
        (fabs(y) + fabs(factor) * (magnitude + fabs((double)x[j])) + fabs((double)rows->bias[j]));
    return y + (double)rows->bias[j];
}

static double expect_silu(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    const double x = (double)rows->x[t * rows->stride + j];
    const double y = x / (1.0 + exp(-x)) * (double)rows->y[t * rows->stride + j];
    *tolerance = fabs(y) * 0x1p-21;
    return y;
}

/* A rounding of the exponent is one of the result's times the exponent. */
static double expect_gelu(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    const double x = (double)rows->x[t * rows->stride + j];
    const double u = sqrt(2.0 / M_PI) * (x + 0.044715 * x * x * x);
    const double y = x * 0.5 * (1.0 + tanh(u));
    *tolerance = fabs(y) * (1.0 + fabs(u)) * 0x1p-21 + fabs(x) * 0x1p-52;
    return fabs(u) > 40.0 && x < 0.0 ? 0.0 : y;
}

static double expect_add(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    *tolerance = 0.0;
    return (double)(rows->x[t * rows->stride + j] + rows->y[t * rows->stride + j]);
}

static double expect_add_bias(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    *tolerance = 0.0;
    return (double)(rows->x[t * rows->stride + j] + rows->bias[j]);
}

/* Where x / scale is near a half, both integers are right. */
static double expect_round_int8(const struct rows *rows, int64_t t, int64_t j, double *tolerance) {
    const int64_t width = rows->channels / parts_of(rows);
    const float *part = rows->x + t * rows->stride + j / width * width;
    double largest = 0.0;
    for (int64_t i = 0; i < width; i++)
        largest = fmax(largest, fabs((double)part[i]));
    const double scale = largest / 127.0, level = (double)part[j % width] / scale;
    const bool tie = fabs(fabs(level - rint(level)) - 0.5) < 1e-4;
    *tolerance = fabs(level * scale) * 0x1p-20 + (tie ? scale : 0.0);
    return rint(level) * scale;
}

static float *result_of(function *run, const struct rows *rows, enum kernel_path path,
                        int threads) {
    const size_t bytes = (size_t)(rows->tokens * rows->stride) * sizeof(float);
    float *x = malloc(bytes);
    struct team *team = team_create(threads, 64);
    assert_non_null(x);
    assert_non_null(team);
    memcpy(x, rows->x, bytes);
    run(&(struct compute){.path = path, .team = team}, rows, x);
    team_destroy(team);
    return x;
}

/* Near the formula on the portable path, and the same bits on the others and with more threads. */
static void check(function *run, expectation *expect, bool contiguous) {
    struct random random = random_start();
    for (int round = 0; round < 6; round++) {
        struct rows rows = rows_create(&random, contiguous);
        float *x = result_of(run, &rows, PATH_PORTABLE, 1);
        for (int64_t i = 0; i < rows.tokens * rows.stride; i++) {
            const int64_t t = i / rows.stride, j = i % rows.stride;
            if (j >= rows.channels) {
                assert_true(x[i] == UNTOUCHED);
            } else if (t == 0 || t == rows.tokens - 1) {
                double tolerance;
                const double expected = expect(&rows, t, j, &tolerance);
                assert_true(fabs((double)x[i] - expected) <= tolerance);
            }
        }
        for (int path = 0; path < PATH_COUNT; path++) {
            if (!kernel_path_supported((enum kernel_path)path))
                continue;
            float *other =
                result_of(run, &rows, (enum kernel_path)path, (int)random_integer(&random, 1, 3));
            assert_memory_equal(x, other, (size_t)(rows.tokens * rows.stride) * sizeof(float));
            free(other);
        }
        free(x);
        rows_free(&rows);
    }
}

static void norm_rms_is_near(void **state) {
    (void)state;
    check(run_norm_rms, expect_norm_rms, true);
}

static void norm_layer_is_near(void **state) {
    (void)state;
    check(run_norm_layer, expect_norm_layer, true);
}

static void silu_is_near(void **state) {
    (void)state;
    check(run_silu, expect_silu, false);
}

static void gelu_is_near(void **state) {
    (void)state;
    check(run_gelu, expect_gelu, true);
}

static void add_is_exact(void **state) {
    (void)state;
    check(run_add, expect_add, true);
}

static void add_bias_is_exact(void **state) {
    (void)state;
    check(run_add_bias, expect_add_bias, false);
}

static void round_int8_is_near(void **state) {
    (void)state;
    check(run_round_int8, expect_round_int8, false);
}

static void round_int8_of_zeros_and_nan(void **state) {
    (void)state;
    struct team *team = team_create(1, 64);
    float x[] = {0.0f, -0.0f, 0.0f, 1.0f, NAN, -127.0f};
    elementwise_round_int8(&(struct compute){.path = PATH_PORTABLE, .team = team}, x, 6, 1, 2, 3);
    assert_true(x[0] == 0.0f && x[1] == 0.0f && x[2] == 0.0f);
    assert_true(x[3] == 1.0f && isnan(x[4]) && x[5] == -127.0f);
    team_destroy(team);
}

/* Far out: no NaN where the function has a limit. */
static void activations_have_their_limits(void **state) {
    (void)state;
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!kernel_path_supported((enum kernel_path)path))
            continue;
        struct team *team = team_create(1, 64);
        const struct compute compute = {.path = (enum kernel_path)path, .team = team};
        float x[] = {-1e30f, -200.0f, -0.0f, 0.0f, 200.0f, 1e12f, NAN}, y[7];
        const float ones[] = {1, 1, 1, 1, 1, 1, 1};
        memcpy(y, x, sizeof x);
        activation_silu_multiply(&compute, x, 7, ones, 7, 1, 7);
        activation_gelu_tanh(&compute, y, 1, 7);
        for (int i = 0; i < 4; i++)
            assert_true(x[i] == 0.0f && y[i] == 0.0f);
        assert_true(x[4] == 200.0f && y[4] == 200.0f && x[5] == 1e12f && y[5] == 1e12f);
        assert_true(isnan(x[6]) && isnan(y[6]));
        team_destroy(team);
    }
}

static const struct rope_scaling PLAIN = {.kind = ROPE_PLAIN};

static void table_holds_cosines_of_f32_angles(void **state) {
    (void)state;
    struct random random = random_start();
    const int dimension = 2 * (int)random_integer(&random, 1, 64);
    const int64_t context = random_integer(&random, 1, 3000);
    const float theta = (float)pow(10.0, 3.0 + 4.0 * random_uniform(&random));
    float *table = malloc((size_t)context * (size_t)dimension * sizeof *table);
    rope_table_fill(table, context, dimension, theta, &PLAIN);
    for (int i = 0; i < dimension / 2; i++) {
        const float exponent = (float)(2 * i) / (float)dimension;
        const float frequency = 1.0f / (float)pow((double)theta, (double)exponent);
        for (int64_t position = 0; position < context; position++) {
            const double angle = (double)((float)position * frequency);
            const float *row = table + position * dimension;
            assert_true(fabs((double)row[i] - cos(angle)) <= 0x1p-24);
            assert_true(fabs((double)row[i + dimension / 2] - sin(angle)) <= 0x1p-24);
        }
    }
    free(table);
}

/* One row, position 1: the angles are the frequencies; Llama 3.1's figures. */
static void frequencies_are_scaled(void **state) {
    (void)state;
    const int dimension = 128;
    const struct rope_scaling linear = {.kind = ROPE_LINEAR, .factor = 4.0f};
    const struct rope_scaling llama3 = {.kind = ROPE_LLAMA3,
                                        .factor = 8.0f,
                                        .low_frequency_factor = 1.0f,
                                        .high_frequency_factor = 4.0f,
                                        .original_context = 8192.0f};
    float table[2 * 128];
    for (int kind = 0; kind < 2; kind++) {
        rope_table_fill(table, 2, dimension, 500000.0f, kind == 0 ? &linear : &llama3);
        for (int i = 0; i < dimension / 2; i++) {
            const double plain = pow(500000.0, -2.0 * i / dimension);
            const double wave = 2.0 * M_PI / plain;
            const double smooth = fmin(fmax((8192.0 / wave - 1.0) / 3.0, 0.0), 1.0);
            const double expected =
                kind == 0 ? plain / 4.0 : (1.0 - smooth) * plain / 8.0 + smooth * plain;
            const double angle =
                atan2((double)table[dimension + dimension / 2 + i], (double)table[dimension + i]);
            assert_true(fabs(angle - expected) <= 1e-6 * expected + 1e-7);
        }
    }
}

static void rope_turns_pairs(void **state) {
    (void)state;
    struct random random = random_start();
    const int dimension = 2 * (int)random_integer(&random, 1, 70);
    const int heads = (int)random_integer(&random, 1, 5);
    const int64_t tokens = random_integer(&random, 1, 30), position = random_integer(&random, 0, 9);
    const int64_t stride = (int64_t)heads * dimension + random_integer(&random, 0, 5);
    float *table = malloc((size_t)(position + tokens) * (size_t)dimension * sizeof *table);
    float *x = random_array(&random, tokens * stride, 1.0f);
    const size_t bytes = (size_t)(tokens * stride) * sizeof *x;
    float *turned = malloc(bytes), *expected = malloc(bytes);
    rope_table_fill(table, position + tokens, dimension, 10000.0f, &PLAIN);
    memcpy(expected, x, bytes);
    for (int64_t t = 0; t < tokens; t++) {
        for (int head = 0; head < heads; head++) {
            float *pair = expected + t * stride + (int64_t)head * dimension;
            const float *row = table + (position + t) * dimension;
            for (int i = 0, j = dimension / 2; i < dimension / 2; i++, j++) {
                const float a = pair[i], b = pair[j];
                const float right = a * row[i], left = b * row[j];
                pair[i] = right - left;
                const float up = b * row[i], down = a * row[j];
                pair[j] = up + down;
            }
        }
    }
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!kernel_path_supported((enum kernel_path)path))
            continue;
        struct team *team = team_create((int)random_integer(&random, 1, 3), 64);
        memcpy(turned, x, bytes);
        rope_apply(&(struct compute){.path = (enum kernel_path)path, .team = team}, turned, stride,
                   tokens, heads, dimension, table, position);
        assert_memory_equal(turned, expected, bytes);
        team_destroy(team);
    }
    free(table);
    free(x);
    free(turned);
    free(expected);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_rms_is_near),
        cmocka_unit_test(norm_layer_is_near),
        cmocka_unit_test(silu_is_near),
        cmocka_unit_test(gelu_is_near),
        cmocka_unit_test(add_is_exact),
        cmocka_unit_test(round_int8_is_near),
        cmocka_unit_test(round_int8_of_zeros_and_nan),
        cmocka_unit_test(add_bias_is_exact),
        cmocka_unit_test(activations_have_their_limits),
        cmocka_unit_test(table_holds_cosines_of_f32_angles),
        cmocka_unit_test(frequencies_are_scaled),
        cmocka_unit_test(rope_turns_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
