/* 4-bit weights for the dense product: brought to the path's numbers where a panel is made. */
#include "kernels/matmul_kernel.h"

/* levels (count), from element `first` of the nibbles on */
static void read_levels(int8_t *levels, const uint8_t *packed, int64_t first, int64_t count) {
    packed += first / 2;
    if (first % 2 != 0 && count > 0) {
        *levels++ = (int8_t)(((*packed++ & 15) ^ 8) - 8);
        count--;
    }
#pragma omp simd
    for (int64_t i = 0; i < count / 2; i++) {
        levels[2 * i] = (int8_t)(((packed[i] >> 4) ^ 8) - 8);
        levels[2 * i + 1] = (int8_t)(((packed[i] & 15) ^ 8) - 8);
    }
    if (count % 2 != 0)
        levels[count - 1] = (int8_t)(((packed[count / 2] >> 4) ^ 8) - 8);
}

void matmul_dequantize(void *values, enum number_type element, bool round,
                       const struct matmul_weight *weight, int64_t row, int64_t k, int64_t count) {
    int8_t levels[MATMUL_K_BLOCK];
    float wide[MATMUL_K_BLOCK];
    const int64_t size = weight->group_size == 0 ? weight->columns : weight->group_size;
    const int64_t groups = (weight->columns + size - 1) / size;
    read_levels(levels, weight->data, row * weight->stride + k, count);
    for (int64_t i = 0; i < count;) {
        const int64_t at = row * groups + (k + i) / size;
        const int64_t group_end = ((k + i) / size + 1) * size - k;
        const int64_t end = group_end < count ? group_end : count;
        const float scale = weight->scales[at];
        const int z = weight->zero_points == NULL ? 0 : weight->zero_points[at];
#pragma omp simd
        for (int64_t j = i; j < end; j++)
            wide[j] = (float)(levels[j] - z) * scale;
        i = end;
    }
    if (round && element == NUMBER_F32)
#pragma omp simd
        for (int64_t i = 0; i < count; i++)
            wide[i] = number_from_bf16(number_to_bf16(wide[i]));
    number_narrow(values, wide, element, (size_t)count);
}
