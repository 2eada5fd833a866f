/* Plain C: the order of accumulation that the f32 vector paths keep to, one fmaf a step. */
#include <math.h>

#include "kernels/matmul_kernel.h"

enum { VECTOR = 4, ROWS = 4, K_BLOCK = 256 };

/* |x| as an integer: ordered like |x|, with NaN above infinity, so a NaN stays. */
static uint32_t magnitude(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits & 0x7fffffffu;
}

static void take_maximum(float *maximum, float x) {
    if (magnitude(x) > magnitude(*maximum)) {
        const uint32_t bits = magnitude(x);
        memcpy(maximum, &bits, sizeof bits);
    }
}

static void pack(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                 int64_t count, bool round, float *maxima) {
    float *packed = tile;
    for (int64_t k = 0; k < count; k++) {
        for (int64_t m = 0; m < VECTOR; m++) {
            const float value = m < rows ? x[m * stride + k] : 0.0f;
            if (maxima != NULL && m < rows)
                take_maximum(&maxima[k], value);
            packed[k * width + m] = round ? number_from_bf16(number_to_bf16(value)) : value;
        }
    }
}

static void load(void *panel_row, const void *w, enum number_type type, int64_t count,
                 enum matmul_part part) {
    (void)part;
    number_widen(panel_row, w, type, (size_t)count);
}

static inline void multiply(const int64_t width, const struct matmul_tile *tile) {
    const float *x = tile->x;
    for (int64_t row = 0; row < ROWS; row++) {
        float *sum = tile->sum + row * MATMUL_SUM_STRIDE;
        for (int64_t m = 0; m < width; m++) {
            const char *w = tile->w + row * tile->w_stride;
            float total = tile->first ? 0.0f : sum[m];
            for (int64_t k = 0; k < tile->count; k++, w += sizeof(float)) {
                float weight;
                memcpy(&weight, w, sizeof weight);
                total = fmaf(weight, x[k * width + m], total);
            }
            sum[m] = total;
        }
    }
}

#define MULTIPLY(vectors)                                                                          \
    static void multiply_##vectors(const struct matmul_tile *tile) {                               \
        multiply(vectors *VECTOR, tile);                                                           \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)

static void store(float *y, int64_t y_stride, const float *sum, int64_t rows, int64_t columns,
                  bool far) {
    (void)far;
    for (int64_t m = 0; m < columns; m++)
        for (int64_t n = 0; n < rows; n++)
            y[m * y_stride + n] = sum[n * MATMUL_SUM_STRIDE + m];
}

const struct matmul_kernel matmul_portable = {
    .element = NUMBER_F32,
    .direct = true,
    .width = 4 * VECTOR,
    .vector = VECTOR,
    .k_multiple = 1,
    .k_block = K_BLOCK,
    .panel_stride = K_BLOCK * sizeof(float),
    .panel_rows = 4 * ROWS,
    .block_rows = 48,
    .tile_rows = {ROWS, ROWS, ROWS, ROWS},
    .pack = pack,
    .load = load,
    .multiply = {multiply_1, multiply_2, multiply_3, multiply_4},
    .store = store,
};
