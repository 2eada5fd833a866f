#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "kernels/path.h"

static void names_are_parsed_back(void **state) {
    (void)state;
    for (int i = 0; i < PATH_COUNT; i++) {
        enum kernel_path path = PATH_COUNT;
        assert_true(kernel_path_parse(kernel_path_name((enum kernel_path)i), &path));
        assert_int_equal(path, i);
    }
}

static void unknown_names_are_refused(void **state) {
    (void)state;
    const char *const unknown[] = {"", "AVX2", "avx", "avx512bf16", "portable "};
    for (size_t i = 0; i < sizeof unknown / sizeof *unknown; i++) {
        enum kernel_path path = PATH_AVX2;
        assert_false(kernel_path_parse(unknown[i], &path));
        assert_int_equal(path, PATH_AVX2);
    }
}

static void a_path_brings_all_that_are_worse(void **state) {
    (void)state;
    assert_true(kernel_path_supported(PATH_PORTABLE));
    for (int i = 1; i < PATH_COUNT; i++)
        if (kernel_path_supported((enum kernel_path)i))
            assert_true(kernel_path_supported((enum kernel_path)(i - 1)));
}

/* The compiler's own knowledge of the processor. */
static void support_is_what_the_processor_says(void **state) {
    (void)state;
    __builtin_cpu_init();
    assert_int_equal(kernel_path_supported(PATH_AVX2),
                     __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"));
    assert_int_equal(kernel_path_supported(PATH_AVX512), __builtin_cpu_supports("avx512bw") &&
                                                             __builtin_cpu_supports("avx512vl") &&
                                                             __builtin_cpu_supports("avx512dq"));
    assert_int_equal(kernel_path_supported(PATH_AVX512_BF16),
                     __builtin_cpu_supports("avx512bf16") && __builtin_cpu_supports("gfni") &&
                         __builtin_cpu_supports("avx512vnni"));
}

static void the_best_is_supported_and_fixed(void **state) {
    (void)state;
    const enum kernel_path best = kernel_path_best();
    assert_true(kernel_path_supported(best));
    assert_int_equal(best, kernel_path_best());
    if (kernel_path_supported(PATH_AMX))
        assert_int_equal(best, PATH_AMX);
    else if (kernel_path_supported(PATH_AVX512))
        assert_true(best >= PATH_AVX512);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_are_parsed_back),
        cmocka_unit_test(unknown_names_are_refused),
        cmocka_unit_test(a_path_brings_all_that_are_worse),
        cmocka_unit_test(support_is_what_the_processor_says),
        cmocka_unit_test(the_best_is_supported_and_fixed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
