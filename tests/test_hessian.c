/* A stage's Hessians against a plain double loop over the tokens: windows of several blocks, chunks
 * of any size, blocks that are there already or elsewhere are not added again. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/gptq.h"
#include "pipeline/hessian.h"
#include "tests/random.h"

enum { SAMPLES = 3, LENGTH = 2 * GRAM_BLOCK + 300, LAYERS = 2, WINDOW_BLOCKS = 3 };

static const char *model_path;

struct trial {
    struct model model;
    struct config config;
    struct compute compute;
    float *x[LAYERS][SITE_COUNT]; /* (SAMPLES, LENGTH, channels) */
};

static void make_trial(struct trial *trial, struct random *random) {
    struct error error;
    assert_int_equal(model_open(model_path, &trial->model, &error), STATUS_OK);
    trial->config = (struct config){
        .calibration = {.samples = SAMPLES, .sequence_length = LENGTH},
        .run = {.precision = PRECISION_F32},
    };
    trial->compute = (struct compute){kernel_path_best(), team_create(2, matmul_scratch_bytes())};
    for (int layer = 0; layer < LAYERS; layer++)
        for (int site = 0; site < SITE_COUNT; site++) {
            const int64_t count =
                SAMPLES * LENGTH * model_site_channels(&trial->model, (enum site)site);
            float *x = trial->x[layer][site] = malloc((size_t)count * sizeof *x);
            assert_non_null(x);
            for (int64_t i = 0; i < count; i++)
                x[i] = (float)random_uniform(random) - 0.4f;
        }
}

static void end_trial(struct trial *trial) {
    for (int layer = 0; layer < LAYERS; layer++)
        for (int site = 0; site < SITE_COUNT; site++)
            free(trial->x[layer][site]);
    team_destroy(trial->compute.team);
    model_close(&trial->model);
}

/* As the stage does it: chunk by chunk, layer by layer, site by site. */
static void pass_window(const struct trial *trial, struct hessians *hessians, int64_t window,
                        int64_t end, int64_t chunk) {
    for (int64_t at = 0; at < end; at += chunk)
        for (int layer = 0; layer < LAYERS; layer++)
            for (int site = 0; site < SITE_COUNT; site++) {
                const int64_t channels = model_site_channels(&trial->model, (enum site)site);
                hessians_take(hessians, 1 + layer, (enum site)site, window,
                              trial->x[layer][site] + (window * LENGTH + at) * channels, at,
                              end - at < chunk ? end - at : chunk);
            }
}

static struct hessians start(const struct trial *trial) {
    struct hessians hessians;
    struct error error;
    assert_int_equal(hessians_create(&hessians, &trial->model, &trial->compute, &trial->config, 1,
                                     1 + LAYERS, &error),
                     STATUS_OK);
    return hessians;
}

/* Sums over window-blocks whose bit is in `blocks`. */
static void check(const struct trial *trial, const struct hessians *hessians, int layer, int site,
                  unsigned blocks) {
    const int64_t channels = model_site_channels(&trial->model, (enum site)site);
    const float *x = trial->x[layer][site];
    const int64_t *sums = hessians_sums(hessians, 1 + layer, (enum site)site);
    for (int64_t a = 0; a < channels; a += 5)
        for (int64_t b = a; b < channels; b += 3) {
            double sum = 0;
            for (int64_t t = 0; t < SAMPLES * LENGTH; t++)
                if (blocks >> (t / LENGTH * WINDOW_BLOCKS + t % LENGTH / GRAM_BLOCK) & 1)
                    sum += (double)x[t * channels + a] * (double)x[t * channels + b];
            const double got =
                ldexp((double)sums[gptq_packed_at(channels, a, b)], -hessians->exponent);
            assert_true(fabs(got - sum) <= 2e-3);
        }
}

static void sums_are_those_of_the_tokens(void **state) {
    (void)state;
    struct random random = random_start();
    struct trial trial;
    make_trial(&trial, &random);
    struct hessians whole = start(&trial), parts = start(&trial);
    for (int64_t window = 0; window < SAMPLES; window++)
        pass_window(&trial, &whole, window, LENGTH, 256);
    for (int layer = 0; layer < LAYERS; layer++)
        for (int site = 0; site < SITE_COUNT; site++)
            check(&trial, &whole, layer, site, 0777);
    /* Other chunks and another order; a window that broke off in its second block; one again. */
    pass_window(&trial, &parts, 2, LENGTH, 999);
    pass_window(&trial, &parts, 0, GRAM_BLOCK + 700, 333);
    check(&trial, &parts, 1, SITE_MLP_HIDDEN, 0701);
    pass_window(&trial, &parts, 0, LENGTH, LENGTH);
    pass_window(&trial, &parts, 2, LENGTH, 100);
    pass_window(&trial, &parts, 1, LENGTH, 64);
    assert_memory_equal(whole.layers[0].record, parts.layers[0].record,
                        hessians_record_bytes(&whole));
    assert_memory_equal(whole.layers[1].record, parts.layers[1].record,
                        hessians_record_bytes(&whole));
    hessians_free(&parts);
    /* What another replica has is not added. */
    parts = start(&trial);
    parts.layers[0].elsewhere[0] = 0052;
    for (int64_t window = 0; window < SAMPLES; window++)
        pass_window(&trial, &parts, window, LENGTH, 500);
    check(&trial, &parts, 0, SITE_ATTENTION_INPUT, 0777 & ~0052u);
    check(&trial, &parts, 1, SITE_ATTENTION_INPUT, 0777);
    struct error error;
    assert_int_equal(hessians_check(&parts, &error), STATUS_OK);
    hessians_free(&parts);
    hessians_free(&whole);
    end_trial(&trial);
}

static void what_is_too_large_is_named(void **state) {
    (void)state;
    struct random random = random_start();
    struct trial trial;
    struct error error;
    make_trial(&trial, &random);
    struct hessians hessians = start(&trial);
    trial.x[1][SITE_MLP_INPUT][5] = 1e6f;
    pass_window(&trial, &hessians, 0, LENGTH, 256);
    assert_int_equal(hessians_check(&hessians, &error), STATUS_FAILED);
    assert_non_null(strstr(error.message, "layer 2, site mlp_input"));
    hessians_free(&hessians);
    end_trial(&trial);
}

int main(int count, char **arguments) {
    if (count < 2)
        return 2;
    model_path = arguments[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_are_those_of_the_tokens),
        cmocka_unit_test(what_is_too_large_is_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
