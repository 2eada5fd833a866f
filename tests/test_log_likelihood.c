/* Log-probabilities from blocks of random logits, against a plain loop in double. */
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

#include "kernels/log_likelihood.h"

enum { TOKENS = 7, VOCABULARY = 5000, BLOCK = 1234 };

static float random_logit(void) {
    return (float)rand() / (float)RAND_MAX * 40.0f - 20.0f;
}

/* Scores of logits (TOKENS, VOCABULARY) taken block by block. */
static void score(enum kernel_path path, int threads, const float *logits, const int32_t *targets,
                  struct log_likelihood *state) {
    const struct compute compute = {path, team_create(threads, 64)};
    float *block = malloc(TOKENS * BLOCK * sizeof *block);
    assert_non_null(compute.team);
    for (int t = 0; t < TOKENS; t++)
        log_likelihood_start(&state[t], targets[t]);
    for (int64_t first = 0; first < VOCABULARY; first += BLOCK) {
        const int64_t count = VOCABULARY - first < BLOCK ? VOCABULARY - first : BLOCK;
        for (int t = 0; t < TOKENS; t++)
            memcpy(block + t * BLOCK, logits + t * VOCABULARY + first,
                   (size_t)count * sizeof *block);
        log_likelihood_add(&compute, state, block, BLOCK, TOKENS, first, count);
    }
    free(block);
    team_destroy(compute.team);
}

static void test_values(void **unused) {
    (void)unused;
    const unsigned seed = (unsigned)time(NULL);
    printf("seed %u\n", seed);
    srand(seed);
    float *logits = malloc(TOKENS * VOCABULARY * sizeof *logits);
    int32_t targets[TOKENS];
    for (int i = 0; i < TOKENS * VOCABULARY; i++)
        logits[i] = random_logit();
    for (int t = 0; t < TOKENS; t++)
        targets[t] = rand() % VOCABULARY;
    logits[0] = logits[VOCABULARY - 1] = 30.0f; /* a tie of the most likely: the first one */
    struct log_likelihood first[TOKENS], state[TOKENS];
    score(PATH_PORTABLE, 1, logits, targets, first);
    for (int t = 0; t < TOKENS; t++) {
        const float *row = logits + t * VOCABULARY;
        int top = 0;
        double total = 0;
        for (int i = 0; i < VOCABULARY; i++)
            top = row[i] > row[top] ? i : top;
        for (int i = 0; i < VOCABULARY; i++)
            total += exp((double)row[i] - (double)row[top]);
        const double expected = (double)row[targets[t]] - (double)row[top] - log(total);
        const double found = log_likelihood_value(&first[t]);
        assert_int_equal(first[t].top, top);
        if (!(fabs(found - expected) < 3e-6))
            fail_msg("token %d: %.9f, expected %.9f", t, found, expected);
    }
    assert_int_equal(first[0].top, 0);
    for (int path = 0; path < PATH_COUNT; path++) {
        if (!kernel_path_supported((enum kernel_path)path))
            continue;
        score((enum kernel_path)path, 3, logits, targets, state);
        for (int t = 0; t < TOKENS; t++) {
            assert_true(log_likelihood_value(&state[t]) == log_likelihood_value(&first[t]));
            assert_int_equal(state[t].top, first[t].top);
        }
    }
    logits[VOCABULARY + 17] = NAN;
    score(PATH_PORTABLE, 1, logits, targets, state);
    assert_true(isnan(log_likelihood_value(&state[1])));
    assert_true(log_likelihood_value(&state[2]) == log_likelihood_value(&first[2]));
    free(logits);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_values)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
