/* Int4 weights: bytes of weights read a second, beside the speed at which one core reads memory, in
 * the same run. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/quantize.h"
#include "tests/bench/measure.h"

enum { COLUMNS = 4096, ROWS = 32768, BLOCK = 256, REPEATS = 3 };

static double best_read_rate(const uint64_t *data, size_t bytes) {
    double best = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start = measure_seconds();
        uint64_t sums[8] = {0};
        for (size_t i = 0; i < bytes / 8; i += 8)
            for (int lane = 0; lane < 8; lane++)
                sums[lane] |= data[i + (size_t)lane];
        volatile uint64_t used =
            sums[0] | sums[1] | sums[2] | sums[3] | sums[4] | sums[5] | sums[6] | sums[7];
        (void)used;
        const double rate = (double)bytes / (measure_seconds() - start);
        best = rate > best ? rate : best;
    }
    return best;
}

static double best_quantize_rate(enum kernel_path path, const void *data, enum number_type type,
                                 bool symmetric, int64_t group, const float *multiplier) {
    const struct quantize_format format = {group, symmetric, QUANTIZE_AMAX_7_5, NUMBER_F16};
    const struct quantize_source source = {data, type, COLUMNS, COLUMNS, multiplier, NULL};
    const int64_t groups = quantize_group_count(&format, COLUMNS);
    uint8_t *packed = malloc((size_t)BLOCK * COLUMNS / 2);
    float *scales = malloc((size_t)(BLOCK * groups) * sizeof *scales);
    int8_t *zero_points = malloc((size_t)(BLOCK * groups));
    double errors[BLOCK], squares[BLOCK];
    void *scratch = aligned_alloc(64, quantize_scratch_bytes(COLUMNS));
    const int64_t rows = type == NUMBER_F32 ? ROWS / 2 : ROWS;
    double best = 0;
    for (int repeat = 0; repeat < REPEATS; repeat++) {
        const double start = measure_seconds();
        for (int64_t row = 0; row < rows; row += BLOCK)
            quantize_rows_int4(path, &format, &source, row, row + BLOCK, packed, scales,
                               symmetric ? NULL : zero_points, errors, squares, scratch);
        const double rate =
            (double)(rows * COLUMNS) * (double)number_size(type) / (measure_seconds() - start);
        best = rate > best ? rate : best;
    }
    free(packed);
    free(scales);
    free(zero_points);
    free(scratch);
    return best;
}

int main(void) {
    const size_t bytes = (size_t)ROWS * COLUMNS * 2;
    uint16_t *data = malloc(bytes);
    float multiplier[COLUMNS];
    if (!data)
        return 1;
    for (size_t i = 0; i < bytes / 2; i++) /* numbers of magnitude 2^-6 .. 2^-3, both signs */
        data[i] = (uint16_t)(0x3c80 + (i * 2654435761u >> 16) % 0x180 + (i % 2 << 15));
    for (int i = 0; i < COLUMNS; i++)
        multiplier[i] = 1.0f + (float)i / COLUMNS;
    const double read = best_read_rate((const uint64_t *)(const void *)data, bytes);
    const enum kernel_path path = kernel_path_best();
    printf("path %s, one thread; one core reads %.1f GB/s\n", kernel_path_name(path), read / 1e9);
    printf("type  group  form         folded  GB/s read  share\n");
    static const char *const types[] = {"f32", "f16", "bf16"};
    for (int type = NUMBER_BF16; type >= NUMBER_F32; type--)
        for (int64_t group = 128; group >= 64; group /= 2)
            for (int symmetric = 0; symmetric < 2; symmetric++)
                for (int folded = 0; folded < 2; folded++) {
                    const double rate =
                        best_quantize_rate(path, data, (enum number_type)type, symmetric, group,
                                           folded ? multiplier : NULL);
                    printf("%-4s  %5d  %-11s  %-6s  %9.1f  %5.2f\n", types[type], (int)group,
                           symmetric ? "symmetric" : "zero points", folded ? "yes" : "no",
                           rate / 1e9, rate / read);
                }
    free(data);
    return 0;
}
