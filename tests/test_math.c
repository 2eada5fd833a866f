#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/math_functions.h"
#include "tests/random.h"

enum { SAMPLES = 300000 };

/* Distance in units of the last place of the f32 nearest to `expected`; 0 counts as the smallest
 * normal number does. */
static double units_off(double expected, float found) {
    const double unit = ldexp(1.0, ilogb(fmax(fabs((double)(float)expected), 0x1p-126)) - 23);
    return fabs((double)found - expected) / unit;
}

static void exp_is_within_one_unit(void **state) {
    (void)state;
    struct random random = random_start();
    double worst = 0.0;
    for (int i = 0; i < SAMPLES; i++) {
        const float wide = (float)(-86.0 + 174.72 * random_uniform(&random));
        const float small =
            random_normal(&random) * ldexpf(1.0f, (int)random_integer(&random, -30, 2));
        worst = fmax(worst, units_off(exp((double)wide), math_exp(wide)));
        worst = fmax(worst, units_off(exp((double)small), math_exp(small)));
    }
    print_message("exp: %.3f units in the last place\n", worst);
    assert_true(worst <= 1.0);
}

static void exp_has_its_limits(void **state) {
    (void)state;
    assert_true(math_exp(0.0f) == 1.0f && math_exp(-0.0f) == 1.0f);
    assert_true(math_exp(-INFINITY) == 0.0f && math_exp(-86.5f) == 0.0f);
    assert_true(math_exp(-3.4e38f) == 0.0f && math_exp(-86.0f) > 0.0f);
    assert_true(math_exp(INFINITY) == INFINITY && math_exp(88.75f) == INFINITY);
    assert_true(math_exp(3.4e38f) == INFINITY && math_exp(88.72f) < INFINITY);
    assert_true(isnan(math_exp(NAN)) && isnan(math_exp(-NAN)));
}

static void logarithms_and_powers_are_near(void **state) {
    (void)state;
    struct random random = random_start();
    double worst = 0.0, worst_power = 0.0;
    for (int i = 0; i < SAMPLES; i++) {
        const double wide =
            ldexp(1.0 + random_uniform(&random), (int)random_integer(&random, -1000, 1000));
        const double near_one = 1.0 + (double)random_normal(&random) * 1e-3;
        const double exponent = 4.0 * random_uniform(&random) - 2.0;
        const double base =
            ldexp(1.0 + random_uniform(&random), (int)random_integer(&random, -30, 30));
        worst = fmax(worst, fabs(math_log(wide) / log(wide) - 1.0));
        worst = fmax(worst, fabs(math_log2(wide) / log2(wide) - 1.0));
        worst = fmax(worst, fabs(math_log(near_one) / log(near_one) - 1.0));
        worst_power = fmax(worst_power, fabs(math_pow(base, exponent) / pow(base, exponent) - 1.0));
    }
    print_message("log: %.1e, pow: %.1e\n", worst, worst_power);
    assert_true(worst <= 1e-13 && worst_power <= 1e-13);
    assert_true(math_log(1.0) == 0.0 && math_pow(7.5, 0.0) == 1.0);
    assert_true(math_log(0.0) == -(double)INFINITY && isnan(math_log(-1.0)));
    assert_true(isnan(math_log((double)NAN)) && math_log((double)INFINITY) == (double)INFINITY);
}

/* Up to 1e6, and at the f32 numbers next to multiples of pi/2, where the result is smallest. */
static void sine_and_cosine_are_within_one_unit(void **state) {
    (void)state;
    struct random random = random_start();
    double worst = 0.0;
    for (int i = 0; i < SAMPLES; i++) {
        const double scale = pow(10.0, 8.0 * random_uniform(&random) - 2.0);
        const float any = (float)((2.0 * random_uniform(&random) - 1.0) * scale);
        const double turns = (double)random_integer(&random, -636000, 636000);
        const float zero = (float)(turns * 1.5707963267948966);
        const float angles[] = {any, zero};
        for (int j = 0; j < 2; j++) {
            const double x = (double)angles[j];
            worst = fmax(worst, units_off(sin(x), (float)math_sin(x)));
            worst = fmax(worst, units_off(cos(x), (float)math_cos(x)));
        }
    }
    print_message("sin, cos: %.3f units in the last place\n", worst);
    assert_true(worst <= 1.0);
    assert_true(math_sin(0.0) == 0.0 && math_cos(0.0) == 1.0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exp_is_within_one_unit),
        cmocka_unit_test(exp_has_its_limits),
        cmocka_unit_test(logarithms_and_powers_are_near),
        cmocka_unit_test(sine_and_cosine_are_within_one_unit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
