/* Every fold keeps the function: the logits of a random model before and after folding one site's
 * scale, each site alone and all together, differ by at most 1e-5 (relative L2) in f32; so do those
 * of the model with its residual stream rotated, where it can be, as it is and folded.
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
    enum input_policy policies[SITE_COUNT];
    for (int s = 0; s < SITE_COUNT; s++)
        policies[s] = s == site || site == SITE_NONE ? POLICY_EQUALIZED : POLICY_STATIC;
    /* By range, rotated sites would not be equalized. */
    const struct fold_basis basis = {.model = &model,
                                     .config = &config,
                                     .maxima = maxima,
                                     .policies = model.rotation ? policies : NULL};
    assert_int_equal(fold_layer_decide(&basis, &fold, NULL), STATUS_OK);
    for (int s = 0; s < SITE_COUNT; s++)
        assert_int_equal(fold.sites[s].policy, policies[s]);
    for (int layer = 0; layer < model.shape.layers; layer++)
        assert_int_equal(stage_fold_layer(stage, layer, &fold, NULL), STATUS_OK);
    fold_layer_free(&fold);
    free(maxima);
}

static float *logits_as_loaded(void) {
    const size_t count = (size_t)(TOKENS * model.shape.vocabulary);
    float *logits = malloc(count * sizeof *logits);
    struct stage stage;
    assert_int_equal(stage_load(&model, NULL, &compute, 0, model.shape.layers, CHUNK, TOKENS,
                                PRECISION_F32, &stage, NULL),
                     STATUS_OK);
    run(&stage, logits);
    stage_free(&stage);
    return logits;
}

/* x is what y is, but not bit for bit: what changes nothing would pass too. */
static void check_close(const char *what, const float *x, const float *y, size_t count) {
    double difference = 0, norm = 0;
    for (size_t i = 0; i < count; i++) {
        difference += pow((double)x[i] - y[i], 2);
        norm += pow(y[i], 2);
    }
    print_message("%s%s: relative L2 error %.2e\n", model.rotation ? "rotated, " : "", what,
                  sqrt(difference / norm));
    assert_true(norm > 0 && sqrt(difference / norm) <= 1e-5);
    assert_true(difference > 0);
}

static void check_each_fold(const float *reference) {
    const size_t count = (size_t)(TOKENS * model.shape.vocabulary);
    float *logits = malloc(count * sizeof *logits);
    for (int site = SITE_NONE; site < SITE_COUNT; site++) {
        struct stage stage;
        load_and_fold(&stage, site);
        run(&stage, logits);
        stage_free(&stage);
        check_close(site == SITE_NONE ? "all sites" : site_name((enum site)site), logits, reference,
                    count);
    }
    free(logits);
}

static void test_each_fold(void **state) {
    (void)state;
    float *reference = logits_as_loaded();
    check_each_fold(reference);
    free(reference);
}

/* The model read as rotated has other weights everywhere, and the same logits. */
static void test_rotation(void **state) {
    (void)state;
    struct rotation rotation;
    if (!architecture_can_rotate(model.architecture))
        skip();
    float *reference = logits_as_loaded();
    assert_true(rotation_create(&compute, model.shape.hidden, 3, &rotation));
    model.rotation = &rotation;
    float *logits = logits_as_loaded();
    check_close("as it is", logits, reference, (size_t)(TOKENS * model.shape.vocabulary));
    check_each_fold(reference);
    model.rotation = NULL;
    rotation_free(&rotation);
    free(reference);
    free(logits);
}

/* What an observer saw of a model's sites. */
struct seen {
    float *maxima; /* (layers, model_layer_channels) */
    float *rows;   /* (layers, TOKENS, model_layer_channels) */
};

static void see_site(void *context, int layer, enum site site, const float *x, int64_t position,
                     int64_t tokens) {
    const struct seen *seen = context;
    const int64_t all = model_layer_channels(&model), channels = model_site_channels(&model, site);
    for (int64_t t = 0; t < tokens; t++)
        memcpy(seen->rows + (layer * TOKENS + position + t) * all + model_site_offset(&model, site),
               x + t * channels, (size_t)channels * sizeof *x);
}

/* The sites of the model as it is, of the rotated one, or of the former as the latter has them. */
static struct seen see(const struct rotation *loaded, const struct rotation *observed) {
    const size_t channels = (size_t)(model.shape.layers * model_layer_channels(&model));
    const struct seen seen = {calloc(channels, sizeof(float)),
                              calloc(TOKENS * channels, sizeof(float))};
    struct stage_observer observer = {
        .maxima = seen.maxima, .site = see_site, .context = (void *)&seen};
    float *hidden = malloc((size_t)(TOKENS * model.shape.hidden) * sizeof *hidden);
    struct stage stage;
    model.rotation = loaded;
    assert_int_equal(stage_load(&model, NULL, &compute, 0, model.shape.layers, CHUNK, TOKENS,
                                PRECISION_F32, &stage, NULL),
                     STATUS_OK);
    assert_int_equal(stage_observe_rotated(&stage, observed, NULL), STATUS_OK);
    int32_t ids[TOKENS];
    for (int i = 0; i < TOKENS; i++)
        ids[i] = (int32_t)((i * 5 + 1) % model.shape.vocabulary);
    assert_int_equal(stage_embed(&stage, ids, TOKENS, hidden, NULL), STATUS_OK);
    for (int at = 0; at < TOKENS; at += CHUNK)
        stage_forward(&stage, hidden + at * model.shape.hidden, at,
                      TOKENS - at < CHUNK ? TOKENS - at : CHUNK, &observer, NULL);
    stage_free(&stage);
    model.rotation = NULL;
    free(hidden);
    return seen;
}

static void test_observed_rotation(void **state) {
    (void)state;
    struct rotation rotation;
    if (!architecture_can_rotate(model.architecture))
        skip();
    assert_true(rotation_create(&compute, model.shape.hidden, 3, &rotation));
    const struct seen plain = see(NULL, NULL), expected = see(&rotation, NULL),
                      observed = see(NULL, &rotation);
    const int64_t channels = model_layer_channels(&model);
    const size_t count = (size_t)(model.shape.layers * channels);
    check_close("observed maxima", observed.maxima, expected.maxima, count);
    check_close("observed rows", observed.rows, expected.rows, TOKENS * count);
    for (int64_t i = 0; i < model.shape.layers * channels; i++) {
        const int64_t channel = i % channels, first = model_site_offset(&model, SITE_MLP_INPUT);
        const bool normed =
            channel < model_site_channels(&model, SITE_ATTENTION_INPUT) ||
            (channel >= first && channel < first + model_site_channels(&model, SITE_MLP_INPUT));
        assert_int_equal(observed.maxima[i] == plain.maxima[i], !normed);
    }
    const struct seen all[] = {plain, expected, observed};
    for (int i = 0; i < 3; i++) {
        free(all[i].maxima);
        free(all[i].rows);
    }
    rotation_free(&rotation);
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

/* By range, a rotated site is static or dynamic, whatever lies between v0 and v1; others as ever.
 */
static void test_rotated_policies(void **state) {
    (void)state;
    struct rotation rotation;
    float *maxima = make_maxima(SITE_NONE);
    const struct config config = {.quantization = {.method = METHOD_FPTQ, .v0 = 15, .v1 = 150}};
    struct model rotated = model;
    rotated.rotation = &rotation;
    const struct fold_basis basis = {.model = &rotated, .config = &config, .maxima = maxima};
    struct fold_layer fold;
    assert_true(rotation_create(&compute, model.shape.hidden, 3, &rotation));
    assert_int_equal(fold_layer_decide(&basis, &fold, NULL), STATUS_OK);
    for (int site = 0; site < SITE_COUNT; site++)
        assert_int_equal(fold.sites[site].policy,
                         site == SITE_ATTENTION_INPUT || site == SITE_MLP_INPUT ? POLICY_DYNAMIC
                                                                                : POLICY_EQUALIZED);
    fold_layer_free(&fold);
    rotation_free(&rotation);
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_fold),         cmocka_unit_test(test_rotation),
        cmocka_unit_test(test_observed_rotation), cmocka_unit_test(test_rotated_policies),
        cmocka_unit_test(test_policies),          cmocka_unit_test(test_smoothquant)};
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    team_destroy(compute.team);
    model_close(&model);
    return failed;
}
