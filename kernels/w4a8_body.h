/* What every set of instructions of kernels/w4a8 does in the same words, compiled for each. The
 * file that includes this defines UNIT, the bytes of packed levels whose low nibbles are followed
 * by their high nibbles, and NIBBLE_SIGN: 8 where levels are signed, else 0. */
#include <math.h>
#include <string.h>

#include "kernels/w4a8_kernel.h"

static void unpack(uint8_t *levels, const uint8_t *packed, int64_t bytes) {
    for (; bytes > 0; bytes -= UNIT, packed += UNIT, levels += 2 * UNIT) {
#pragma omp simd
        for (int i = 0; i < UNIT; i++) {
            levels[i] = (uint8_t)(((packed[i] & 15) ^ NIBBLE_SIGN) - NIBBLE_SIGN);
            levels[UNIT + i] = (uint8_t)(((packed[i] >> 4) ^ NIBBLE_SIGN) - NIBBLE_SIGN);
        }
    }
}

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

static int32_t quantize(int8_t *values, const float *x, const float *multiplier, float reciprocal,
                        int64_t count) {
    int32_t sum = 0;
    if (multiplier == NULL) {
#pragma omp simd
        for (int64_t k = 0; k < count; k++)
            values[k] = quantize_number(x[k], reciprocal);
    } else {
#pragma omp simd
        for (int64_t k = 0; k < count; k++)
            values[k] = quantize_number(x[k] * multiplier[k], reciprocal);
    }
#pragma omp simd reduction(+ : sum)
    for (int64_t k = 0; k < count; k++)
        sum += values[k];
    return sum;
}

static void finish(float *y, const float *sum, float scale, const float *bias, int64_t count) {
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

#define W4A8_BODY_FUNCTIONS                                                                        \
    .unpack = unpack, .find_maximum = find_maximum, .quantize = quantize, .finish = finish
