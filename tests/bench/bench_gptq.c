/* GPTQ's two parts: the Cholesky factor of a site, and the rounding of rows, in seconds and
 * Gflop/s. bench_gptq [PATH [THREADS [COLUMNS [ROWS]]]] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/gptq.h"
#include "kernels/gram.h"
#include "tests/bench/measure.h"
#include "tests/random.h"

struct bench {
    enum kernel_path path;
    const struct gptq_factor *factor;
    const struct quantize_format *format;
    const struct quantize_source *source;
    struct gptq_rows rows;
    int64_t row_count;
};

static void round_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct bench *bench = context;
    const int64_t columns = bench->factor->columns;
    const int64_t groups = quantize_group_count(bench->format, columns);
    void *scratch = aligned_alloc(64, gptq_scratch_bytes(columns));
    (void)thread;
    for (int64_t batch = begin; batch < end; batch++) {
        const int64_t row = batch * GPTQ_ROWS, left = bench->row_count - row;
        const struct gptq_rows *all = &bench->rows;
        const struct gptq_rows rows = {all->levels + row * columns,     all->scales + row * groups,
                                       all->zero_points + row * groups, all->squared_error + row,
                                       all->squared_weight + row,       all->objective + row};
        gptq_quantize_rows(bench->path, bench->factor, bench->format, bench->source, row,
                           row + (left < GPTQ_ROWS ? left : GPTQ_ROWS), &rows, scratch);
    }
    free(scratch);
}

/* A block of tokens: put in place, then added. */
static void measure_gram(const struct compute *compute, int64_t *sums, int64_t columns) {
    const size_t values = (size_t)(GRAM_BLOCK * columns);
    float *x = malloc(values * sizeof *x);
    void *block = aligned_alloc(64, (gram_block_bytes(MATMUL_BF16, columns) + 63) & ~(size_t)63);
    void *work = aligned_alloc(64, gram_work_bytes(compute, MATMUL_BF16));
    for (size_t i = 0; i < values; i++)
        x[i] = (float)(i % 13) - 6;
    double put = 1e9, added = 1e9;
    for (int repeat = 0; repeat < 5; repeat++) {
        const double start = measure_thread_seconds();
        gram_put(compute, block, MATMUL_BF16, x, 0, GRAM_BLOCK, columns);
        const double middle = measure_thread_seconds();
        gram_add(compute, sums, block, MATMUL_BF16, GRAM_BLOCK, columns, 20, work);
        const double end = measure_thread_seconds();
        put = middle - start < put ? middle - start : put;
        added = end - middle < added ? end - middle : added;
    }
    const double n = (double)columns;
    printf("%s, bf16, %lld columns, one thread: a block of %d tokens put in %.1f ms, added in %.1f "
           "ms (%.0f Gflop/s)\n",
           kernel_path_name(compute->path), (long long)columns, GRAM_BLOCK, 1e3 * put, 1e3 * added,
           n * n * GRAM_BLOCK / added * 1e-9);
    free(x);
    free(block);
    free(work);
}

int main(int argc, char **argv) {
    const enum kernel_path path = measure_path(argc, argv, "[PATH [THREADS [COLUMNS [ROWS]]]]");
    const int threads = (int)measure_number(argc, argv, 2, 1);
    const int64_t columns = measure_number(argc, argv, 3, 4096);
    const int64_t rows = measure_number(argc, argv, 4, 1024);
    struct random random = {1};
    const struct quantize_format format = {.group_size = 128, .scale_type = NUMBER_F16};
    const size_t values = (size_t)(rows * columns), groups = values / 32;
    int64_t *sums = malloc((size_t)gptq_packed_count(columns) * sizeof *sums);
    float *weights = malloc(values * sizeof *weights);
    void *memory = aligned_alloc(64, gptq_factor_bytes(columns));
    struct bench bench = {
        .path = path,
        .format = &format,
        .rows = {malloc(values), malloc(groups * 4), malloc(groups), malloc((size_t)rows * 8),
                 malloc((size_t)rows * 8), malloc((size_t)rows * 8)},
        .row_count = rows,
    };
    for (int64_t i = 0; i < columns; i++)
        for (int64_t j = i; j < columns; j++)
            sums[gptq_packed_at(columns, i, j)] =
                random_integer(&random, 0, 1 << 20) + (i == j ? columns << 20 : 0);
    for (size_t i = 0; i < values; i++)
        weights[i] = (float)random_uniform(&random) - 0.5f;
    const struct quantize_source source = {
        .data = weights, .type = NUMBER_F32, .columns = columns, .stride = columns};
    struct team *team = team_create(threads, matmul_scratch_bytes());
    const struct compute compute = {path, team};
    const struct gptq_hessian hessian = {sums, columns, NULL};
    struct gptq_factor factor;
    const double start = measure_seconds();
    if (!gptq_factor_create(&compute, &hessian, false, 0.01, memory, &factor))
        return 1;
    const double middle = measure_seconds();
    bench.factor = &factor;
    bench.source = &source;
    team_for(team, (rows + GPTQ_ROWS - 1) / GPTQ_ROWS, 1, round_rows, &bench);
    const double end = measure_seconds(), n = (double)columns;
    printf("%s, %d thread(s), %lld columns: factor %.2f s (%.1f Gflop/s, damping %g), "
           "%lld rows %.2f s (%.1f Gflop/s)\n",
           kernel_path_name(path), threads, (long long)columns, middle - start,
           n * n * n / 3 / (middle - start) * 1e-9, factor.damping, (long long)rows, end - middle,
           (double)rows * n * n / (end - middle) * 1e-9);
    if (threads == 1)
        measure_gram(&compute, sums, columns);
    return 0;
}
