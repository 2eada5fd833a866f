/* Divergences from blocks of random logits, against a plain loop in double. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <cmocka.h>

#include "kernels/divergence.h"

enum { TOKENS = 7, VOCABULARY = 5003, BLOCK = 1234 };

static float random_between(float low, float high) {
    return low + (float)rand() / (float)RAND_MAX * (high - low);
}

static void copy_block(float *block, const float *logits, int64_t first, int64_t count) {
    for (int t = 0; t < TOKENS; t++)
        memcpy(block + t * BLOCK, logits + t * VOCABULARY + first, (size_t)count * sizeof *block);
}

/* Of logits a, b (TOKENS, VOCABULARY), taken block by block. */
static void compare(enum kernel_path path, int threads, const float *a, const float *b,
                    double divergences[TOKENS]) {
    const struct compute compute = {path, team_create(threads, 64)};
    static float a_block[TOKENS * BLOCK], b_block[TOKENS * BLOCK], difference[TOKENS * BLOCK];
    struct log_likelihood p[TOKENS], q[TOKENS];
    float sums[TOKENS] = {0};
    assert_non_null(compute.team);
    for (int t = 0; t < TOKENS; t++) {
        log_likelihood_start(&p[t], t);
        log_likelihood_start(&q[t], t);
    }
    for (int64_t first = 0; first < VOCABULARY; first += BLOCK) {
        const int64_t count = VOCABULARY - first < BLOCK ? VOCABULARY - first : BLOCK;
        copy_block(a_block, a, first, count);
        copy_block(b_block, b, first, count);
        divergence_subtract(&compute, difference, a_block, b_block, BLOCK, TOKENS, count);
        log_likelihood_add(&compute, q, b_block, BLOCK, TOKENS, first, count);
        log_likelihood_add(&compute, p, a_block, BLOCK, TOKENS, first, count);
        divergence_add(&compute, sums, p, a_block, difference, BLOCK, TOKENS, count);
    }
    for (int t = 0; t < TOKENS; t++)
        divergences[t] = divergence_value(sums[t], &p[t], &q[t]);
    team_destroy(compute.team);
}

static double log_total(const float *row) {
    double total = 0;
    for (int i = 0; i < VOCABULARY; i++)
        total += exp((double)row[i]);
    return log(total);
}

static double plain_divergence(const float *a, const float *b) {
    const double log_p = log_total(a), log_q = log_total(b);
    double sum = 0;
    for (int i = 0; i < VOCABULARY; i++)
        sum += exp((double)a[i] - log_p) * (((double)a[i] - log_p) - ((double)b[i] - log_q));
    return sum;
}

static void test_values(void **unused) {
    (void)unused;
    const unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    float *a = malloc(TOKENS * VOCABULARY * sizeof *a),
          *b = malloc(TOKENS * VOCABULARY * sizeof *b);
    assert_true(a && b);
    for (int i = 0; i < TOKENS * VOCABULARY; i++) {
        a[i] = random_between(-20, 20);
        b[i] = i < VOCABULARY ? a[i] : a[i] + random_between(-1, 1);
    }
    double first[TOKENS], found[TOKENS];
    compare(PATH_PORTABLE, 1, a, b, first);
    assert_true(fabs(first[0]) < 1e-6); /* the same distribution */
    for (int t = 0; t < TOKENS; t++) {
        const double expected = plain_divergence(a + t * VOCABULARY, b + t * VOCABULARY);
        if (!(fabs(first[t] - expected) < 3e-6))
            fail_msg("token %d: %.9f, expected %.9f", t, first[t], expected);
    }
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!kernel_path_supported((enum kernel_path)path))
            continue;
        compare((enum kernel_path)path, 3, a, b, found);
        assert_memory_equal(found, first, sizeof first);
    }
    free(a);
    free(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
