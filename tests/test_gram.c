/* Gram matrices against a plain double loop; the same bits for any threads and any cut of the
 * tokens; sums that are too large are noticed. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/gptq.h"
#include "kernels/gram.h"
#include "tests/random.h"

struct gram {
    struct compute compute;
    enum matmul_precision precision;
    int64_t channels, *sums;
    void *block, *work;
    bool fits;
};

static struct gram gram_start(enum kernel_path path, int threads, enum matmul_precision precision,
                              int64_t channels) {
    struct gram gram = {
        .compute = {path, team_create(threads, matmul_scratch_bytes())},
        .precision = precision,
        .channels = channels,
        .sums = calloc((size_t)gptq_packed_count(channels), sizeof(int64_t)),
        .block = aligned_alloc(64, (gram_block_bytes(precision, channels) + 63) & ~(size_t)63),
        .fits = true,
    };
    gram.work = aligned_alloc(64, gram_work_bytes(&gram.compute, precision));
    assert_true(gram.sums && gram.block && gram.work);
    memset(gram.block, 0xff, gram_block_bytes(precision, channels));
    return gram;
}

static void gram_end(struct gram *gram) {
    team_destroy(gram->compute.team);
    free(gram->sums);
    free(gram->block);
    free(gram->work);
}

/* A sequence in chunks of 1 .. chunk tokens. */
static void gram_sequence(struct gram *gram, const float *x, int64_t tokens, int64_t chunk,
                          int exponent, struct random *random) {
    for (int64_t at = 0; at < tokens;) {
        const int64_t place = at % GRAM_BLOCK, room = GRAM_BLOCK - place;
        int64_t count = random_integer(random, 1, chunk);
        count = count < room ? count : room;
        count = count < tokens - at ? count : tokens - at;
        gram_put(&gram->compute, gram->block, gram->precision, x + at * gram->channels, place,
                 count, gram->channels);
        at += count;
        if (at % GRAM_BLOCK == 0 || at == tokens)
            gram->fits &= gram_add(&gram->compute, gram->sums, gram->block, gram->precision,
                                   place + count, gram->channels, exponent, gram->work);
    }
}

static void sums_are_those_of_a_plain_loop(void **state) {
    (void)state;
    struct random random = random_start();
    for (int i = 0; i < 12; i++) {
        const enum matmul_precision precision = i % 2 ? MATMUL_F32 : MATMUL_BF16;
        const enum kernel_path path = (enum kernel_path)(i % PATH_COUNT);
        const int64_t channels = random_integer(&random, 1, i < 4 ? 20 : 200);
        const int64_t tokens = random_integer(&random, 1, i == 10 ? 2500 : 300);
        if (!kernel_path_supported(path))
            continue;
        float *x = calloc((size_t)(tokens * channels), sizeof *x);
        for (int64_t k = 0; k < tokens * channels; k++)
            x[k] = random_normal(&random) * (k % channels == 1 ? 50.0f : 1.0f);
        struct gram gram = gram_start(path, 2, precision, channels);
        gram_sequence(&gram, x, tokens, 100, 20, &random);
        struct gram again = gram_start(path, 3, precision, channels);
        gram_sequence(&again, x, tokens, 2000, 20, &random);
        assert_true(gram.fits && again.fits);
        const size_t bytes = (size_t)gptq_packed_count(channels) * sizeof(int64_t);
        assert_memory_equal(gram.sums, again.sums, bytes);
        for (int64_t a = 0; a < channels; a++)
            for (int64_t b = a; b < channels; b++) {
                double sum = 0, size = 0;
                for (int64_t t = 0; t < tokens; t++) {
                    double left = (double)x[t * channels + a], right = (double)x[t * channels + b];
                    if (precision == MATMUL_BF16) {
                        left = (double)number_from_bf16(number_to_bf16((float)left));
                        right = (double)number_from_bf16(number_to_bf16((float)right));
                    }
                    sum += left * right;
                    size += fabs(left * right);
                }
                const double got = (double)gram.sums[gptq_packed_at(channels, a, b)] * 0x1p-20;
                assert_true(fabs(got - sum) <= 8e-6 * size + 0x1p-18);
            }
        gram_end(&gram);
        gram_end(&again);
        free(x);
    }
}

static void what_is_too_large_is_noticed(void **state) {
    (void)state;
    struct random random = random_start();
    float x[3 * 5] = {0};
    for (int i = 0; i < 3; i++) {
        struct gram gram = gram_start(kernel_path_best(), 1, MATMUL_F32, 5);
        x[8] = i == 0 ? 0x1p14f : i == 1 ? 0x1p15f : NAN;
        gram_sequence(&gram, x, 3, 3, 20, &random);
        assert_int_equal(gram.fits, i == 0);
        gram_end(&gram);
    }
    struct gram gram = gram_start(kernel_path_best(), 1, MATMUL_F32, 5);
    x[8] = 1;
    gram.sums[gptq_packed_at(5, 3, 3)] = (INT64_C(1) << 61) - 5;
    gram_sequence(&gram, x, 3, 3, 20, &random);
    assert_false(gram.fits);
    gram_end(&gram);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_a_plain_loop),
        cmocka_unit_test(what_is_too_large_is_noticed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
