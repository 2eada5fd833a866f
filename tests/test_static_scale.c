/* The static scale of least squared error against a brute-force search in double; the same bits on
 * every path and for any threads. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "kernels/static_scale.h"
#include "tests/random.h"

static double error_of(const float *x, int64_t count, double scale) {
    double sum = 0;
    for (int64_t i = 0; i < count; i++) {
        const double q = fmin(127, fmax(-127, rint((double)x[i] / scale)));
        sum += ((double)x[i] - scale * q) * ((double)x[i] - scale * q);
    }
    return sum;
}

/* Normal numbers, some of which are `tail` times as large. */
static float *make_sample(struct random *random, int64_t rows, int64_t columns, float tail,
                          float *maximum) {
    float *x = malloc((size_t)(rows * columns) * sizeof *x);
    *maximum = 0;
    for (int64_t i = 0; i < rows * columns; i++) {
        x[i] = random_normal(random);
        if (random_integer(random, 0, 300) == 0)
            x[i] *= tail;
        *maximum = fmaxf(*maximum, fabsf(x[i]));
    }
    return x;
}

static void test_least_squares(void **state) {
    struct random *random = *state;
    for (int trial = 0; trial < 12; trial++) {
        /* Many normal numbers and one at six deviations: clipping it pays. */
        const bool clips = trial == 0;
        const int64_t rows = clips ? 40 : random_integer(random, 1, 40),
                      columns = clips ? 300 : random_integer(random, 1, 300);
        const float tail = clips ? 1 : (float)pow(10, 3 * random_uniform(random));
        float maximum, found[PATH_COUNT];
        float *x = make_sample(random, rows, columns, tail, &maximum);
        if (clips)
            x[7] = maximum = 6;
        for (int path = 0; path < PATH_COUNT; path++) {
            if (!kernel_path_supported((enum kernel_path)path))
                continue;
            struct team *team = team_create(1 + path % 3, 64);
            const struct compute compute = {(enum kernel_path)path, team};
            found[path] = static_scale_least_squares(&compute, x, rows, columns, maximum);
            team_destroy(team);
            assert_true(found[path] == found[0]);
        }
        double least = INFINITY;
        for (int i = 0; i < STATIC_SCALE_STEPS; i++)
            least = fmin(least, error_of(x, rows * columns, maximum / 127 * pow(2, -i / 16.0)));
        const double error = error_of(x, rows * columns, found[0]);
        /* f32 sums, and activations at the edge between two integers. */
        assert_true(error <= least * (1 + 1e-4));
        assert_true(error <= error_of(x, rows * columns, maximum / 127.0) * (1 + 1e-4));
        assert_true(found[0] <= maximum / 127.0f);
        if (clips)
            assert_true(found[0] < maximum / 127.0f);
        free(x);
    }
}

int main(void) {
    struct random random = random_start();
    const struct CMUnitTest tests[] = {cmocka_unit_test_prestate(test_least_squares, &random)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
