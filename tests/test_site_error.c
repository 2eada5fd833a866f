/* policy = "error": the four errors of every site of a small random model against plain double
 * loops that quantize activations and weights by the formulas of their headers, in f32 where these
 * round, and sum in double (relative difference at most 1e-3); the same bits for any threads and on
 * every path; the rule of choice.
 *
 *   test_site_error MODEL_FOLDER */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/w4a8.h"
#include "pipeline/site_error.h"
#include "pipeline/stage.h"
#include "pipeline/weights.h"
#include "tests/random.h"

enum { TOKENS = 60, SAMPLES = 5, LENGTH = 24, LAYER = 1 };

static struct model model;
static struct config config = {
    .calibration = {.samples = SAMPLES, .sequence_length = LENGTH, .sample_tokens = TOKENS},
    .quantization = {.policy = POLICY_BY_ERROR, .group_size = 32, .scale_type = NUMBER_F16},
};
static struct site_sample sample;
static float *maxima; /* (model_layer_channels) */

/* Activations with a few large channels; rows of the sample are taken in uneven chunks. */
static void make_sample(struct random *random) {
    assert_int_equal(site_sample_create(&sample, &model, &config, 0, model.shape.layers, NULL),
                     STATUS_OK);
    assert_int_equal(sample.tokens, TOKENS);
    maxima = calloc((size_t)model_layer_channels(&model), sizeof *maxima);
    for (int site = 0; site < SITE_COUNT; site++) {
        const int64_t channels = model_site_channels(&model, (enum site)site);
        float *x = malloc((size_t)(LENGTH * channels) * sizeof *x);
        float *range = maxima + model_site_offset(&model, (enum site)site);
        for (int64_t window = 0; window < SAMPLES; window++) {
            for (int64_t i = 0; i < LENGTH * channels; i++) {
                x[i] = random_normal(random) * (i % channels % 17 ? 0.5f : 20.0f);
                range[i % channels] = fmaxf(range[i % channels], fabsf(x[i]));
            }
            for (int64_t at = 0, step; at < LENGTH; at += step) {
                step = random_integer(random, 1, 9);
                step = at + step > LENGTH ? LENGTH - at : step;
                site_sample_take(&sample, LAYER, (enum site)site, window, x + at * channels, at,
                                 step);
            }
        }
        free(x);
    }
}

/* ---- By the formulas ---- */

/* s (channels) of a site, 1 without equalization. */
static void make_scale(enum site site, bool equalized, float *s) {
    const struct model_shape *shape = &model.shape;
    const float *m = maxima + model_site_offset(&model, site);
    for (int64_t c = 0; c < model_site_channels(&model, site); c++) {
        double largest = (double)m[c];
        const int64_t d = shape->head_dim, share = shape->heads / shape->kv_heads;
        const int64_t first = c / d / share * share * d + c % d;
        for (int64_t i = 0; site == SITE_ATTENTION_OUTPUT && i < share; i++)
            largest = fmax(largest, (double)m[first + i * d]);
        s[c] = equalized ? (float)(largest / log2(2 + largest)) : 1;
    }
}

/* x' = Q(x / s) of all tokens. */
static void quantize_rows(enum site site, const float *x, const float *s, bool dynamic,
                          double *quantized) {
    const int64_t channels = model_site_channels(&model, site);
    const float *m = maxima + model_site_offset(&model, site);
    float fixed = 0;
    for (int64_t c = 0; c < channels; c++)
        fixed = fmaxf(fixed, m[c] / s[c]);
    for (int64_t t = 0; t < TOKENS; t++) {
        float largest = 0;
        for (int64_t c = 0; c < channels; c++)
            largest = fmaxf(largest, fabsf(x[t * channels + c] * (1 / s[c])));
        const float scale = (dynamic ? largest : fixed) / 127;
        for (int64_t c = 0; c < channels; c++) {
            const float q = rintf(x[t * channels + c] * (1 / s[c]) * (1 / scale));
            quantized[t * channels + c] = (double)scale * fmin(127, fmax(-127, (double)q));
        }
    }
}

/* One row of weights, multiplied by s and quantized in groups with zero points. */
static void quantize_weights(const float *w, const float *s, int64_t columns, double *quantized) {
    const int64_t size = config.quantization.group_size;
    for (int64_t begin = 0; begin < columns; begin += size) {
        const int64_t end = begin + size < columns ? begin + size : columns;
        float lo = 0, hi = 0;
        for (int64_t c = begin; c < end; c++) {
            lo = fminf(lo, w[c] * s[c]);
            hi = fmaxf(hi, w[c] * s[c]);
        }
        const float exact = (hi - lo) / 15.0f;
        float scale = number_from_f16(number_to_f16(exact));
        if (scale < exact)
            scale = number_from_f16((uint16_t)(number_to_f16(exact) + 1));
        const double zero = rint(-8.0 - (double)(lo / scale));
        for (int64_t c = begin; c < end; c++) {
            const double level = rint((double)(w[c] * s[c]) * (double)(1 / scale) + zero);
            quantized[c] = (fmin(7, fmax(-8, level)) - zero) * (double)scale;
        }
    }
}

/* Squares of the differences and of the exact outputs of one linear. */
static void add_linear(const struct linear_rule *rule, const float *x, const float *s,
                       const double *quantized, double sums[2], struct team *team) {
    struct matmul_weight weight;
    void *owned;
    assert_int_equal(weights_load(&model, team, LAYER, rule, PRECISION_F32, &weight, &owned, NULL),
                     STATUS_OK);
    const int64_t columns = weight.columns;
    float *w = malloc((size_t)columns * sizeof *w);
    double *wq = malloc((size_t)columns * sizeof *wq);
    for (int64_t row = 0; row < weight.rows; row++) {
        number_widen(
            w, (const char *)weight.data + (size_t)(row * weight.stride) * number_size(weight.type),
            weight.type, (size_t)columns);
        quantize_weights(w, s, columns, wq);
        for (int64_t t = 0; t < TOKENS; t++) {
            double y = 0, other = 0;
            for (int64_t c = 0; c < columns; c++) {
                y += (double)x[t * columns + c] * (double)w[c];
                other += quantized[t * columns + c] * wq[c];
            }
            sums[0] += (y - other) * (y - other);
            sums[1] += y * y;
        }
    }
    free(w);
    free(wq);
    free(owned);
}

static double expected_error(enum site site, enum input_policy treatment, struct team *team) {
    const size_t channels = (size_t)model_site_channels(&model, site);
    float *x = malloc(TOKENS * channels * sizeof *x);
    float *s = malloc(channels * sizeof *s);
    double *quantized = malloc(TOKENS * channels * sizeof *quantized);
    double sums[2] = {0};
    site_sample_rows(&sample, LAYER, site, NULL, x);
    make_scale(site, input_policy_equalizes(treatment), s);
    quantize_rows(site, x, s, !input_policy_is_static(treatment), quantized);
    for (int i = 0; i < model.architecture->linear_count; i++)
        if (model.architecture->linears[i].reads == site)
            add_linear(&model.architecture->linears[i], x, s, quantized, sums, team);
    free(x);
    free(s);
    free(quantized);
    return sums[0] / sums[1];
}

/* ---- The tests ---- */

static void measure(enum kernel_path path, int threads,
                    double errors[SITE_COUNT][TREATMENT_COUNT]) {
    const size_t scratch = w4a8_scratch_bytes(), other = stage_scratch_bytes(&model, 16, LENGTH);
    const struct compute compute = {path, team_create(threads, scratch > other ? scratch : other)};
    const struct fold_basis basis = {.model = &model,
                                     .config = &config,
                                     .maxima = maxima,
                                     .layer = LAYER,
                                     .compute = &compute,
                                     .sample = &sample};
    assert_int_equal(site_errors_measure(&basis, errors, NULL), STATUS_OK);
    team_destroy(compute.team);
}

static void test_errors(void **state) {
    make_sample(*state);
    double errors[SITE_COUNT][TREATMENT_COUNT], other[SITE_COUNT][TREATMENT_COUNT];
    measure(PATH_PORTABLE, 1, errors);
    for (int path = 0; path < PATH_COUNT; path++)
        if (kernel_path_supported((enum kernel_path)path)) {
            measure((enum kernel_path)path, 1 + path % 3, other);
            assert_memory_equal(errors, other, sizeof errors);
        }
    struct team *team = team_create(1, 64);
    for (int site = 0; site < SITE_COUNT; site++)
        for (int t = 0; t < TREATMENT_COUNT; t++) {
            const double expected = expected_error((enum site)site, (enum input_policy)t, team);
            print_message("%s %s: %.5f, expected %.5f\n", site_name((enum site)site),
                          input_policy_name((enum input_policy)t), errors[site][t], expected);
            assert_true(fabs(errors[site][t] - expected) <= 1e-3 * expected);
        }
    team_destroy(team);
    site_sample_free(&sample);
    free(maxima);
}

static void test_choice(void **state) {
    (void)state;
    static const double errors[TREATMENT_COUNT] = {0.02, 0.013, 0.0111, 0.01};
    assert_int_equal(site_errors_choose(errors, 0), POLICY_EQUALIZED_DYNAMIC);
    assert_int_equal(site_errors_choose(errors, 0.2f), POLICY_DYNAMIC);
    assert_int_equal(site_errors_choose(errors, 0.4f), POLICY_EQUALIZED);
    assert_int_equal(site_errors_choose(errors, 1), POLICY_STATIC);
    static const double zeros[TREATMENT_COUNT] = {0};
    assert_int_equal(site_errors_choose(zeros, 0), POLICY_STATIC);
}

int main(int count, char **arguments) {
    struct error error;
    if (count != 2 || model_open(arguments[1], &model, &error))
        return 1;
    struct random random = random_start();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_errors, &random),
        cmocka_unit_test(test_choice),
    };
    const int failed = cmocka_run_group_tests(tests, NULL, NULL);
    model_close(&model);
    return failed;
}
