#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/equalize.h"
#include "tests/random.h"

static void policies_follow_the_thresholds(void **state) {
    (void)state;
    assert_int_equal(equalize_choose_policy(0.0f, 15.0f, 150.0f), POLICY_STATIC);
    assert_int_equal(equalize_choose_policy(15.0f, 15.0f, 150.0f), POLICY_STATIC);
    assert_int_equal(equalize_choose_policy(15.000001f, 15.0f, 150.0f), POLICY_EQUALIZED);
    assert_int_equal(equalize_choose_policy(149.99998f, 15.0f, 150.0f), POLICY_EQUALIZED);
    assert_int_equal(equalize_choose_policy(150.0f, 15.0f, 150.0f), POLICY_DYNAMIC);
    assert_int_equal(equalize_choose_policy(1e9f, 15.0f, 150.0f), POLICY_DYNAMIC);
    assert_string_equal(input_policy_name(POLICY_STATIC), "static");
    assert_string_equal(input_policy_name(POLICY_EQUALIZED), "equalized");
    assert_string_equal(input_policy_name(POLICY_DYNAMIC), "dynamic");
    assert_string_equal(input_policy_name(POLICY_EQUALIZED_DYNAMIC), "equalized-dynamic");
    assert_string_equal(input_policy_name(POLICY_NONE), "none");
    static const bool one_scale[POLICY_COUNT] = {true, true, false, false, false};
    static const bool equalizes[POLICY_COUNT] = {false, true, false, true, false};
    for (int policy = 0; policy < POLICY_COUNT; policy++) {
        assert_int_equal(input_policy_is_static((enum input_policy)policy), one_scale[policy]);
        assert_int_equal(input_policy_equalizes((enum input_policy)policy), equalizes[policy]);
    }
}

enum { CHANNELS = 5000 };

/* The f32 nearest to the formula in double, or a neighbour of it; and the range is the largest
 * quotient. */
static void scales_are_the_formula(void **state) {
    (void)state;
    struct random random = random_start();
    float maxima[CHANNELS], scale[CHANNELS];
    for (int i = 0; i < CHANNELS; i++)
        maxima[i] = (float)exp(-14.0 + 24.0 * random_uniform(&random));
    maxima[0] = 0.0f;
    maxima[1] = 0.99e-5f;
    maxima[2] = 1e-5f;
    for (int kind = 0; kind < 2; kind++) {
        const float c = 0.1f + 3.0f * (float)random_uniform(&random);
        double range = 0.0;
        equalize_scale(scale, maxima, CHANNELS, (enum equalization)kind, c);
        for (int i = 0; i < CHANNELS; i++) {
            const double m = (double)maxima[i];
            const double divisor = kind == EQUALIZE_LOG2 ? log2(2.0 + m) : log1p((double)c * m);
            const double expected = maxima[i] < 1e-5f ? 1.0 : m / divisor;
            /* 1 + c m loses up to 2^-53 / (c m) in log1p's place */
            assert_true(fabs((double)scale[i] - expected) <= 0x1p-23 * expected);
            range = fmax(range, m / (double)scale[i]);
        }
        assert_true(scale[0] == 1.0f && scale[1] == 1.0f && scale[2] != 1.0f);
        assert_true(equalize_range(maxima, scale, CHANNELS) == (float)range);
    }
    float largest = 0.0f;
    for (int i = 0; i < CHANNELS; i++)
        largest = fmaxf(largest, maxima[i]);
    assert_true(equalize_range(maxima, NULL, CHANNELS) == largest);
}

static void smooth_scales_are_the_formula(void **state) {
    (void)state;
    struct random random = random_start();
    float maxima[CHANNELS], weights[CHANNELS], scale[CHANNELS];
    for (int i = 0; i < CHANNELS; i++) {
        maxima[i] = (float)exp(-14.0 + 24.0 * random_uniform(&random));
        weights[i] = (float)exp(-14.0 + 16.0 * random_uniform(&random));
    }
    maxima[0] = weights[1] = 0.0f;
    maxima[2] = weights[2] = 1e-5f;
    weights[3] = INFINITY;
    for (int kind = 0; kind < 4; kind++) {
        const float alpha = kind == 0   ? 0.5f
                            : kind == 1 ? 0.0f
                            : kind == 2 ? 1.0f
                                        : (float)random_uniform(&random);
        equalize_smooth_scale(scale, maxima, weights, CHANNELS, alpha);
        for (int i = 0; i < CHANNELS; i++) {
            const bool dead = maxima[i] < 1e-5f || weights[i] < 1e-5f || isinf(weights[i]);
            const double expected = dead ? 1.0
                                         : pow((double)maxima[i], (double)alpha) /
                                               pow((double)weights[i], 1.0 - (double)alpha);
            assert_true(fabs((double)scale[i] - expected) <= 0x1p-23 * expected);
        }
        assert_true(scale[0] == 1.0f && scale[1] == 1.0f && scale[3] == 1.0f);
    }
}

/* The channel's maximum lands on log2(2 + m): the point of equalization. */
static void equalized_maxima_are_logarithms(void **state) {
    (void)state;
    const float maxima[] = {2.0f, 6.0f, 30.0f, 1022.0f};
    const float logarithms[] = {2.0f, 3.0f, 5.0f, 10.0f};
    float scale[4];
    equalize_scale(scale, maxima, 4, EQUALIZE_LOG2, 0.0f);
    for (int i = 0; i < 4; i++)
        assert_true(scale[i] == maxima[i] / logarithms[i]);
    assert_true(equalize_range(maxima, scale, 4) == 10.0f);
}

static void heads_of_a_group_share_maxima(void **state) {
    (void)state;
    struct random random = random_start();
    const int kv_heads = 3, group = 4, head_dim = 5, heads = kv_heads * group;
    float maxima[3 * 4 * 5], shared[3 * 4 * 5];
    for (int i = 0; i < heads * head_dim; i++)
        maxima[i] = fabsf(random_normal(&random));
    equalize_share_maxima(shared, maxima, heads, kv_heads, head_dim);
    for (int i = 0; i < heads * head_dim; i++) {
        float expected = 0.0f;
        for (int head = 0; head < heads; head++)
            if (head / group == i / head_dim / group)
                expected = fmaxf(expected, maxima[head * head_dim + i % head_dim]);
        assert_true(shared[i] == expected);
    }
    equalize_share_maxima(maxima, maxima, heads, kv_heads, head_dim);
    assert_memory_equal(maxima, shared, sizeof maxima);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(policies_follow_the_thresholds),
        cmocka_unit_test(scales_are_the_formula),
        cmocka_unit_test(smooth_scales_are_the_formula),
        cmocka_unit_test(equalized_maxima_are_logarithms),
        cmocka_unit_test(heads_of_a_group_share_maxima),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
