/* clip_mse_group.h's function, named CLIP_MSE_ERRORS: plain loops that the compiler vectorises for
 * the path's instructions. */
#include <math.h>

#include "kernels/clip_mse_group.h"

float CLIP_MSE_ERRORS(const float *w, int64_t count, float inverse, float zero_point,
                      float least_level) {
    float sums[CLIP_MSE_LANES] = {0};
    for (int64_t i = 0; i < count; i += CLIP_MSE_LANES) {
#pragma omp simd
        for (int lane = 0; lane < CLIP_MSE_LANES; lane++) {
            const float x = w[i + lane] * inverse;
            const float level = rintf(x + zero_point);
            const float bounded = level < least_level ? least_level : level > 7 ? 7 : level;
            sums[lane] += clip_mse_power(fabsf(x - (bounded - zero_point)));
        }
    }
    for (int half = CLIP_MSE_LANES / 2; half > 0; half /= 2)
        for (int lane = 0; lane < half; lane++)
            sums[lane] += sums[lane + half];
    return sums[0];
}
