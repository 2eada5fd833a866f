/* What every set of instructions of kernels/w4a8 does in the same words, compiled for each. The
 * file that includes this defines UNIT, the bytes of packed levels whose low nibbles are followed
 * by their high nibbles, and NIBBLE_SIGN: 8 where levels are signed, else 0. */
#include <math.h>
#include <string.h>

#include "kernels/w4a8_kernel.h"

#ifndef OWN_UNPACK
static void unpack(uint8_t *levels, const uint8_t *packed, int64_t bytes,
                   const uint8_t *zero_points) {
    (void)zero_points;
    for (; bytes > 0; bytes -= UNIT, packed += UNIT, levels += 2 * UNIT) {
#pragma omp simd
        for (int i = 0; i < UNIT; i++) {
            levels[i] = (uint8_t)(((packed[i] & 15) ^ NIBBLE_SIGN) - NIBBLE_SIGN);
            levels[UNIT + i] = (uint8_t)(((packed[i] >> 4) ^ NIBBLE_SIGN) - NIBBLE_SIGN);
        }
    }
}

#endif

/* |x| as an integer: ordered like |x|, with NaN above infinity. */
static inline uint32_t magnitude_of(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

static inline uint32_t larger(uint32_t a, uint32_t b) {
    return a > b ? a : b;
}

static float find_maximum(const float *x, const float *multiplier, int64_t count) {
    uint32_t largest = 0;
    float maximum;
    if (multiplier == NULL) {
#pragma omp simd reduction(max : largest)
        for (int64_t k = 0; k < count; k++)
            largest = larger(largest, magnitude_of(x[k]));
    } else {
#pragma omp simd reduction(max : largest)
        for (int64_t k = 0; k < count; k++)
            largest = larger(largest, magnitude_of(x[k] * multiplier[k]));
    }
    memcpy(&maximum, &largest, sizeof maximum);
    return maximum;
}

#ifndef OWN_QUANTIZE
/* The magnitude is limited as an integer: it orders like |x|, and compilers know its minimum. */
static inline int8_t quantize_number(float x, float reciprocal) {
    const uint32_t limit = 0x42fe0000; /* 127 */
    float scaled = x * reciprocal;
    uint32_t bits;
    memcpy(&bits, &scaled, sizeof bits);
    const uint32_t sign = bits & 0x80000000u, magnitude = bits & 0x7fffffffu;
    bits = (magnitude < limit ? magnitude : limit) | sign;
    memcpy(&scaled, &bits, sizeof scaled);
    return (int8_t)(int32_t)nearbyintf(scaled);
}

enum {
    PIECE = 256,
    QUAD = 4
}; /* k quantized at once, a multiple of every span; k of a span of X */

static int32_t quantize(int8_t *spans, int64_t stride, const float *x, const float *multiplier,
                        float reciprocal, int64_t count, int64_t filled) {
    int32_t sum = 0;
    for (int64_t begin = 0; begin < filled; begin += PIECE) {
        int8_t values[PIECE] = {0};
        const int64_t end = filled - begin < PIECE ? filled - begin : PIECE;
        const int64_t here = count - begin < PIECE ? count - begin : PIECE;
        if (multiplier == NULL) {
#pragma omp simd
            for (int64_t k = 0; k < here; k++)
                values[k] = quantize_number(x[begin + k], reciprocal);
        } else {
#pragma omp simd
            for (int64_t k = 0; k < here; k++)
                values[k] = quantize_number(x[begin + k] * multiplier[begin + k], reciprocal);
        }
#pragma omp simd reduction(+ : sum)
        for (int64_t k = 0; k < here; k++)
            sum += values[k];
        for (int64_t k = 0; k < end; k += QUAD, spans += stride)
            memcpy(spans, values + k, QUAD);
    }
    return sum;
}
#endif

#ifndef OWN_FINISH
static void finish(float *y, const float *sum, float scale, const float *bias, int64_t count,
                   bool stream) {
    (void)stream;
    if (bias == NULL) {
#pragma omp simd
        for (int64_t n = 0; n < count; n++)
            y[n] = sum[n] * scale;
    } else {
#pragma omp simd
        for (int64_t n = 0; n < count; n++)
            y[n] = sum[n] * scale + bias[n];
    }
}
#endif

#ifndef OWN_ROWS
typedef void multiply_tile(const struct w4a8_block *block, const int8_t *x, const int32_t *x_sums,
                           float *sum, int32_t *carry);

/* One of so many parts. */
static inline void fetch_part(const struct w4a8_ahead *ahead, int64_t part, int64_t parts) {
    const char *at = (const char *)ahead->at, *end = at + ahead->bytes * (part + 1) / parts;
    for (at += ahead->bytes * part / parts; at < end; at += 64)
        w4a8_fetch(at);
}

/* Tile after tile, by the function for its rows: by_rows[rows - 1]. */
static inline void multiply_tiles(const struct w4a8_block *block, const struct w4a8_rows *rows,
                                  multiply_tile *const by_rows[ROWS]) {
    const int64_t tiles = (rows->rows + ROWS - 1) / ROWS;
    for (int64_t m = 0; m < rows->rows; m += ROWS) {
        const int64_t here = rows->rows - m < ROWS ? rows->rows - m : ROWS;
        for (int i = 0; i < 2; i++)
            fetch_part(&rows->ahead[i], m / ROWS, tiles);
        by_rows[here - 1](block, rows->x + m * block->groups * block->count,
                          rows->x_sums + m * rows->all_groups + rows->first_group * here,
                          rows->sums + m * COLUMNS, rows->carries + m * COLUMNS);
    }
}
#endif

#define W4A8_BODY_FUNCTIONS                                                                        \
    .unpack = unpack, .find_maximum = find_maximum, .quantize = quantize, .finish = finish
