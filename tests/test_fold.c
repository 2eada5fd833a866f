/* Every fold keeps the function: the logits of a random model before and after folding one site's
 * scale, each site alone and all together, differ by at most 1e-5 (relative L2) in f32.
 *
 *   test_fold MODEL_FOLDER   (one of every family: tests/golden, and tool_make_model's with
 *                             grouped-query attention, q/k/v biases, head size not hidden/heads) */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "pipeline/fold.h"
#include "pipeline/stage.h"

enum { TOKENS = 40, CHUNK = 16 };

static struct model model;
static struct compute compute;

static void run(struct stage *stage, float *logits) {
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)((i * 7 + 3) % model.shape.vocabulary);
    const int64_t width = model.shape.hidden;
    float *hidden = malloc((size_t)(TOKENS * width) * sizeof *hidden);
    assert_int_equal(stage_embed(stage, ids, TOKENS, hidden, NULL), STATUS_OK);
    for (int at = 0; at < TOKENS; at += CHUNK)
        stage_forward(stage, hidden + at * width, at, TOKENS - at < CHUNK ? TOKENS - at : CHUNK,
                      NULL, NULL);
    assert_int_equal(stage_logits(&model, &compute, PRECISION_F32, hidden, TOKENS, logits, NULL),
                     STATUS_OK);
    free(hidden);
}

/* Ranges that make `site` (or every one, SITE_NONE) equalized, with very unlike channels. */
static float *make_maxima(int site) {
    const int64_t channels = model_layer_channels(&model);
    float *maxima = malloc((size_t)channels * sizeof *maxima);
    for (int s = 0; s < SITE_COUNT; s++)
        for (int64_t i = 0; i < model_site_channels(&model, (enum site)s); i++)
            maxima[model_site_offset(&model, (enum site)s) + i] =
                s == site || site == SITE_NONE ? 0.01f + 100.0f * (float)((i * 37) % 41) / 41.0f
                                               : 1.0f;
    return maxima;
}

static void load_and_fold(struct stage *stage, int site) {
    assert_int_equal(stage_load(&model, NULL, &compute, 0, model.shape.layers, CHUNK, TOKENS,
                                PRECISION_F32, stage, NULL),
                     STATUS_OK);
    const struct config config = {.quantization = {.method = METHOD_FPTQ, .v0 = 15, .v1 = 150}};
    float *maxima = make_maxima(site);
    struct fold_layer fold;
    const struct fold_basis basis = {.model = &model, .config = &config, .maxima = maxima};
    assert_int_equal(fold_layer_decide(&basis, &fold, NULL), STATUS_OK);
    for (int s = 0; s < SITE_COUNT; s++)
        assert_int_equal(fold.sites[s].policy,
                         s == site || site == SITE_NONE ? POLICY_EQUALIZED : POLICY_STATIC);
    for (int layer = 0; layer < model.shape.layers; layer++)
        assert_int_equal(stage_fold_layer(stage, layer, &fold, NULL), STATUS_OK);
    fold_layer_free(&fold);
    free(maxima);
}

static void test_each_fold(void **state) {
    (void)state;
    const size_t count = (size_t)(TOKENS * model.shape.vocabulary);
    float *reference = malloc(count * sizeof *reference), *logits = malloc(count * sizeof *logits);
    struct stage stage;
    assert_int_equal(stage_load(&model, NULL, &compute, 0, model.shape.layers, CHUNK, TOKENS,
                                PRECISION_F32, &stage, NULL),
                     STATUS_OK);
    run(&stage, reference);
    stage_free(&stage);
    for (int site = SITE_NONE; site < SITE_COUNT; site++) {
        load_and_fold(&stage, site);
        run(&stage, logits);
        stage_free(&stage);
        double difference = 0, norm = 0;
        for (size_t i = 0; i < count; i++) {
            difference += pow((double)logits[i] - reference[i], 2);
            norm += pow(reference[i], 2);
        }
        print_message("%s: relative L2 error %.2e\n",
                      site == SITE_NONE ? "all sites" : site_name((enum site)site),
                      sqrt(difference / norm));
        assert_true(norm > 0 && sqrt(difference / norm) <= 1e-5);
        /* A fold that does nothing would pass too: the bits must have changed. */
        assert_true(difference > 0);
    }
    free(reference);
    free(logits);
}

/* What each setting makes of every site: one policy, a scale or not, a static scale or not. */
static void test_policies(void **state) {
    (void)state;
    static const struct {
        struct config_quantization options;
        enum input_policy policy; /* of all sites */
        bool scaled;
    } cases[] = {
        {{.method = METHOD_FPTQ}, POLICY_EQUALIZED, true},
        {{.method = METHOD_FPTQ, .activation_bits = 8}, POLICY_EQUALIZED, true},
        {{.method = METHOD_FPTQ, .activation_bits = 16}, POLICY_NONE, true},
        {{.method = METHOD_FPTQ, .policy = POLICY_ALL_STATIC}, POLICY_STATIC, false},
        {{.method = METHOD_FPTQ, .policy = POLICY_ALL_EQUALIZED}, POLICY_EQUALIZED, true},
        {{.method = METHOD_FPTQ, .policy = POLICY_ALL_DYNAMIC}, POLICY_DYNAMIC, false},
        {{.method = METHOD_RTN}, POLICY_DYNAMIC, false},
        {{.method = METHOD_RTN, .policy = POLICY_ALL_STATIC}, POLICY_STATIC, false},
        {{.method = METHOD_RTN, .activation_bits = 16}, POLICY_NONE, false},
    };
    float *maxima = make_maxima(SITE_NONE);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct config config = {.quantization = cases[i].options};
        config.quantization.v0 = 15;
        config.quantization.v1 = 150;
        const struct fold_basis basis = {.model = &model, .config = &config, .maxima = maxima};
        struct fold_layer fold;
        assert_int_equal(fold_layer_decide(&basis, &fold, NULL), STATUS_OK);
        for (int site = 0; site < SITE_COUNT; site++) {
            const struct fold_site *decided = &fold.sites[site];
            assert_int_equal(decided->policy, cases[i].policy);
            assert_int_equal(decided->scale != NULL, cases[i].scaled);
            assert_int_equal(decided->input_scale > 0, input_policy_is_static(cases[i].policy));
        }
        fold_layer_free(&fold);
    }
    free(maxima);
}

/* SmoothQuant: a scale where a norm is, with the words of equalized policies, and nowhere else. */
static void test_smoothquant(void **state) {
    (void)state;
    float *maxima = make_maxima(SITE_NONE), *weights = make_maxima(SITE_NONE);
    static const struct {
        enum policy_rule rule;
        int activation_bits;
        enum input_policy plain, smooth;
    } cases[] = {{POLICY_BY_RANGE, 0, POLICY_DYNAMIC, POLICY_EQUALIZED_DYNAMIC},
                 {POLICY_ALL_DYNAMIC, 8, POLICY_DYNAMIC, POLICY_EQUALIZED_DYNAMIC},
                 {POLICY_ALL_STATIC, 0, POLICY_STATIC, POLICY_EQUALIZED},
                 {POLICY_BY_RANGE, 16, POLICY_NONE, POLICY_NONE}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        const struct config config = {.quantization = {.method = METHOD_SMOOTHQUANT,
                                                       .policy = cases[i].rule,
                                                       .activation_bits = cases[i].activation_bits,
                                                       .alpha = 0.25f}};
        const struct fold_basis basis = {
            .model = &model, .config = &config, .maxima = maxima, .weight_maxima = weights};
        struct fold_layer fold;
        assert_int_equal(fold_layer_decide(&basis, &fold, NULL), STATUS_OK);
        for (int site = 0; site < SITE_COUNT; site++) {
            const struct fold_site *decided = &fold.sites[site];
            const bool smooth = site == SITE_ATTENTION_INPUT || site == SITE_MLP_INPUT;
            assert_int_equal(decided->policy, smooth ? cases[i].smooth : cases[i].plain);
            assert_int_equal(decided->scale != NULL, smooth);
            assert_int_equal(decided->folded, smooth);
            float range = decided->range;
            if (smooth) { /* m = w: s = m^(2 alpha - 1) */
                range = equalize_range(decided->maxima, decided->scale, decided->channels);
                assert_true(fabs((double)decided->scale[5] * sqrt((double)decided->maxima[5]) - 1) <
                            1e-6);
            }
            assert_true(decided->input_scale ==
                        (cases[i].rule == POLICY_ALL_STATIC ? range / 127 : 0));
        }
        fold_layer_free(&fold);
    }
    free(maxima);
    free(weights);
}

int main(int count, char **arguments) {
    struct error error;
    if (count != 2 || model_open(arguments[1], &model, &error))
        return 1;
    compute = (struct compute){kernel_path_best(),
                               team_create(2, stage_scratch_bytes(&model, CHUNK, TOKENS))};
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_each_fold),
                                       cmocka_unit_test(test_policies),
                                       cmocka_unit_test(test_smoothquant)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    team_destroy(compute.team);
    model_close(&model);
    return failed;
}
