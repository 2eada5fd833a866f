/* The definitions of rows.h, included by rows_PATH.c and compiled with that path's instructions. */
#include <math.h>
#include <stdint.h>
#include <string.h>

#include "kernels/math_functions.h"
#include "kernels/number.h"
#include "kernels/rows.h"

enum { LANES = ROWS_LANES };

/* The tree that joins the lanes. */
static inline float sum_of_lanes(const float lanes[LANES]) {
    float eight[8], four[4];
    for (int i = 0; i < 8; i++)
        eight[i] = lanes[i] + lanes[i + 8];
    for (int i = 0; i < 4; i++)
        four[i] = eight[i] + eight[i + 4];
    return (four[0] + four[2]) + (four[1] + four[3]);
}

static inline float sum(const float *x, int64_t count) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += x[i + lane];
    for (int lane = 0; i + lane < count; lane++)
        lanes[lane] += x[i + lane];
    return sum_of_lanes(lanes);
}

/* Sum of (x - mean)^2. */
static inline float sum_of_squares(const float *x, int64_t count, float mean) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            const float difference = x[i + lane] - mean;
            lanes[lane] += difference * difference;
        }
    for (int lane = 0; i + lane < count; lane++) {
        const float difference = x[i + lane] - mean;
        lanes[lane] += difference * difference;
    }
    return sum_of_lanes(lanes);
}

static void norm_rms(float *output, const float *input, const float *weight, int64_t count,
                     float epsilon) {
    const float mean_square = sum_of_squares(input, count, 0.0f) / (float)count;
    const float factor = 1.0f / sqrtf(mean_square + epsilon);
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        output[i] = input[i] * factor * weight[i];
}

static void norm_layer(float *output, const float *input, const float *weight, const float *bias,
                       int64_t count, float epsilon) {
    const float mean = sum(input, count) / (float)count;
    const float variance = sum_of_squares(input, count, mean) / (float)count;
    const float factor = 1.0f / sqrtf(variance + epsilon);
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        output[i] = (input[i] - mean) * factor * weight[i] + bias[i];
}

static void rotate(float *x, const float *table, int64_t half) {
#pragma omp simd
    for (int64_t i = 0; i < half; i++) {
        const float a = x[i], b = x[i + half], cosine = table[i], sine = table[i + half];
        x[i] = a * cosine - b * sine;
        x[i + half] = b * cosine + a * sine;
    }
}

static void silu_multiply(float *gate, const float *up, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        gate[i] = gate[i] / (1.0f + math_exp(-gate[i])) * up[i];
}

/* x (1 + tanh u) / 2 = x / (1 + exp(-2 u)), u = sqrt(2 / pi) (x + 0.044715 x^3). */
static void gelu_tanh(float *x, int64_t count) {
    const float minus_two_root = -1.5957691216f; /* -2 sqrt(2 / pi) */
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        const float cubic = x[i] * (1.0f + 0.044715f * (x[i] * x[i]));
        x[i] = x[i] / (1.0f + math_exp(minus_two_root * cubic));
    }
}

static void add(float *x, const float *y, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] += y[i];
}

static float dot(const float *x, const float *y, int64_t count) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += x[i + lane] * y[i + lane];
    for (int lane = 0; i + lane < count; lane++)
        lanes[lane] += x[i + lane] * y[i + lane];
    return sum_of_lanes(lanes);
}

static void narrow_bf16(uint16_t *narrow, const float *x, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        narrow[i] = number_to_bf16(x[i]);
}

static inline float larger(float a, float b) {
    return a > b ? a : b;
}

/* NaN is passed over. Four vectors a step, so that it does not wait for one chain of maxima. */
static inline float largest_of(const float *x, int64_t count) {
    float lanes[LANES], largest = -INFINITY;
    for (int lane = 0; lane < LANES; lane++)
        lanes[lane] = -INFINITY;
    int64_t i = 0;
    for (; i + 4 * LANES <= count; i += 4 * LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            const float *at = x + i + lane;
            const float low = larger(at[LANES], larger(at[0], -INFINITY));
            const float high = larger(at[3 * LANES], larger(at[2 * LANES], -INFINITY));
            lanes[lane] = larger(larger(low, high), lanes[lane]);
        }
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] = larger(x[i + lane], lanes[lane]);
    for (; i < count; i++)
        largest = larger(x[i], largest);
    for (int lane = 0; lane < LANES; lane++)
        largest = larger(lanes[lane], largest);
    return largest;
}

/* x[i] = exp(x[i] * scale - largest); returns their sum. */
static inline float exponentials(float *x, int64_t count, float scale, float largest) {
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            const float value = math_exp(x[i + lane] * scale - largest);
            x[i + lane] = value;
            lanes[lane] += value;
        }
    for (int lane = 0; i + lane < count; lane++) {
        const float value = math_exp(x[i + lane] * scale - largest);
        x[i + lane] = value;
        lanes[lane] += value;
    }
    return sum_of_lanes(lanes);
}

/* Rounding is monotonic: the largest product is that of the largest score. */
static void softmax(struct softmax *running, float *score, int64_t count, float scale, float slope,
                    int64_t position) {
    if (slope != 0.0f) {
        const float first = (float)position;
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            score[i] = fmaf(slope, first + (float)(int32_t)i, score[i] * scale);
        scale = 1.0f;
    }
    const float before = running->largest;
    running->largest = larger(largest_of(score, count) * scale, before);
    running->factor = math_exp(before - running->largest);
    const float total = exponentials(score, count, scale, running->largest);
    running->total = fmaf(running->total, running->factor, total);
}

/* Added to 1.5 * 2^23, a small number is rounded to an integer, half to even. */
static inline float rounded(float x) {
    return (x + 0x1.8p23f) - 0x1.8p23f;
}

static void round_int8(float *x, int64_t count) {
    float largest = 0.0f;
    for (int64_t i = 0; i < count; i++)
        largest = larger(fabsf(x[i]), largest);
    const float scale = larger(largest / 127.0f, 0x1p-126f), inverse = 1.0f / scale;
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        x[i] = rounded(x[i] * inverse) * scale;
}

static void scale_add(float *total, float factor, const float *x, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        total[i] = fmaf(total[i], factor, x[i]);
}

/* (x - scale q)^2 */
static inline float int8_square(float x, float scale, float inverse) {
    const float product = x * inverse;
    const float low = product < 127.0f ? product : 127.0f;
    const float clamped = low > -127.0f ? low : -127.0f;
    const float difference = x - scale * rounded(clamped);
    return difference * difference;
}

static float int8_error(const float *x, int64_t count, float scale) {
    const float inverse = 1.0f / scale;
    float lanes[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= count; i += LANES)
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++)
            lanes[lane] += int8_square(x[i + lane], scale, inverse);
    for (int lane = 0; i + lane < count; lane++)
        lanes[lane] += int8_square(x[i + lane], scale, inverse);
    return sum_of_lanes(lanes);
}

/* Adding 0 makes 0 of -0: which zero a sum of zeros is may depend on how many there were. */
static void divide(float *output, const float *x, float divisor, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count; i++)
        output[i] = x[i] / divisor + 0.0f;
}

static void hadamard(float *x, int64_t count, int64_t width) {
    for (int64_t half = 1; half < count; half *= 2)
        for (int64_t block = 0; block < count; block += 2 * half) {
            float *low = x + block * width, *high = low + half * width;
#pragma omp simd
            for (int64_t i = 0; i < half * width; i++) {
                const float a = low[i], b = high[i];
                low[i] = a + b;
                high[i] = a - b;
            }
        }
}

static void mix_lanes(float *output, const float *x, const float *matrix, int64_t order) {
    for (int64_t row = 0; row < order; row++) {
        float lanes[LANES] = {0};
        for (int64_t i = 0; i < order; i++)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++)
                lanes[lane] += matrix[row * order + i] * x[i * LANES + lane];
        memcpy(output + row * LANES, lanes, sizeof lanes);
    }
}

#define ROW_FUNCTIONS                                                                              \
    {                                                                                              \
        .norm_rms = norm_rms, .norm_layer = norm_layer, .rotate = rotate,                          \
        .silu_multiply = silu_multiply, .gelu_tanh = gelu_tanh, .add = add, .dot = dot,            \
        .narrow_bf16 = narrow_bf16, .softmax = softmax, .scale_add = scale_add,                    \
        .int8_error = int8_error, .round_int8 = round_int8, .divide = divide,                      \
        .hadamard = hadamard, .mix_lanes = mix_lanes,                                              \
    }
