#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/attention.h"
#include "tests/amx_emulator.h"
#include "tests/random.h"

/* A sequence of `tokens`, its queries, keys and values in rows as a joint product leaves them. */
struct sequence {
    struct attention_shape shape;
    int64_t tokens, stride;
    float slopes[16];
    float *rows, *queries, *keys, *values;
};

static void *allocate(size_t bytes) {
    void *memory = aligned_alloc(64, (bytes + 63) / 64 * 64);
    assert_non_null(memory);
    return memory;
}

static void sequence_create(struct sequence *sequence, struct random *random, int heads,
                            int kv_heads, int head_dim, int64_t tokens, int64_t window, bool alibi,
                            enum matmul_precision precision) {
    *sequence = (struct sequence){.tokens = tokens};
    for (int head = 0; head < heads; head++)
        sequence->slopes[head] = (float)random_uniform(random) * 0.2f;
    sequence->shape = (struct attention_shape){
        .heads = heads,
        .kv_heads = kv_heads,
        .head_dim = head_dim,
        .context = tokens + random_integer(random, 0, 300),
        .window = window,
        .scale = 1.0f / sqrtf((float)head_dim),
        .alibi_slopes = alibi ? sequence->slopes : NULL,
        .precision = precision,
    };
    const int64_t query_width = (int64_t)heads * head_dim, width = (int64_t)kv_heads * head_dim;
    sequence->stride = query_width + 2 * width + random_integer(random, 0, 5);
    sequence->rows = allocate((size_t)(tokens * sequence->stride) * sizeof(float));
    for (int64_t i = 0; i < tokens * sequence->stride; i++)
        sequence->rows[i] = 2.0f * random_normal(random);
    sequence->queries = sequence->rows;
    sequence->keys = sequence->queries + query_width;
    sequence->values = sequence->keys + width;
}

static int64_t channels_of(const struct sequence *sequence) {
    return (int64_t)sequence->shape.heads * sequence->shape.head_dim;
}

/* The result, the sequence cut at the given step (0: at random places). The cache begins as NaN:
 * what was not appended must not show. */
static float *attend(const struct sequence *sequence, struct random *random, enum kernel_path path,
                     int threads, int64_t step) {
    const struct attention_shape *shape = &sequence->shape;
    float *output = allocate((size_t)(sequence->tokens * channels_of(sequence)) * sizeof(float));
    char *cache = allocate(attention_cache_bytes(shape));
    struct team *team = team_create(threads, attention_scratch_bytes(shape, sequence->tokens));
    const struct compute compute = {.path = path, .team = team};
    memset(cache, 0xff, attention_cache_bytes(shape));
    for (int64_t position = 0, tokens; position < sequence->tokens; position += tokens) {
        const int64_t rest = sequence->tokens - position;
        tokens = step > 0 ? step : random_integer(random, 1, 200);
        tokens = tokens < rest ? tokens : rest;
        const int64_t row = position * sequence->stride;
        attention_append(&compute, cache, shape, position, tokens, sequence->keys + row,
                         sequence->values + row, sequence->stride);
        attention_run(&compute, output + position * channels_of(sequence), sequence->queries + row,
                      sequence->stride, cache, shape, position, tokens);
    }
    team_destroy(team);
    free(cache);
    return output;
}

static double rounded(const struct sequence *sequence, float x) {
    return sequence->shape.precision == MATMUL_F32 ? (double)x
                                                   : (double)number_from_bf16(number_to_bf16(x));
}

/* One token and head by the formula in double. Returns the largest |score| over its keys. */
static double attend_plainly(const struct sequence *sequence, int64_t t, int head, double *output,
                             double *magnitude) {
    const struct attention_shape *shape = &sequence->shape;
    const int dimension = shape->head_dim, kv_head = head / (shape->heads / shape->kv_heads);
    const int64_t first = shape->window > 0 && t >= shape->window ? t - shape->window + 1 : 0;
    double *weight = malloc((size_t)(t + 1) * sizeof *weight);
    double largest = -(double)INFINITY, total = 0.0, largest_term = 0.0;
    for (int64_t key = first; key <= t; key++) {
        double score = 0.0, terms = 0.0;
        for (int d = 0; d < dimension; d++) {
            const double product =
                rounded(sequence, sequence->queries[t * sequence->stride + head * dimension + d]) *
                rounded(sequence, sequence->keys[key * sequence->stride + kv_head * dimension + d]);
            score += product;
            terms += fabs(product);
        }
        const double bias =
            shape->alibi_slopes == NULL ? 0.0 : (double)shape->alibi_slopes[head] * (double)key;
        weight[key] = score * (double)shape->scale + bias;
        largest = fmax(largest, weight[key]);
        largest_term = fmax(largest_term, terms * (double)shape->scale + bias);
    }
    for (int64_t key = first; key <= t; key++)
        total += weight[key] = exp(weight[key] - largest);
    for (int d = 0; d < dimension; d++) {
        output[d] = magnitude[d] = 0.0;
        for (int64_t key = first; key <= t; key++) {
            const double product =
                weight[key] / total *
                rounded(sequence,
                        sequence->values[key * sequence->stride + kv_head * dimension + d]);
            output[d] += product;
            magnitude[d] += fabs(product);
        }
    }
    free(weight);
    return largest_term;
}

/* A score errs by the roundings of its sum, and its exponential by as much relatively; a weight in
 * bf16 by 2^-9; the sum over keys by a rounding for each key. */
static void assert_near(const struct sequence *sequence, const float *output,
                        struct random *random) {
    const struct attention_shape *shape = &sequence->shape;
    double expected[128], magnitude[128];
    for (int sample = 0; sample < 60; sample++) {
        const int64_t t = sample == 0 ? 0 : random_integer(random, 0, sequence->tokens - 1);
        const int head = (int)random_integer(random, 0, shape->heads - 1);
        const double terms = attend_plainly(sequence, t, head, expected, magnitude);
        const double weight_error = shape->precision == MATMUL_BF16 ? 0x1p-8 : 0.0;
        const double error = weight_error + ((double)(4 * shape->head_dim + 8) * terms +
                                             4.0 * (double)sequence->tokens + 16.0) *
                                                0x1p-24;
        for (int d = 0; d < shape->head_dim; d++) {
            const float found =
                output[t * channels_of(sequence) + (int64_t)head * shape->head_dim + d];
            assert_true(fabs((double)found - expected[d]) <= error * magnitude[d]);
        }
    }
}

static void assert_same(const struct sequence *sequence, const float *a, float *b) {
    assert_memory_equal(a, b, (size_t)(sequence->tokens * channels_of(sequence)) * sizeof *a);
    free(b);
}

enum { EMULATED = 12000 }; /* tokens * channels */

/* Whether the path runs here; amx also where it is emulated, which is slow: short sequences only.
 */
static bool runs(int path, const struct sequence *sequence) {
    if (kernel_path_supported((enum kernel_path)path))
        return true;
    return path == PATH_AMX && sequence->tokens * channels_of(sequence) <= EMULATED &&
           amx_emulator_install();
}

/* The paths whose products have the same bits. */
static bool same_products(enum matmul_precision precision, int a, int b) {
    return a == b || precision == MATMUL_F32 || (a <= PATH_AVX512 && b <= PATH_AVX512);
}

static void check(struct random *random, const struct sequence *sequence) {
    float *results[PATH_COUNT] = {NULL};
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!runs(path, sequence))
            continue;
        results[path] = attend(sequence, random, (enum kernel_path)path, 1, sequence->tokens);
        assert_near(sequence, results[path], random);
        for (int other = 0; other < path; other++)
            if (results[other] != NULL && same_products(sequence->shape.precision, path, other))
                assert_memory_equal(results[path], results[other],
                                    (size_t)(sequence->tokens * channels_of(sequence)) *
                                        sizeof(float));
        if (path == PATH_PORTABLE)
            continue;
        const int threads = (int)random_integer(random, 1, 3);
        assert_same(sequence, results[path],
                    attend(sequence, random, (enum kernel_path)path, threads, 0));
        assert_same(sequence, results[path],
                    attend(sequence, random, (enum kernel_path)path, 2, 256));
    }
    for (int path = 0; path < PATH_COUNT; path++)
        free(results[path]);
}

static void results_are_near_and_repeat(void **state) {
    (void)state;
    struct random random = random_start();
    static const int heads[][2] = {{4, 4}, {6, 2}, {5, 1}, {1, 1}, {16, 2}};
    static const int dimensions[] = {8, 64, 80, 128};
    for (int round = 0; round < 10; round++) {
        const int *count = heads[round % 5];
        const int dimension = dimensions[random_integer(&random, 0, 3)];
        const int64_t size = round < 6 ? 64000 : EMULATED;
        const int64_t tokens = random_integer(&random, 1, size / (count[0] * dimension));
        const int64_t window = round % 3 == 2 ? random_integer(&random, 1, 400) : 0;
        struct sequence sequence;
        sequence_create(&sequence, &random, count[0], count[1], dimension, tokens, window,
                        round % 4 == 1, round % 2 ? MATMUL_BF16 : MATMUL_F32);
        check(&random, &sequence);
        free(sequence.rows);
    }
}

/* A block whose scores are all far below the running largest weighs nothing, and one far above it
 * replaces what was there. */
static void large_scores_neither_overflow_nor_vanish(void **state) {
    (void)state;
    struct random random = random_start();
    struct sequence sequence;
    sequence_create(&sequence, &random, 2, 2, 64, 700, 0, false, MATMUL_F32);
    for (int64_t t = 0; t < sequence.tokens; t++)
        for (int64_t i = 0; i < 128; i++)
            sequence.keys[t * sequence.stride + i] *= t / 100 % 2 ? 100.0f : 0.01f;
    for (int path = 1; path < PATH_COUNT; path++) {
        if (!runs(path, &sequence))
            continue;
        float *output = attend(&sequence, &random, (enum kernel_path)path, 1, 256);
        assert_near(&sequence, output, &random);
        free(output);
    }
    free(sequence.rows);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(results_are_near_and_repeat),
        cmocka_unit_test(large_scores_neither_overflow_nor_vanish),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
