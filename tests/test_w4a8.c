#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/matmul.h"
#include "kernels/quantize.h"
#include "kernels/w4a8.h"
#include "tests/amx_emulator.h"
#include "tests/random.h"

/* A product of random shape. Rows of X and Y lie apart. */
struct problem {
    int64_t m, n, k, group_size, groups, x_stride, y_stride;
    int bits;
    bool symmetric;
    int8_t *levels;      /* (N, K) */
    float *scales;       /* (N, groups) */
    int8_t *zero_points; /* (N, groups) */
    float *x, *bias;     /* bias (N), or NULL */
    float *multiplier;   /* (K), or NULL */
    struct w4a8_quantization how;
};

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

static void fill_weights(struct random *random, struct problem *p) {
    const int low = p->bits == 4 ? -8 : -128, high = -low - 1;
    const bool extreme = random_integer(random, 0, 3) == 0;
    for (int64_t i = 0; i < p->n * p->k; i++)
        p->levels[i] = (int8_t)(extreme ? (random_bits(random) & 1 ? low : high)
                                        : random_integer(random, low, high));
    for (int64_t i = 0; i < p->n * p->groups; i++) {
        p->scales[i] = (float)(0.001 + 0.02 * random_uniform(random));
        p->zero_points[i] = (int8_t)random_integer(random, -8, 7);
    }
}

static struct problem problem_create(struct random *random, int64_t m, int64_t n, int64_t k,
                                     int64_t group_size, int bits, bool symmetric) {
    struct problem p = {.m = m,
                        .n = n,
                        .k = k,
                        .group_size = group_size,
                        .bits = bits,
                        .symmetric = symmetric,
                        .groups = w4a8_group_count(k, group_size),
                        .x_stride = k + random_integer(random, 0, 3),
                        .y_stride = n + random_integer(random, 0, 3)};
    p.levels = malloc((size_t)(n * k));
    p.scales = malloc((size_t)(n * p.groups) * sizeof *p.scales);
    p.zero_points = malloc((size_t)(n * p.groups));
    p.x = malloc((size_t)((m - 1) * p.x_stride + k) * sizeof *p.x);
    fill_weights(random, &p);
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < k; j++)
            p.x[i * p.x_stride + j] = 3.0f * random_normal(random);
    if (random_bits(random) & 1) {
        p.bias = malloc((size_t)n * sizeof *p.bias);
        for (int64_t i = 0; i < n; i++)
            p.bias[i] = random_normal(random);
    }
    if (random_bits(random) & 1) {
        p.multiplier = malloc((size_t)k * sizeof *p.multiplier);
        for (int64_t i = 0; i < k; i++)
            p.multiplier[i] = (float)(0.1 + random_uniform(random));
    }
    p.how = (struct w4a8_quantization){.multiplier = p.multiplier,
                                       .dynamic = (random_bits(random) & 1) != 0,
                                       .scale = (float)(0.01 + 0.1 * random_uniform(random))};
    return p;
}

static void problem_free(struct problem *p) {
    free(p->levels);
    free(p->scales);
    free(p->zero_points);
    free(p->x);
    free(p->bias);
    free(p->multiplier);
}

/* Rows begin .. end - 1 in the form of the checkpoint, as long as it must be and no longer. */
static void pack_weight_rows(const struct problem *p, const struct w4a8_weight *weight,
                             int64_t n_begin, int64_t begin, int64_t end) {
    const int64_t count = (end - begin) * p->k;
    const int8_t *levels = p->levels + (n_begin + begin) * p->k;
    void *values = malloc((size_t)(p->bits == 4 ? (count + 1) / 2 : count));
    if (p->bits == 4)
        quantize_pack_nibbles(values, levels, count);
    else
        memcpy(values, levels, (size_t)count);
    w4a8_weight_pack(weight, begin, end, values, p->scales + (n_begin + begin) * p->groups,
                     p->symmetric ? NULL : p->zero_points + (n_begin + begin) * p->groups);
    free(values);
}

/* Rows of Y m_begin .. m_end - 1, columns n_begin .. n_end - 1. */
static void multiply_part(struct random *random, const struct problem *p,
                          const struct compute *compute, float *y, int64_t m_begin, int64_t m_end,
                          int64_t n_begin, int64_t n_end) {
    struct w4a8_weight weight = {.rows = n_end - n_begin,
                                 .columns = p->k,
                                 .group_size = p->group_size,
                                 .bits = p->bits,
                                 .symmetric = p->symmetric,
                                 .path = compute->path};
    weight.data = allocate(w4a8_weight_bytes(&weight));
    for (int64_t row = 0; row < weight.rows;) {
        const int64_t end = random_integer(random, row + 1, weight.rows);
        pack_weight_rows(p, &weight, n_begin, row, end);
        row = end;
    }
    struct w4a8_input input = {
        .data = allocate(w4a8_input_bytes(compute->path, m_end - m_begin, p->k, p->group_size))};
    w4a8_quantize(compute, &input, p->x + m_begin * p->x_stride, m_end - m_begin, p->k, p->x_stride,
                  p->group_size, &p->how);
    w4a8_run(compute, y + m_begin * p->y_stride + n_begin, p->y_stride, &input, &weight,
             p->bias == NULL ? NULL : p->bias + n_begin);
    free(input.data);
    free(weight.data);
}

static const float UNTOUCHED = 123456.0f;

static float *result_create(const struct problem *p) {
    float *y = allocate((size_t)(p->m * p->y_stride) * sizeof(float));
    for (int64_t i = 0; i < p->m * p->y_stride; i++)
        y[i] = UNTOUCHED;
    return y;
}

static float *multiply(struct random *random, const struct problem *p, enum kernel_path path,
                       int threads) {
    const struct compute compute = {.path = path,
                                    .team = team_create(threads, w4a8_scratch_bytes())};
    float *y = result_create(p);
    multiply_part(random, p, &compute, y, 0, p->m, 0, p->n);
    team_destroy(compute.team);
    return y;
}

/* What kernels/w4a8.h says of quantization. */
static void quantize_plainly(const struct problem *p, int8_t *values, float *scales) {
    for (int64_t i = 0; i < p->m; i++) {
        const float *x = p->x + i * p->x_stride;
        float amax = 0.0f;
        for (int64_t k = 0; k < p->k; k++)
            amax = fmaxf(amax, fabsf(p->multiplier == NULL ? x[k] : x[k] * p->multiplier[k]));
        scales[i] = p->how.dynamic ? fmaxf(amax / 127.0f, 0x1p-126f) : p->how.scale;
        const float reciprocal = 1.0f / scales[i];
        for (int64_t k = 0; k < p->k; k++) {
            const float equalized = p->multiplier == NULL ? x[k] : x[k] * p->multiplier[k];
            const float scaled = equalized * reciprocal;
            values[i * p->k + k] = (int8_t)rintf(fminf(fmaxf(scaled, -127.0f), 127.0f));
        }
    }
}

/* The bits that the chain of kernels/w4a8.h gives, with plain sums in int32, and next to them the
 * exact value: error at most 1e-6 of the sum of the groups' magnitudes. */
static void assert_right(const struct problem *p, const float *y) {
    int8_t *x = malloc((size_t)(p->m * p->k));
    float *x_scales = malloc((size_t)p->m * sizeof *x_scales);
    quantize_plainly(p, x, x_scales);
    const int64_t size = p->group_size == 0 ? p->k : p->group_size;
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            float chain = 0.0f;
            double exact = 0.0, magnitudes = 0.0;
            for (int64_t group = 0; group < p->groups; group++) {
                const int z = p->symmetric ? 0 : p->zero_points[j * p->groups + group];
                const float scale = p->scales[j * p->groups + group];
                int32_t bracket = 0;
                for (int64_t k = group * size; k < p->k && k < (group + 1) * size; k++)
                    bracket += x[i * p->k + k] * (p->levels[j * p->k + k] - z);
                chain = fmaf(scale, (float)bracket, chain);
                exact += (double)scale * bracket * (double)x_scales[i];
                magnitudes += fabs((double)scale * bracket * (double)x_scales[i]);
            }
            chain *= x_scales[i];
            if (p->bias != NULL) {
                chain += p->bias[j];
                exact += (double)p->bias[j];
                magnitudes += fabs((double)p->bias[j]);
            }
            const float found = y[i * p->y_stride + j];
            assert_memory_equal(&found, &chain, sizeof chain);
            const double roundings = (double)(p->groups + 4) * 0x1p-24;
            assert_true(fabs((double)found - exact) <= fmax(1e-6, roundings) * magnitudes);
        }
        for (int64_t j = p->n; j < p->y_stride; j++)
            assert_true(y[i * p->y_stride + j] == UNTOUCHED);
    }
    free(x);
    free(x_scales);
}

static int64_t random_group(struct random *random) {
    static const int64_t sizes[] = {0, 32, 64, 128, 128, 256, 20, 1, 7, 600};
    return sizes[random_integer(random, 0, sizeof sizes / sizeof *sizes - 1)];
}

static struct problem problem_any(struct random *random, int64_t most_rows) {
    static const int64_t shapes[][3] = {
        {1, 1, 1},      {1, 200, 513}, {2, 1, 2},     {9, 49, 128},  {8, 48, 1024},
        {33, 97, 1100}, {17, 64, 172}, {1, 400, 288}, {40, 30, 640}, {31, 47, 11008 / 8}};
    enum { FIXED = sizeof shapes / sizeof *shapes };
    const int64_t i = random_integer(random, 0, 2 * FIXED - 1);
    const int bits = random_integer(random, 0, 2) == 0 ? 8 : 4;
    const bool symmetric = bits == 8 || (random_bits(random) & 1) != 0;
    const int64_t group_size = random_group(random);
    if (i < FIXED)
        return problem_create(random, shapes[i][0], shapes[i][1], shapes[i][2], group_size, bits,
                              symmetric);
    return problem_create(random, random_integer(random, 1, most_rows),
                          random_integer(random, 1, 130), random_integer(random, 1, 1500),
                          group_size, bits, symmetric);
}

/* Whether the path runs here; amx also where it is emulated. */
static bool runs(int path) {
    return path == PATH_AMX ? amx_emulator_install()
                            : kernel_path_supported((enum kernel_path)path);
}

static void every_path_gives_the_bits_of_the_chain(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 60; round++) {
        struct problem p = problem_any(&random, 70);
        for (int path = 0; path < PATH_COUNT; path++) {
            if (!runs(path) || (path == PATH_AMX && round % 2 != 0))
                continue;
            float *y = multiply(&random, &p, (enum kernel_path)path, 1);
            assert_right(&p, y);
            free(y);
        }
        problem_free(&p);
    }
}

/* Rows beyond one block of sums, a group longer than a block of k, extreme values in it. */
static void long_rows_do_not_overflow(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 2; round++) {
        struct problem p = problem_create(&random, 3, 5, 28672, 0, round == 0 ? 4 : 8, round != 0);
        for (int64_t i = 0; i < p.m * p.x_stride - (p.x_stride - p.k); i++)
            p.x[i] = 1e6f;
        for (int64_t i = 0; i < p.n * p.k; i++)
            p.levels[i] = round == 0 ? 7 : -128;
        memset(p.zero_points, -8, (size_t)(p.n * p.groups));
        for (int path = 0; path < PATH_COUNT; path++) {
            if (!runs(path))
                continue;
            float *y = multiply(&random, &p, (enum kernel_path)path, 1);
            assert_right(&p, y);
            free(y);
        }
        problem_free(&p);
    }
}

/* Any cut of M and of N, and any number of threads. */
static void results_depend_on_nothing_else(void **state) {
    (void)state;
    struct random random = random_start();
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!runs(path))
            continue;
        struct problem p =
            problem_create(&random, random_integer(&random, 258, 300),
                           random_integer(&random, 2, 150), random_integer(&random, 1, 300),
                           random_group(&random), 4, (random_bits(&random) & 1) != 0);
        float *whole = multiply(&random, &p, (enum kernel_path)path, 1);
        for (int threads = 2; threads <= 3; threads++) {
            const struct compute compute = {.path = (enum kernel_path)path,
                                            .team = team_create(threads, w4a8_scratch_bytes())};
            float *y = result_create(&p);
            const int64_t m =
                random_integer(&random, 0, 1) == 0 ? 1 : random_integer(&random, 1, p.m - 1);
            const int64_t n = random_integer(&random, 1, p.n - 1);
            for (int part = 0; part < 4; part++)
                multiply_part(&random, &p, &compute, y, part & 1 ? m : 0, part & 1 ? p.m : m,
                              part & 2 ? n : 0, part & 2 ? p.n : n);
            assert_memory_equal(y, whole, (size_t)(p.m * p.y_stride) * sizeof *y);
            free(y);
            team_destroy(compute.team);
        }
        free(whole);
        problem_free(&p);
    }
}

static void assert_quantized(const struct problem *p, enum kernel_path path) {
    const struct compute compute = {.path = path, .team = team_create(2, 0)};
    struct w4a8_input input = {.data = allocate(w4a8_input_bytes(path, p->m, p->k, p->group_size))};
    w4a8_quantize(&compute, &input, p->x, p->m, p->k, p->x_stride, p->group_size, &p->how);
    int8_t *found = malloc((size_t)(p->m * p->k)), *expected = malloc((size_t)(p->m * p->k));
    float *found_scales = malloc((size_t)p->m * sizeof(float));
    float *expected_scales = malloc((size_t)p->m * sizeof(float));
    w4a8_input_unpack(&input, found, found_scales);
    quantize_plainly(p, expected, expected_scales);
    assert_memory_equal(found, expected, (size_t)(p->m * p->k));
    assert_memory_equal(found_scales, expected_scales, (size_t)p->m * sizeof(float));
    free(found);
    free(expected);
    free(found_scales);
    free(expected_scales);
    free(input.data);
    team_destroy(compute.team);
}

/* Halves round to even, beyond the range clamps, rows of zeros and of denormals. */
static void activations_are_rounded_as_said(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 20; round++) {
        struct problem p =
            problem_create(&random, random_integer(&random, 3, 40), 1,
                           random_integer(&random, 1, 700), random_group(&random), 4, true);
        if (round % 2 == 0) {
            free(p.multiplier);
            p.multiplier = NULL;
            p.how = (struct w4a8_quantization){.scale = 0.5f};
            for (int64_t i = 0; i < p.k; i++)
                p.x[i] = (float)random_integer(&random, -300, 300) * 0.25f;
        }
        for (int64_t i = 0; i < p.k; i++) {
            p.x[p.x_stride + i] = 0.0f;
            p.x[2 * p.x_stride + i] = (float)random_integer(&random, -3, 3) * 1e-45f;
        }
        for (int path = 0; path < PATH_COUNT; path++)
            if (runs(path))
                assert_quantized(&p, (enum kernel_path)path);
        problem_free(&p);
    }
}

/* A token that is not finite shows in its own output, and in no other's. */
static void not_finite_tokens_show(void **state) {
    (void)state;
    struct random random = random_start();
    struct problem p = problem_create(&random, 3, 50, 300, 128, 4, false);
    p.how.dynamic = true;
    p.x[p.x_stride + 7] = NAN;
    p.x[2 * p.x_stride + 8] = -INFINITY;
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!runs(path))
            continue;
        float *y = multiply(&random, &p, (enum kernel_path)path, 1);
        for (int64_t j = 0; j < p.n; j++) {
            assert_true(isfinite(y[j]));
            assert_true(isfinite(y[p.y_stride + j]) == 0);
            assert_true(isfinite(y[2 * p.y_stride + j]) == 0);
        }
        free(y);
    }
    problem_free(&p);
}

static float *multiply_dense(const struct problem *p, enum kernel_path path,
                             enum matmul_precision precision, const struct matmul_weight *weight) {
    struct matmul_packed packed = {.data =
                                       allocate(matmul_packed_bytes(path, precision, p->m, p->k))};
    void *scratch = allocate(matmul_scratch_bytes());
    float *y = result_create(p);
    matmul_pack_serial(path, &packed, p->x, p->m, p->k, p->x_stride, precision, NULL);
    matmul_run_serial(y, p->y_stride, &packed, weight, scratch);
    free(packed.data);
    free(scratch);
    return y;
}

/* W4A16: the dense product's bits for (q - z) * scale, rounded to the product's own numbers. */
static void int4_in_the_dense_product(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 16; round++) {
        const enum matmul_precision precision = round % 2 == 0 ? MATMUL_F32 : MATMUL_BF16;
        const enum number_type type = round % 2 == 0 ? NUMBER_F32 : NUMBER_BF16;
        struct problem p = problem_create(
            &random, random_integer(&random, 1, 40), random_integer(&random, 1, 100),
            random_integer(&random, 1, 1300), random_group(&random), 4, round % 4 < 2);
        const int64_t size = p.group_size == 0 ? p.k : p.group_size;
        uint8_t *nibbles = malloc((size_t)(p.n * p.k + 1) / 2);
        void *wide = malloc((size_t)(p.n * p.k) * number_size(type));
        quantize_pack_nibbles(nibbles, p.levels, p.n * p.k);
        for (int64_t i = 0; i < p.n * p.k; i++) {
            const int64_t group = i / p.k * p.groups + i % p.k / size;
            const int z = p.symmetric ? 0 : p.zero_points[group];
            const float value = (float)(p.levels[i] - z) * p.scales[group];
            number_narrow((char *)wide + (size_t)i * number_size(type), &value, type, 1);
        }
        const struct matmul_weight plain = {
            .data = wide, .type = type, .rows = p.n, .columns = p.k, .stride = p.k};
        struct matmul_weight levels = plain;
        levels.data = nibbles;
        levels.scales = p.scales;
        levels.zero_points = p.symmetric ? NULL : p.zero_points;
        levels.group_size = p.group_size;
        for (int path = 0; path < PATH_COUNT; path++) {
            if (!runs(path))
                continue;
            float *expected = multiply_dense(&p, (enum kernel_path)path, precision, &plain);
            float *found = multiply_dense(&p, (enum kernel_path)path, precision, &levels);
            assert_memory_equal(found, expected, (size_t)(p.m * p.y_stride) * sizeof *found);
            free(expected);
            free(found);
        }
        free(nibbles);
        free(wide);
        problem_free(&p);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_path_gives_the_bits_of_the_chain),
        cmocka_unit_test(long_rows_do_not_overflow),
        cmocka_unit_test(results_depend_on_nothing_else),
        cmocka_unit_test(activations_are_rounded_as_said),
        cmocka_unit_test(not_finite_tokens_show),
        cmocka_unit_test(int4_in_the_dense_product),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
