/* Internal: the error of one group for one grid, compiled once for each path (clip_mse_body.h). */
#ifndef FPTQ_KERNELS_CLIP_MSE_GROUP_H
#define FPTQ_KERNELS_CLIP_MSE_GROUP_H

#include "kernels/math_functions.h"

enum { CLIP_MSE_LANES = 16 };

/* Sum of u^2.4 (clip_mse.h) over w (count, a multiple of CLIP_MSE_LANES). */
typedef float clip_mse_errors(const float *w, int64_t count, float inverse, float zero_point,
                              float least_level);

extern clip_mse_errors clip_mse_errors_portable, clip_mse_errors_avx2, clip_mse_errors_avx512;

/* u^2.4, u >= 0. The first r is 2^(-log2(y) / 5) with the logarithm of a number's own bits, a line
 * from one power of two to the next; the constant makes the error least after both steps. */
static inline float clip_mse_power(float u) {
    const float y = u * u;
    const float bits = 0x1.30addep30f - 0.2f * (float)(int32_t)math_bits_of_float(y);
    float r = math_float_of_bits((uint32_t)(int32_t)bits);
    for (int step = 0; step < 2; step++)
        r *= 1.2f - 0.2f * ((y * r) * (r * r) * (r * r));
    const float root = y * (r * r);
    return root * root;
}

#endif
