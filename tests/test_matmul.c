#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "kernels/matmul.h"
#include "tests/amx_emulator.h"
#include "tests/random.h"

/* Memory whose end is the end of what may be read, as with a mapped file. */
struct guarded {
    void *data, *map;
    size_t mapped;
};

static struct guarded guarded_create(size_t bytes) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE), used = (bytes + page - 1) / page * page;
    struct guarded memory = {.mapped = used + page};
    memory.map =
        mmap(NULL, memory.mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(memory.map != MAP_FAILED);
    assert_int_equal(mprotect((char *)memory.map + used, page, PROT_NONE), 0);
    memory.data = (char *)memory.map + used - bytes;
    return memory;
}

static void guarded_free(struct guarded *memory) {
    munmap(memory->map, memory->mapped);
}

/* A product of random shape. Rows of W and X lie apart, and a row of W need not be aligned. */
struct problem {
    int64_t m, n, k, x_stride, y_stride;
    enum matmul_precision precision;
    struct matmul_weight w;
    struct guarded weights_memory, x_memory;
    float *x;
    float *wide; /* W widened (N, K) */
};

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 127) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

static struct problem problem_create(struct random *random, int64_t m, int64_t n, int64_t k,
                                     enum number_type type, enum matmul_precision precision) {
    struct problem p = {.m = m, .n = n, .k = k, .precision = precision};
    p.x_stride = k + random_integer(random, 0, 3);
    p.y_stride = n + random_integer(random, 0, 3);
    p.w = (struct matmul_weight){
        .type = type, .rows = n, .columns = k, .stride = k + random_integer(random, 0, 3)};
    const size_t size = number_size(type);
    p.weights_memory = guarded_create((size_t)((n - 1) * p.w.stride + k) * size);
    p.x_memory = guarded_create((size_t)((m - 1) * p.x_stride + k) * sizeof(float));
    p.w.data = p.weights_memory.data;
    p.x = p.x_memory.data;
    p.wide = malloc((size_t)(n * k) * sizeof(float));
    for (int64_t i = 0; i < n; i++) {
        float *row = p.wide + i * k;
        char *narrow = (char *)p.weights_memory.data + (size_t)(i * p.w.stride) * size;
        for (int64_t j = 0; j < k; j++)
            row[j] = random_normal(random);
        number_narrow(narrow, row, type, (size_t)k);
        number_widen(row, narrow, type, (size_t)k);
    }
    for (int64_t i = 0; i < m; i++)
        for (int64_t j = 0; j < k; j++)
            p.x[i * p.x_stride + j] = random_normal(random);
    return p;
}

static void problem_free(struct problem *p) {
    guarded_free(&p->weights_memory);
    guarded_free(&p->x_memory);
    free(p->wide);
}

/* Y (m, n), rows y_stride apart, of rows m_begin .. m_end - 1 of X and n_begin .. n_end - 1 of W.
 */
static void multiply_part(const struct problem *p, enum kernel_path path, struct team *team,
                          float *y, float *maxima, int64_t m_begin, int64_t m_end, int64_t n_begin,
                          int64_t n_end) {
    const struct compute compute = {.path = path, .team = team};
    const int64_t rows = m_end - m_begin;
    struct matmul_packed packed = {
        .data = allocate(matmul_packed_bytes(path, p->precision, rows, p->k))};
    const struct matmul_weight w = {
        .data = (const char *)p->w.data + (size_t)(n_begin * p->w.stride) * number_size(p->w.type),
        .type = p->w.type,
        .rows = n_end - n_begin,
        .columns = p->k,
        .stride = p->w.stride};
    const float *x = p->x + m_begin * p->x_stride;
    float *part = y + m_begin * p->y_stride + n_begin;
    if (team != NULL) {
        matmul_pack(&compute, &packed, x, rows, p->k, p->x_stride, p->precision, maxima);
        matmul_run(&compute, part, p->y_stride, &packed, &w);
    } else {
        void *scratch = allocate(matmul_scratch_bytes());
        matmul_pack_serial(path, &packed, x, rows, p->k, p->x_stride, p->precision, maxima);
        matmul_run_serial(part, p->y_stride, &packed, &w, scratch);
        free(scratch);
    }
    free(packed.data);
}

static const float UNTOUCHED = 123456.0f;

static float *result_create(const struct problem *p) {
    float *y = allocate((size_t)(p->m * p->y_stride) * sizeof(float));
    for (int64_t i = 0; i < p->m * p->y_stride; i++)
        y[i] = UNTOUCHED;
    return y;
}

static float *multiply(const struct problem *p, enum kernel_path path, struct team *team) {
    float *y = result_create(p);
    multiply_part(p, path, team, y, NULL, 0, p->m, 0, p->n);
    return y;
}

static void assert_same(const struct problem *p, const float *a, const float *b) {
    for (int64_t i = 0; i < p->m; i++)
        assert_memory_equal(a + i * p->y_stride, b + i * p->y_stride, (size_t)p->n * sizeof(float));
}

/* Against the sum in double of the same (rounded) inputs: a chain of K roundings errs by at most
 * K * 2^-24 of the sum of magnitudes; vdpbf16ps and the two parts of f16 round up to 4 K times. */
static void assert_near(const struct problem *p, const float *y) {
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < p->n; j++) {
            double sum = 0.0, magnitudes = 0.0;
            for (int64_t k = 0; k < p->k; k++) {
                float x = p->x[i * p->x_stride + k];
                if (p->precision == MATMUL_BF16)
                    x = number_from_bf16(number_to_bf16(x));
                const double product = (double)x * (double)p->wide[j * p->k + k];
                sum += product;
                magnitudes += fabs(product);
            }
            const double error = fabs(sum - (double)y[i * p->y_stride + j]);
            const double roundings = p->precision == MATMUL_BF16 ? 4.0 : 1.0;
            assert_true(error <= roundings * (double)p->k * 0x1p-24 * magnitudes);
        }
        for (int64_t j = p->n; j < p->y_stride; j++)
            assert_true(y[i * p->y_stride + j] == UNTOUCHED);
    }
}

static struct problem problem_any(struct random *random, enum number_type type,
                                  enum matmul_precision precision) {
    static const int64_t shapes[][3] = {{1, 1, 1},      {1, 7, 513},   {2, 1, 2},    {15, 13, 31},
                                        {16, 96, 64},   {17, 50, 129}, {33, 5, 700}, {64, 12, 256},
                                        {257, 49, 300}, {300, 97, 33}};
    enum { FIXED = sizeof shapes / sizeof *shapes };
    const int64_t i = random_integer(random, 0, 2 * FIXED - 1);
    if (i < FIXED)
        return problem_create(random, shapes[i][0], shapes[i][1], shapes[i][2], type, precision);
    return problem_create(random, random_integer(random, 1, 140), random_integer(random, 1, 130),
                          random_integer(random, 1, 1100), type, precision);
}

struct kind {
    enum number_type type;
    enum matmul_precision precision;
};
static const struct kind kinds[] = {
    {NUMBER_F32, MATMUL_F32},  {NUMBER_F16, MATMUL_F32},   {NUMBER_BF16, MATMUL_F32},
    {NUMBER_F16, MATMUL_BF16}, {NUMBER_BF16, MATMUL_BF16},
};
enum { KINDS = sizeof kinds / sizeof *kinds };

/* Whether the path runs here; amx also where it is emulated. */
static bool runs(int path) {
    return path == PATH_AMX ? amx_emulator_install()
                            : kernel_path_supported((enum kernel_path)path);
}

static void results_are_near(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 8; round++) {
        for (int kind = 0; kind < KINDS; kind++) {
            struct problem p = problem_any(&random, kinds[kind].type, kinds[kind].precision);
            for (int path = 0; path < PATH_COUNT; path++) {
                if (!runs(path))
                    continue;
                float *y = multiply(&p, (enum kernel_path)path, NULL);
                assert_near(&p, y);
                free(y);
            }
            problem_free(&p);
        }
    }
}

static void f32_paths_give_the_same_bits(void **state) {
    (void)state;
    struct random random = random_start();
    for (int round = 0; round < 8; round++) {
        for (int kind = 0; kind < KINDS; kind++) {
            struct problem p = problem_any(&random, kinds[kind].type, kinds[kind].precision);
            float *expected = multiply(&p, PATH_PORTABLE, NULL);
            const int last = p.precision == MATMUL_F32 ? PATH_AMX : PATH_AVX512;
            for (int path = 1; path <= last; path++) {
                if (!runs(p.precision == MATMUL_F32 && path > PATH_AVX512 ? PATH_AVX512 : path))
                    continue;
                float *y = multiply(&p, (enum kernel_path)path, NULL);
                assert_same(&p, expected, y);
                free(y);
            }
            free(expected);
            problem_free(&p);
        }
    }
}

/* X so large that blocks are taller (far_block_rows): one of 192 rows, one that is not full. */
static void deep_products_give_the_same_bits(void **state) {
    (void)state;
    struct random random = random_start();
    struct problem p = problem_create(&random, 257, 205, 6200, NUMBER_BF16, MATMUL_F32);
    float *expected = multiply(&p, PATH_PORTABLE, NULL);
    for (int path = 1; path <= PATH_AVX512; path++) {
        if (!runs(path))
            continue;
        float *y = multiply(&p, (enum kernel_path)path, NULL);
        assert_same(&p, expected, y);
        free(y);
    }
    free(expected);
    problem_free(&p);
}

/* The definition of the f32 order: one chain of fused multiply-adds in ascending k. */
static void f32_is_one_chain(void **state) {
    (void)state;
    struct random random = random_start();
    struct problem p = problem_create(&random, 5, 9, 777, NUMBER_F16, MATMUL_F32);
    float *y = multiply(&p, PATH_PORTABLE, NULL);
    for (int64_t i = 0; i < p.m; i++) {
        for (int64_t j = 0; j < p.n; j++) {
            float sum = 0.0f;
            for (int64_t k = 0; k < p.k; k++)
                sum = fmaf(p.x[i * p.x_stride + k], p.wide[j * p.k + k], sum);
            assert_true(sum == y[i * p.y_stride + j]);
        }
    }
    free(y);
    problem_free(&p);
}

/* x[m, k] rounded to bf16 and w[n, k]; zero beyond K. */
struct operands {
    float x, w;
};

static struct operands operands_at(const struct problem *p, int64_t m, int64_t n, int64_t k) {
    if (k >= p->k)
        return (struct operands){0.0f, 0.0f};
    return (struct operands){number_from_bf16(number_to_bf16(p->x[m * p->x_stride + k])),
                             p->wide[n * p->k + k]};
}

static float multiply_add(struct operands operands, float sum) {
    return fmaf(operands.x, operands.w, sum);
}

/* vdpbf16ps: of each pair of k the odd one first. */
static float sum_of_pairs(const struct problem *p, int64_t m, int64_t n) {
    float sum = 0.0f;
    for (int64_t k = 0; k < p->k; k += 2)
        sum = multiply_add(operands_at(p, m, n, k), multiply_add(operands_at(p, m, n, k + 1), sum));
    return sum;
}

/* tdpbf16ps: of each 32 k the even and the odd ones in a chain each. */
static float sum_of_tiles(const struct problem *p, int64_t m, int64_t n) {
    float sum = 0.0f;
    for (int64_t begin = 0; begin < p->k; begin += 32) {
        float even = 0.0f, odd = 0.0f;
        for (int64_t k = begin; k < begin + 32; k += 2) {
            even = multiply_add(operands_at(p, m, n, k), even);
            odd = multiply_add(operands_at(p, m, n, k + 1), odd);
        }
        sum += even + odd;
    }
    return sum;
}

/* So that the same bytes come from processors of another make. */
static void bf16_has_the_documented_order(void **state) {
    (void)state;
    struct random random = random_start();
    for (int path = PATH_AVX512_BF16; path <= PATH_AMX; path++) {
        struct problem p = problem_create(&random, 35, 27, 2091, NUMBER_BF16, MATMUL_BF16);
        if (runs(path)) {
            float *y = multiply(&p, (enum kernel_path)path, NULL);
            for (int64_t m = 0; m < p.m; m++)
                for (int64_t n = 0; n < p.n; n++)
                    assert_true(y[m * p.y_stride + n] ==
                                (path == PATH_AMX ? sum_of_tiles : sum_of_pairs)(&p, m, n));
            free(y);
        }
        problem_free(&p);
    }
}

/* Every finite f16 number and the infinities, times one. */
static void f16_weights_are_not_rounded(void **state) {
    (void)state;
    enum { ALL = 65536 };
    static uint16_t halves[ALL];
    static float y[ALL];
    float one = 1.0f;
    for (int i = 0; i < ALL; i++)
        halves[i] = (uint16_t)i;
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!runs(path))
            continue;
        for (int precision = 0; precision < 2; precision++) {
            const struct problem p = {.m = 1,
                                      .n = path == PATH_AMX ? 4096 : ALL,
                                      .k = 1,
                                      .y_stride = ALL,
                                      .x_stride = 1,
                                      .precision = (enum matmul_precision)precision,
                                      .x = &one};
            for (int begin = 0; begin < ALL; begin += (int)p.n * (path == PATH_AMX ? 8 : 1)) {
                struct problem part = p;
                part.w = (struct matmul_weight){.data = halves + begin,
                                                .type = NUMBER_F16,
                                                .rows = p.n,
                                                .columns = 1,
                                                .stride = 1};
                multiply_part(&part, (enum kernel_path)path, NULL, y, NULL, 0, 1, 0, p.n);
                for (int i = 0; i < p.n; i++) {
                    const float expected = number_from_f16(halves[begin + i]);
                    assert_true(isnan(expected) ? isnan(y[i]) : y[i] == expected);
                }
            }
        }
    }
}

/* Any cut of M and of N, and any number of threads. */
static void results_depend_on_the_path_alone(void **state) {
    (void)state;
    struct random random = random_start();
    for (int kind = 0; kind < KINDS; kind++) {
        for (int path = 0; path < PATH_COUNT; path++) {
            if (!runs(path))
                continue;
            struct problem p = problem_create(
                &random, random_integer(&random, 2, 300), random_integer(&random, 2, 150),
                random_integer(&random, 1, 1100), kinds[kind].type, kinds[kind].precision);
            float *whole = multiply(&p, (enum kernel_path)path, NULL);
            for (int threads = 1; threads <= 3; threads++) {
                struct team *team = team_create(threads, matmul_scratch_bytes());
                float *y = multiply(&p, (enum kernel_path)path, team);
                assert_same(&p, whole, y);
                free(y);
                y = result_create(&p);
                const int64_t m = random_integer(&random, 1, p.m - 1);
                const int64_t n = random_integer(&random, 1, p.n - 1);
                for (int part = 0; part < 4; part++)
                    multiply_part(&p, (enum kernel_path)path, part & 1 ? team : NULL, y, NULL,
                                  part & 1 ? m : 0, part & 1 ? p.m : m, part & 2 ? n : 0,
                                  part & 2 ? p.n : n);
                assert_same(&p, whole, y);
                free(y);
                team_destroy(team);
            }
            free(whole);
            problem_free(&p);
        }
    }
}

/* More of X than stays in the cache: blocks of many panels. All at once, and a row of X at a time.
 */
static void tall_blocks_give_the_same_bits(void **state) {
    (void)state;
    struct random random = random_start();
    for (int kind = 0; kind < KINDS; kind++) {
        struct problem p = problem_create(&random, 131, random_integer(&random, 65, 100), 4137,
                                          kinds[kind].type, kinds[kind].precision);
        for (int path = PATH_AVX2; path < PATH_COUNT; path++) {
            if (!runs(path))
                continue;
            float *whole = multiply(&p, (enum kernel_path)path, NULL), *y = result_create(&p);
            for (int64_t m = 0; m < p.m; m += 26)
                multiply_part(&p, (enum kernel_path)path, NULL, y, NULL, m, m + 1, 0, p.n);
            for (int64_t m = 0; m < p.m; m += 26)
                assert_memory_equal(whole + m * p.y_stride, y + m * p.y_stride,
                                    (size_t)p.n * sizeof(float));
            free(whole);
            free(y);
        }
        problem_free(&p);
    }
}

static void check_maxima(struct random *random, const struct problem *p, enum kernel_path path,
                         struct team *team) {
    float *maxima = calloc((size_t)p->k, sizeof *maxima);
    float *y = result_create(p);
    const int64_t half = p->m / 2;
    const int64_t nan = random_integer(random, 0, p->k - 1);
    maxima[nan] = NAN;
    multiply_part(p, path, team, y, maxima, 0, half, 0, 1);
    multiply_part(p, path, team, y, maxima, half, p->m, 0, 1);
    for (int64_t k = 0; k < p->k; k++) {
        float expected = 0.0f;
        for (int64_t m = 0; m < p->m; m++) {
            const float x = fabsf(p->x[m * p->x_stride + k]);
            expected = isnan(x) || x > expected ? x : expected;
            if (isnan(expected))
                break;
        }
        if (isnan(expected) || k == nan)
            assert_true(isnan(maxima[k]));
        else
            assert_true(maxima[k] == expected);
    }
    free(maxima);
    free(y);
}

static void maxima_are_exact_and_keep_nan(void **state) {
    (void)state;
    struct random random = random_start();
    struct team *team = team_create(3, matmul_scratch_bytes());
    for (int round = 0; round < 4; round++) {
        for (int precision = 0; precision < 2; precision++) {
            struct problem p = problem_create(&random, random_integer(&random, 2, 200), 1,
                                              random_integer(&random, 1, 600), NUMBER_BF16,
                                              (enum matmul_precision)precision);
            for (int i = 0; i < 6; i++)
                p.x[random_integer(&random, 0, p.m - 1) * p.x_stride +
                    random_integer(&random, 0, p.k - 1)] = i % 3 == 0   ? NAN
                                                           : i % 3 == 1 ? -INFINITY
                                                                        : -NAN;
            for (int path = 0; path < PATH_COUNT; path++) {
                if (!runs(path))
                    continue;
                check_maxima(&random, &p, (enum kernel_path)path, NULL);
                check_maxima(&random, &p, (enum kernel_path)path, team);
            }
            problem_free(&p);
        }
    }
    team_destroy(team);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_near),
        cmocka_unit_test(f32_paths_give_the_same_bits),
        cmocka_unit_test(deep_products_give_the_same_bits),
        cmocka_unit_test(f32_is_one_chain),
        cmocka_unit_test(bf16_has_the_documented_order),
        cmocka_unit_test(f16_weights_are_not_rounded),
        cmocka_unit_test(results_depend_on_the_path_alone),
        cmocka_unit_test(tall_blocks_give_the_same_bits),
        cmocka_unit_test(maxima_are_exact_and_keep_nan),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
