/* The Cholesky factor against its definition; GPTQ against its authors' algorithm (the factor of
 * the inverse, all columns updated) in plain loops of doubles; the same bits on every path. */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kernels/gptq.h"
#include "tests/random.h"

enum { MAX_ROWS = 130, MAX_THREADS = 3 };

struct trial {
    int64_t rows, columns;
    struct quantize_format format;
    bool act_order;
    double damping;
    int64_t *sums;
    float *weights, *column_multiplier, *row_multiplier, *shrink, *folded;
};

struct result {
    int8_t *levels, *zero_points;
    float *scales;
    double *errors, *squares, *objective, damping;
};

static void *filled(size_t bytes) {
    void *memory = malloc(bytes);
    assert_non_null(memory);
    return memset(memory, 0x55, bytes);
}

static int64_t groups_of(const struct trial *trial) {
    return quantize_group_count(&trial->format, trial->columns);
}

static int64_t group_size_of(const struct trial *trial) {
    return trial->format.group_size ? trial->format.group_size : trial->columns;
}

/* Tokens with few directions of great variance and noise; a dead column now and then. */
static void make_hessian(struct trial *trial, struct random *random) {
    const int64_t n = trial->columns, tokens = random_integer(random, n / 2 + 1, 2 * n);
    enum { DIRECTIONS = 5 };
    float *basis = filled((size_t)(DIRECTIONS * n) * sizeof(float));
    double *sums = calloc((size_t)(n * n), sizeof(double));
    double *x = filled((size_t)n * sizeof(double));
    bool *dead = filled((size_t)n * sizeof(bool));
    for (int64_t i = 0; i < DIRECTIONS * n; i++)
        basis[i] = random_normal(random);
    for (int64_t i = 0; i < n; i++)
        dead[i] = random_integer(random, 0, 60) == 0;
    for (int64_t t = 0; t < tokens; t++) {
        for (int64_t i = 0; i < n; i++)
            x[i] = (double)random_normal(random) * (i % 7 == 3 ? 6 : 0.5);
        for (int d = 0; d < DIRECTIONS; d++) {
            const double along = (double)random_normal(random);
            for (int64_t i = 0; i < n; i++)
                x[i] += along * (double)basis[d * n + i];
        }
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = i; j < n; j++)
                sums[i * n + j] += dead[i] || dead[j] ? 0 : x[i] * x[j];
    }
    trial->sums = filled((size_t)gptq_packed_count(n) * sizeof(int64_t));
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            trial->sums[gptq_packed_at(n, i, j)] = (int64_t)llrint(sums[i * n + j] * 0x1p20);
    free(basis);
    free(sums);
    free(x);
    free(dead);
}

static struct trial make_trial(struct random *random, int64_t rows, int64_t columns,
                               struct quantize_format format, bool act_order, bool multipliers) {
    struct trial trial = {.rows = rows,
                          .columns = columns,
                          .format = format,
                          .act_order = act_order,
                          .damping = 0.01};
    make_hessian(&trial, random);
    trial.weights = filled((size_t)(rows * columns) * sizeof(float));
    trial.folded = filled((size_t)(rows * columns) * sizeof(float));
    if (multipliers) {
        trial.column_multiplier = filled((size_t)columns * sizeof(float));
        trial.row_multiplier = filled((size_t)rows * sizeof(float));
        for (int64_t i = 0; i < columns; i++)
            trial.column_multiplier[i] = 0.2f + 2 * (float)random_uniform(random);
        for (int64_t i = 0; i < rows; i++)
            trial.row_multiplier[i] = 0.2f + 2 * (float)random_uniform(random);
        trial.shrink = filled((size_t)(rows * groups_of(&trial)) * sizeof(float));
        for (int64_t i = 0; i < rows * groups_of(&trial); i++)
            trial.shrink[i] = 0.7f + 0.3f * (float)random_uniform(random);
    }
    for (int64_t i = 0; i < rows * columns; i++) {
        trial.weights[i] = 0.02f * random_normal(random);
        trial.folded[i] = trial.weights[i];
        if (multipliers) {
            trial.folded[i] *= trial.row_multiplier[i / columns];
            trial.folded[i] *= trial.column_multiplier[i % columns];
        }
    }
    return trial;
}

static void free_trial(struct trial *trial) {
    free(trial->sums);
    free(trial->weights);
    free(trial->folded);
    free(trial->column_multiplier);
    free(trial->row_multiplier);
    free(trial->shrink);
}

static struct result new_result(const struct trial *trial) {
    const size_t rows = (size_t)trial->rows, groups = rows * (size_t)groups_of(trial);
    return (struct result){
        .levels = filled(rows * (size_t)trial->columns),
        .zero_points = filled(groups),
        .scales = filled(groups * sizeof(float)),
        .errors = filled(rows * sizeof(double)),
        .squares = filled(rows * sizeof(double)),
        .objective = filled(rows * sizeof(double)),
    };
}

static void free_result(struct result *result) {
    free(result->levels);
    free(result->zero_points);
    free(result->scales);
    free(result->errors);
    free(result->squares);
    free(result->objective);
}

/* The column multiplier of the weights is the scale of the input. */
static struct result run_trial(const struct trial *trial, enum kernel_path path, int threads,
                               int64_t batch) {
    struct result result = new_result(trial);
    struct team *team = team_create(threads, 64);
    const struct compute compute = {path, team};
    const struct gptq_hessian hessian = {trial->sums, trial->columns, trial->column_multiplier};
    void *memory = aligned_alloc(64, gptq_factor_bytes(trial->columns));
    void *scratch = aligned_alloc(64, gptq_scratch_bytes(trial->columns));
    struct gptq_factor factor;
    assert_true(
        gptq_factor_create(&compute, &hessian, trial->act_order, trial->damping, memory, &factor));
    result.damping = factor.damping;
    const struct quantize_source source = {.data = trial->weights,
                                           .type = NUMBER_F32,
                                           .columns = trial->columns,
                                           .stride = trial->columns,
                                           .column_multiplier = trial->column_multiplier,
                                           .row_multiplier = trial->row_multiplier,
                                           .shrink = trial->shrink};
    const int64_t groups = groups_of(trial);
    for (int64_t row = 0; row < trial->rows; row += batch) {
        const struct gptq_rows rows = {
            .levels = result.levels + row * trial->columns,
            .scales = result.scales + row * groups,
            .zero_points = trial->format.symmetric ? NULL : result.zero_points + row * groups,
            .squared_error = result.errors + row,
            .squared_weight = result.squares + row,
            .objective = result.objective + row,
        };
        const int64_t end = row + batch < trial->rows ? row + batch : trial->rows;
        assert_int_equal(
            gptq_quantize_rows(path, &factor, &trial->format, &source, row, end, &rows, scratch),
            -1);
    }
    free(memory);
    free(scratch);
    team_destroy(team);
    return result;
}

/* ---- The reference ---- */

static float grid_scale(const struct quantize_format *format, float range) {
    float scale = range / (format->symmetric ? format->range == QUANTIZE_AMAX_7 ? 7.0f : 7.5f : 15);
    if (range == 0)
        return 1;
    if (format->scale_type == NUMBER_F16) {
        const uint16_t bits = number_to_f16(scale);
        scale = number_from_f16((uint16_t)(bits + (number_from_f16(bits) < scale)));
    }
    return scale;
}

static void make_grid(const struct trial *trial, const double *weights, int64_t row, int64_t group,
                      float *scale, int *zero_point) {
    const int64_t begin = group * group_size_of(trial);
    const int64_t rest = trial->columns - begin;
    const int64_t end = begin + (rest < group_size_of(trial) ? rest : group_size_of(trial));
    float low = 0, high = 0;
    for (int64_t i = begin; i < end; i++) {
        const float weight = (float)weights[i];
        low = weight < low ? weight : low;
        high = weight > high ? weight : high;
    }
    const bool symmetric = trial->format.symmetric;
    if (trial->shrink) {
        low *= trial->shrink[row * groups_of(trial) + group];
        high *= trial->shrink[row * groups_of(trial) + group];
    }
    *scale = grid_scale(&trial->format, symmetric ? fmaxf(-low, high) : high - low);
    *zero_point = symmetric || high == low ? 0 : (int)rintf(-8 - low / *scale);
}

/* a (n, n): in place the lower Cholesky factor, upper part untouched. */
static void plain_cholesky(double *a, int64_t n) {
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = j; i < n; i++) {
            double sum = a[i * n + j];
            for (int64_t k = 0; k < j; k++)
                sum -= a[i * n + k] * a[j * n + k];
            assert_true(i != j || sum > 0);
            a[i * n + j] = i == j ? sqrt(sum) : sum / a[j * n + j];
        }
}

/* The inverse of a positive matrix, by Gauss and Jordan. */
static void invert(double *a, int64_t n) {
    for (int64_t p = 0; p < n; p++) {
        const double pivot = 1 / a[p * n + p];
        for (int64_t j = 0; j < n; j++)
            a[p * n + j] = j == p ? pivot : a[p * n + j] * pivot;
        for (int64_t i = 0; i < n; i++) {
            const double factor = a[i * n + p];
            if (i == p)
                continue;
            for (int64_t j = 0; j < n; j++)
                a[i * n + j] = j == p ? -factor * pivot : a[i * n + j] - factor * a[p * n + j];
        }
    }
}

static double scale_at(const struct trial *trial, int64_t column) {
    return trial->column_multiplier ? (double)trial->column_multiplier[column] : 1;
}

/* H (n, n), damped; returns in `dead` which columns are. */
static void plain_hessian(const struct trial *trial, double *h, bool *dead) {
    const int64_t n = trial->columns;
    double trace = 0;
    int64_t live = 0;
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = i; j < n; j++)
            h[i * n + j] = h[j * n + i] = (double)trial->sums[gptq_packed_at(n, i, j)] /
                                          (scale_at(trial, i) * scale_at(trial, j));
    for (int64_t i = 0; i < n; i++) {
        dead[i] = h[i * n + i] == 0;
        trace += h[i * n + i];
        live += !dead[i];
    }
    for (int64_t i = 0; i < n; i++)
        h[i * n + i] = dead[i] ? 1 : h[i * n + i] + trial->damping * trace / (double)live;
}

/* column_of: the order of rounding, greatest H_jj first or as they are. */
static void plain_order(const struct trial *trial, const double *h, const bool *dead,
                        int64_t *column_of) {
    const int64_t n = trial->columns;
    for (int64_t i = 0; i < n; i++)
        column_of[i] = i;
    for (int64_t i = 1; trial->act_order && i < n; i++)
        for (int64_t j = i; j > 0; j--) {
            const int64_t a = column_of[j - 1], b = column_of[j];
            const double before = dead[a] ? 0 : h[a * n + a], after = dead[b] ? 0 : h[b * n + b];
            if (before >= after)
                break;
            column_of[j - 1] = b;
            column_of[j] = a;
        }
}

/* Levels, scales, zero points of one row by GPTQ as published; upper (n, n): of the inverse. */
static void plain_row(const struct trial *trial, const double *upper, const int64_t *column_of,
                      const bool *dead, int64_t row, struct result *result) {
    const int64_t n = trial->columns, size = group_size_of(trial), groups = groups_of(trial);
    const bool moving = !trial->act_order && (size == 32 || size == 64 || size == 128);
    double *w = filled((size_t)n * sizeof(double)), *original = filled((size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++)
        original[i] = dead[i] ? 0 : (double)trial->folded[row * n + i];
    for (int64_t i = 0; i < n; i++)
        w[i] = original[column_of[i]];
    for (int64_t i = 0; i < n; i++) {
        const int64_t column = column_of[i], group = column / size;
        float scale;
        int zero_point;
        make_grid(trial, original, row, group, &scale, &zero_point);
        if (moving && i % size == 0)
            make_grid(trial, w, row, group, &result->scales[row * groups + group], &zero_point);
        else if (!moving)
            result->scales[row * groups + group] = scale;
        if (!moving || i % size == 0)
            result->zero_points[row * groups + group] = (int8_t)zero_point;
        scale = result->scales[row * groups + group];
        zero_point = result->zero_points[row * groups + group];
        double level = rint(w[i] / (double)scale + zero_point);
        level = level < -8 ? -8 : level > 7 ? 7 : level;
        result->levels[row * n + column] = (int8_t)level;
        const double error = (w[i] - (level - zero_point) * (double)scale) / upper[i * n + i];
        for (int64_t j = i + 1; j < n; j++)
            w[j] -= error * upper[i * n + j];
    }
    free(w);
    free(original);
}

static struct result reference(const struct trial *trial, const double *h, const bool *dead) {
    const int64_t n = trial->columns;
    struct result result = new_result(trial);
    int64_t *column_of = filled((size_t)n * sizeof(int64_t));
    double *ordered = filled((size_t)(n * n) * sizeof(double));
    double *upper = filled((size_t)(n * n) * sizeof(double));
    plain_order(trial, h, dead, column_of);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            ordered[i * n + j] = h[column_of[i] * n + column_of[j]];
    invert(ordered, n);
    plain_cholesky(ordered, n);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            upper[i * n + j] = ordered[j * n + i];
    for (int64_t row = 0; row < trial->rows; row++)
        plain_row(trial, upper, column_of, dead, row, &result);
    free(column_of);
    free(ordered);
    free(upper);
    return result;
}

/* (w - wq) H (w - wq)^T of a row. */
static double plain_objective(const struct trial *trial, const double *h, const bool *dead,
                              const struct result *result, int64_t row) {
    const int64_t n = trial->columns, groups = groups_of(trial);
    double sum = 0, *error = filled((size_t)n * sizeof(double));
    for (int64_t i = 0; i < n; i++) {
        const int64_t at = row * groups + i / group_size_of(trial);
        const int zero_point = trial->format.symmetric ? 0 : result->zero_points[at];
        const double weight = dead[i] ? 0 : (double)trial->folded[row * n + i];
        error[i] = weight - (result->levels[row * n + i] - zero_point) * (double)result->scales[at];
    }
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < n; j++)
            sum += error[i] * h[i * n + j] * error[j];
    free(error);
    return sum;
}

static struct result nearest(const struct trial *trial) {
    struct result result = new_result(trial);
    const size_t count = (size_t)(trial->rows * trial->columns);
    uint8_t *packed = filled((count + 1) / 2);
    void *scratch = aligned_alloc(64, (quantize_scratch_bytes(trial->columns) + 63) & ~(size_t)63);
    const struct quantize_source source = {.data = trial->folded,
                                           .type = NUMBER_F32,
                                           .columns = trial->columns,
                                           .stride = trial->columns,
                                           .shrink = trial->shrink};
    assert_int_equal(quantize_rows_int4(PATH_PORTABLE, &trial->format, &source, 0, trial->rows,
                                        packed, result.scales,
                                        trial->format.symmetric ? NULL : result.zero_points, NULL,
                                        NULL, scratch),
                     -1);
    quantize_unpack_nibbles(result.levels, packed, (int64_t)count);
    free(packed);
    free(scratch);
    return result;
}

/* Integers: the same for 99.9%, the others off by one. */
static void compare_levels(const struct trial *trial, const struct result *got,
                           const struct result *expected, int64_t *differ) {
    const int64_t count = trial->rows * trial->columns;
    *differ = 0;
    for (int64_t i = 0; i < count; i++) {
        const int distance = abs(got->levels[i] - expected->levels[i]);
        assert_true(distance <= 1);
        *differ += distance;
    }
    assert_true(*differ * 1000 <= count);
    for (int64_t i = 0; i < trial->rows * groups_of(trial); i++) {
        assert_true(fabsf(got->scales[i] - expected->scales[i]) <= 2e-3f * expected->scales[i]);
        if (!trial->format.symmetric)
            assert_true(abs(got->zero_points[i] - expected->zero_points[i]) <= 1);
    }
}

static void check_trial(struct trial *trial) {
    const int64_t n = trial->columns;
    double *h = filled((size_t)(n * n) * sizeof(double));
    bool *dead = filled((size_t)n * sizeof(bool));
    plain_hessian(trial, h, dead);
    struct result got = run_trial(trial, kernel_path_best(), 2, 50);
    struct result expected = reference(trial, h, dead), rounded = nearest(trial);
    int64_t differ;
    compare_levels(trial, &got, &expected, &differ);
    double objective = 0, nearest_objective = 0;
    for (int64_t row = 0; row < trial->rows; row++) {
        const double of_row = plain_objective(trial, h, dead, &got, row);
        assert_true(fabs(of_row - got.objective[row]) <= 1e-6 * of_row);
        objective += of_row;
        nearest_objective += plain_objective(trial, h, dead, &rounded, row);
    }
    /* Of a few weights, nearest may happen to be better. */
    assert_true(objective <= nearest_objective || trial->rows * n < 2000);
    print_message("%3d x %3d, groups of %3d%s%s: %d differ, objective %.3f of nearest's\n",
                  (int)trial->rows, (int)n, (int)trial->format.group_size,
                  trial->format.symmetric ? ", symmetric" : "", trial->act_order ? ", ordered" : "",
                  (int)differ, objective / nearest_objective);
    free_result(&got);
    free_result(&expected);
    free_result(&rounded);
    free(h);
    free(dead);
}

static void integers_are_those_of_the_published_algorithm(void **state) {
    (void)state;
    struct random random = random_start();
    static const int64_t sizes[] = {0, 32, 64, 128, 40, 256};
    for (int i = 0; i < 24; i++) {
        const struct quantize_format format = {
            .group_size = sizes[i % 6],
            .symmetric = i % 4 == 1,
            .range = i % 8 == 1 ? QUANTIZE_AMAX_7 : QUANTIZE_AMAX_7_5,
            .scale_type = i % 5 ? NUMBER_F16 : NUMBER_F32,
        };
        struct trial trial =
            make_trial(&random, random_integer(&random, 1, 60),
                       random_integer(&random, i < 4 ? 1 : 100, 330), format, i % 3 == 2, i % 2);
        check_trial(&trial);
        free_trial(&trial);
    }
}

static bool same_result(const struct trial *trial, const struct result *a, const struct result *b) {
    const size_t rows = (size_t)trial->rows, groups = rows * (size_t)groups_of(trial);
    return memcmp(a->levels, b->levels, rows * (size_t)trial->columns) == 0 &&
           memcmp(a->scales, b->scales, groups * sizeof(float)) == 0 &&
           memcmp(a->zero_points, b->zero_points, groups) == 0 &&
           memcmp(a->errors, b->errors, rows * sizeof(double)) == 0 &&
           memcmp(a->squares, b->squares, rows * sizeof(double)) == 0 &&
           memcmp(a->objective, b->objective, rows * sizeof(double)) == 0;
}

static void bits_are_the_same_on_every_path(void **state) {
    (void)state;
    struct random random = random_start();
    for (int i = 0; i < 4; i++) {
        const struct quantize_format format = {.group_size = i % 2 ? 64 : 0,
                                               .scale_type = NUMBER_F16};
        struct trial trial = make_trial(&random, random_integer(&random, 90, MAX_ROWS),
                                        random_integer(&random, 200, 400), format, i == 3, i == 2);
        struct result first = run_trial(&trial, PATH_PORTABLE, 1, GPTQ_ROWS);
        for (int path = 0; path < PATH_COUNT; path++)
            for (int threads = 1; threads <= MAX_THREADS; threads += 2) {
                if (!kernel_path_supported((enum kernel_path)path))
                    continue;
                struct result other = run_trial(&trial, (enum kernel_path)path, threads,
                                                random_integer(&random, 1, GPTQ_ROWS));
                assert_true(same_result(&trial, &first, &other));
                free_result(&other);
            }
        free_result(&first);
        free_trial(&trial);
    }
}

static void factor_times_its_transpose_is_the_matrix(void **state) {
    (void)state;
    struct random random = random_start();
    const struct quantize_format format = {.group_size = 0};
    struct trial trial = make_trial(&random, 1, 300, format, false, false);
    const int64_t n = trial.columns;
    double *h = filled((size_t)(n * n) * sizeof(double));
    bool *dead = filled((size_t)n * sizeof(bool));
    plain_hessian(&trial, h, dead);
    struct team *team = team_create(2, 64);
    const struct compute compute = {kernel_path_best(), team};
    const struct gptq_hessian hessian = {trial.sums, n, NULL};
    void *memory = aligned_alloc(64, gptq_factor_bytes(n));
    struct gptq_factor factor;
    assert_true(gptq_factor_create(&compute, &hessian, false, 0.01, memory, &factor));
    for (int64_t i = 0; i < factor.padded; i++)
        for (int64_t j = 0; j <= i; j++) {
            double sum = 0;
            for (int64_t k = 0; k <= j; k++)
                sum +=
                    cholesky_tile(factor.tiles, i / CHOLESKY_TILE,
                                  k / CHOLESKY_TILE)[i % CHOLESKY_TILE * CHOLESKY_STRIDE +
                                                     k % CHOLESKY_TILE] *
                    cholesky_tile(
                        factor.tiles, j / CHOLESKY_TILE,
                        k / CHOLESKY_TILE)[j % CHOLESKY_TILE * CHOLESKY_STRIDE + k % CHOLESKY_TILE];
            const int32_t a = factor.order[i], b = factor.order[j];
            const double expected = a < 0 || b < 0 ? i == j : h[a * n + b];
            const double size = a < 0 || b < 0 ? 1 : sqrt(h[a * n + a] * h[b * n + b]);
            assert_true(fabs(sum - expected) <= 1e-12 * size);
        }
    team_destroy(team);
    free(memory);
    free(h);
    free(dead);
    free_trial(&trial);
}

/* Columns that are all alike make a matrix of rank 1; an empty one has no scale to speak of. */
static void damping_is_raised_until_the_matrix_is_positive(void **state) {
    (void)state;
    enum { COLUMNS = 40 };
    int64_t sums[COLUMNS * (COLUMNS + 1) / 2];
    struct team *team = team_create(1, 64);
    const struct compute compute = {kernel_path_best(), team};
    const struct gptq_hessian hessian = {sums, COLUMNS, NULL};
    void *memory = aligned_alloc(64, gptq_factor_bytes(COLUMNS));
    struct gptq_factor factor;
    for (int64_t i = 0; i < gptq_packed_count(COLUMNS); i++)
        sums[i] = 1 << 20;
    assert_true(gptq_factor_create(&compute, &hessian, false, 0.01, memory, &factor));
    assert_true(factor.damping == 0.01);
    assert_true(gptq_factor_create(&compute, &hessian, false, 0, memory, &factor));
    assert_true(factor.damping == 1e-5);
    sums[gptq_packed_at(COLUMNS, 0, 1)] = 3 << 19; /* no sum of squares at all */
    assert_true(gptq_factor_create(&compute, &hessian, false, 0.01, memory, &factor));
    assert_true(factor.damping == 1);
    memset(sums, 0, sizeof sums);
    assert_true(gptq_factor_create(&compute, &hessian, true, 0.01, memory, &factor));
    assert_int_equal(factor.dead, COLUMNS);
    team_destroy(team);
    free(memory);
}

static void weights_that_are_not_finite_are_named(void **state) {
    (void)state;
    struct random random = random_start();
    const struct quantize_format format = {.group_size = 32, .scale_type = NUMBER_F16};
    struct trial trial = make_trial(&random, 10, 100, format, false, false);
    struct team *team = team_create(1, 64);
    const struct compute compute = {kernel_path_best(), team};
    const struct gptq_hessian hessian = {trial.sums, trial.columns, NULL};
    void *memory = aligned_alloc(64, gptq_factor_bytes(trial.columns));
    void *scratch = aligned_alloc(64, gptq_scratch_bytes(trial.columns));
    struct gptq_factor factor;
    struct result result = new_result(&trial);
    const struct gptq_rows rows = {result.levels, result.scales,  result.zero_points,
                                   result.errors, result.squares, result.objective};
    const struct quantize_source source = {
        .data = trial.weights, .type = NUMBER_F32, .columns = 100, .stride = 100};
    assert_true(gptq_factor_create(&compute, &hessian, false, 0.01, memory, &factor));
    trial.weights[7 * 100 + random_integer(&random, 0, 99)] = NAN;
    assert_int_equal(
        gptq_quantize_rows(compute.path, &factor, &format, &source, 2, 10, &rows, scratch), 7);
    free_result(&result);
    team_destroy(team);
    free(memory);
    free(scratch);
    free_trial(&trial);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(factor_times_its_transpose_is_the_matrix),
        cmocka_unit_test(integers_are_those_of_the_published_algorithm),
        cmocka_unit_test(bits_are_the_same_on_every_path),
        cmocka_unit_test(damping_is_raised_until_the_matrix_is_positive),
        cmocka_unit_test(weights_that_are_not_finite_are_named),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
