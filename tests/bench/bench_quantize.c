/* Int4 weights: bytes of weights read a second on one core, beside the speed at which the core
 * reads memory, measured in turn with it. Weights and nibbles lie beyond the last-level cache.
 * bench_quantize [PATH] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "tests/bench/measure.h"

enum { COLUMNS = 4096, ROWS = 16384, BLOCK = 256, REPEATS = 7 };
static const size_t bytes = (size_t)ROWS * COLUMNS * 4;

struct bench {
    enum kernel_path path;
    void *data; /* (ROWS, COLUMNS) f32, or (2 ROWS, COLUMNS) in 16 bits */
    float multiplier[COLUMNS];
    uint8_t *packed;
    float scales[BLOCK * COLUMNS / 32];
    int8_t zero_points[BLOCK * COLUMNS / 32];
    double errors[BLOCK], squares[BLOCK];
    void *scratch;
};

static double read_rate(const struct bench *bench) {
    const uint64_t *data = bench->data;
    const double start = measure_thread_seconds();
    uint64_t sums[8] = {0};
    for (size_t i = 0; i < bytes / 8; i += 8)
        for (int lane = 0; lane < 8; lane++)
            sums[lane] |= data[i + (size_t)lane];
    volatile uint64_t used = 0;
    for (int lane = 0; lane < 8; lane++)
        used |= sums[lane];
    (void)used;
    return (double)bytes / (measure_thread_seconds() - start);
}

static double quantize_rate(struct bench *bench, const struct quantize_format *format,
                            const struct quantize_source *source) {
    const int64_t rows = (int64_t)(bytes / number_size(source->type)) / COLUMNS;
    const double start = measure_thread_seconds();
    for (int64_t row = 0; row < rows; row += BLOCK)
        quantize_rows_int4(bench->path, format, source, row, row + BLOCK,
                           bench->packed + row * COLUMNS / 2, bench->scales,
                           format->symmetric ? NULL : bench->zero_points, bench->errors,
                           bench->squares, bench->scratch);
    return (double)bytes / (measure_thread_seconds() - start);
}

static void print_rates(struct bench *bench, enum number_type type, int64_t group, bool symmetric,
                        bool folded) {
    const struct quantize_format format = {
        .group_size = group, .symmetric = symmetric, .scale_type = NUMBER_F16, .bits = 4};
    const struct quantize_source source = {.data = bench->data,
                                           .type = type,
                                           .columns = COLUMNS,
                                           .stride = COLUMNS,
                                           .column_multiplier = folded ? bench->multiplier : NULL};
    static const char *const types[] = {"f32", "f16", "bf16"};
    double read = 0, best = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double read_now = read_rate(bench);
        const double now = quantize_rate(bench, &format, &source);
        read = read_now > read ? read_now : read;
        best = now > best ? now : best;
    }
    printf("%-4s  %5d  %-11s  %-6s  %11.1f  %9.1f  %5.2f\n", types[type], (int)group,
           symmetric ? "symmetric" : "zero points", folded ? "yes" : "no", read / 1e9, best / 1e9,
           best / read);
    fflush(stdout);
}

/* [PATH] */
int main(int argc, char **argv) {
    static struct bench bench;
    bench.path = measure_path(argc, argv, "[PATH]");
    uint16_t *data = malloc(bytes);
    bench.data = data;
    bench.packed = aligned_alloc(64, bytes / 4);
    bench.scratch = aligned_alloc(64, quantize_scratch_bytes(COLUMNS));
    if (!bench.data || !bench.packed || !bench.scratch)
        return 1;
    for (size_t i = 0; i < bytes / 2; i++) /* bf16 of magnitude 2^-6 .. 2^-3, both signs */
        data[i] = (uint16_t)(0x3c80 + (i * 2654435761u >> 16) % 0x180 + (i % 2 << 15));
    memset(bench.packed, 0, bytes / 4);
    for (int i = 0; i < COLUMNS; i++)
        bench.multiplier[i] = 1.0f + (float)i / COLUMNS;
    printf("path %s, one thread\n", kernel_path_name(bench.path));
    printf("type  group  form         folded  memory GB/s  read GB/s  share\n");
    for (int type = NUMBER_BF16; type >= NUMBER_F32; type--)
        for (int64_t group = 128; group >= 32; group /= 2)
            for (int symmetric = 0; symmetric < 2; symmetric++)
                for (int folded = 0; folded < 2; folded++)
                    print_rates(&bench, (enum number_type)type, group, symmetric, folded);
    free(bench.data);
    free(bench.packed);
    free(bench.scratch);
    return 0;
}
