#include "kernels/equalize.h"

#include "kernels/math_functions.h"

static const float DEAD_CHANNEL = 1e-5f;

const char *input_policy_name(enum input_policy policy) {
    static const char *const names[POLICY_COUNT] = {"static", "equalized", "dynamic",
                                                    "equalized-dynamic", "none"};
    return names[policy];
}

bool input_policy_is_static(enum input_policy policy) {
    return policy == POLICY_STATIC || policy == POLICY_EQUALIZED;
}

bool input_policy_equalizes(enum input_policy policy) {
    return policy == POLICY_EQUALIZED || policy == POLICY_EQUALIZED_DYNAMIC;
}

enum input_policy equalize_choose_policy(float v, float v0, float v1) {
    if (v <= v0)
        return POLICY_STATIC;
    return v < v1 ? POLICY_EQUALIZED : POLICY_DYNAMIC;
}

void equalize_scale(float *scale, const float *maxima, int64_t channels,
                    enum equalization equalization, float c) {
    for (int64_t j = 0; j < channels; j++) {
        const double m = (double)maxima[j];
        const double divisor =
            equalization == EQUALIZE_LOG2 ? math_log2(2.0 + m) : math_log(1.0 + (double)c * m);
        scale[j] = maxima[j] < DEAD_CHANNEL ? 1.0f : (float)(m / divisor);
    }
}

void equalize_smooth_scale(float *scale, const float *maxima, const float *weight_maxima,
                           int64_t channels, float alpha) {
    for (int64_t j = 0; j < channels; j++) {
        const bool alive = maxima[j] >= DEAD_CHANNEL && weight_maxima[j] >= DEAD_CHANNEL &&
                           weight_maxima[j] < INFINITY;
        const double share = (double)alpha;
        scale[j] = alive ? (float)(math_pow((double)maxima[j], share) *
                                   math_pow((double)weight_maxima[j], share - 1))
                         : 1.0f;
    }
}

float equalize_range(const float *maxima, const float *scale, int64_t channels) {
    float range = 0.0f;
    for (int64_t j = 0; j < channels; j++) {
        const float equalized = scale == NULL ? maxima[j] : maxima[j] / scale[j];
        range = equalized > range ? equalized : range;
    }
    return range;
}

void equalize_share_maxima(float *shared, const float *maxima, int heads, int kv_heads,
                           int head_dim) {
    const int group = heads / kv_heads;
    for (int kv = 0; kv < kv_heads; kv++) {
        for (int d = 0; d < head_dim; d++) {
            const int64_t first = (int64_t)kv * group * head_dim + d;
            float largest = 0.0f;
            for (int head = 0; head < group; head++) {
                const float m = maxima[first + (int64_t)head * head_dim];
                largest = m > largest ? m : largest;
            }
            for (int head = 0; head < group; head++)
                shared[first + (int64_t)head * head_dim] = largest;
        }
    }
}
