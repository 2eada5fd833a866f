#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/number.h"
#include "tests/random.h"

enum { ALL = 65536 };

/* The value of a format's bits, by its definition. */
static double value_of(uint32_t bits, int mantissa_bits, int exponent_bits) {
    const int mantissa = (int)(bits & ((1u << mantissa_bits) - 1));
    const int exponent = (int)(bits >> mantissa_bits & ((1u << exponent_bits) - 1));
    const int bias = (1 << (exponent_bits - 1)) - 1;
    const double sign = bits >> (mantissa_bits + exponent_bits) ? -1.0 : 1.0;
    if (exponent == (1 << exponent_bits) - 1)
        return mantissa ? (double)NAN : sign * (double)INFINITY;
    return exponent == 0
               ? sign * ldexp(mantissa, 1 - bias - mantissa_bits)
               : sign * ldexp(mantissa + (1 << mantissa_bits), exponent - bias - mantissa_bits);
}

static void same(double expected, float found) {
    if (isnan(expected))
        assert_true(isnan(found));
    else
        assert_true(expected == (double)found && !signbit(expected) == !signbit(found));
}

static void every_number_is_widened_exactly(void **state) {
    (void)state;
    static uint16_t bits[ALL];
    static float f16[ALL], bf16[ALL];
    for (uint32_t i = 0; i < ALL; i++)
        bits[i] = (uint16_t)i;
    number_widen(f16, bits, NUMBER_F16, ALL);
    number_widen(bf16, bits, NUMBER_BF16, ALL);
    for (uint32_t i = 0; i < ALL; i++) {
        same(value_of(i, 10, 5), f16[i]);
        same(value_of(i, 7, 8), bf16[i]);
        same(f16[i], number_from_f16(bits[i]));
        same(bf16[i], number_from_bf16(bits[i]));
    }
}

/* Nearest, ties to even mantissa: found from the neighbours of the result. */
static void check_nearest(float source, uint16_t result, int mantissa_bits, int exponent_bits) {
    const double value = value_of(result, mantissa_bits, exponent_bits);
    const uint16_t infinity = (uint16_t)(((1u << exponent_bits) - 1) << mantissa_bits);
    const uint16_t magnitude = result & 0x7fff;
    if (isnan(source)) {
        assert_true(isnan(value));
        return;
    }
    assert_true(!signbit(value) == !signbit(source));
    /* As if the exponent had one more step above the largest number. */
    const double above_largest = ldexp(1.0, 1 << (exponent_bits - 1));
    const double near = magnitude == infinity ? above_largest : fabs(value);
    const double target = fmin(fabs((double)source), above_largest);
    const double distance = fabs(target - near);
    if (magnitude > 0) {
        const double below = fabs(value_of(magnitude - 1u, mantissa_bits, exponent_bits));
        assert_true(distance < fabs(target - below) ||
                    (distance == fabs(target - below) && magnitude % 2 == 0));
    }
    if (magnitude < infinity) {
        const double above = magnitude + 1 == infinity
                                 ? above_largest
                                 : value_of(magnitude + 1u, mantissa_bits, exponent_bits);
        assert_true(distance < fabs(target - above) ||
                    (distance == fabs(target - above) && magnitude % 2 == 0));
    }
}

static void numbers_are_rounded_half_to_even(void **state) {
    (void)state;
    struct random random = random_start();
    enum { COUNT = 100003 };
    static float source[COUNT];
    static uint16_t f16[COUNT], bf16[COUNT];
    for (int i = 0; i < COUNT; i++) {
        uint32_t bits = (uint32_t)random_bits(&random);
        if (i % 3 == 1)
            bits &= 0xffff8000u; /* ties of bf16 */
        if (i % 3 == 2)          /* ties of f16, within its range */
            bits = (bits & 0x80fff000u) | (uint32_t)random_integer(&random, 100, 144) << 23;
        memcpy(&source[i], &bits, sizeof bits);
    }
    number_narrow(f16, source, NUMBER_F16, COUNT);
    number_narrow(bf16, source, NUMBER_BF16, COUNT);
    for (int i = 0; i < COUNT; i++) {
        check_nearest(source[i], f16[i], 10, 5);
        check_nearest(source[i], bf16[i], 7, 8);
        assert_int_equal(f16[i], number_to_f16(source[i]));
        assert_int_equal(bf16[i], number_to_bf16(source[i]));
    }
}

static void f32_is_copied(void **state) {
    (void)state;
    const float source[3] = {1.5f, -0.0f, 3e38f};
    float there[3], back[3];
    number_widen(there, source, NUMBER_F32, 3);
    number_narrow(back, there, NUMBER_F32, 3);
    assert_memory_equal(source, back, sizeof source);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_number_is_widened_exactly),
        cmocka_unit_test(numbers_are_rounded_half_to_even),
        cmocka_unit_test(f32_is_copied),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
