#include "kernels/elementwise.h"
#include "kernels/math_functions.h"

/* Meta's scaling for Llama 3.1: long waves are slowed down by `factor`, short ones kept, those
 * between are interpolated. In f32 and in transformers' order of operations. */
static float scale_llama3(float frequency, const struct rope_scaling *scaling) {
    const float two_pi = 0x1.921fb6p2f;
    const float longest_kept = scaling->original_context / scaling->high_frequency_factor;
    const float shortest_slowed = scaling->original_context / scaling->low_frequency_factor;
    const float wave = 1.0f / frequency * two_pi;
    if (wave < longest_kept)
        return frequency;
    if (wave > shortest_slowed)
        return frequency / scaling->factor;
    const float smooth = (1.0f / wave * scaling->original_context - scaling->low_frequency_factor) /
                         (scaling->high_frequency_factor - scaling->low_frequency_factor);
    return (1.0f - smooth) * frequency / scaling->factor + smooth * frequency;
}

static float frequency_of_pair(int pair, int dimension, float theta,
                               const struct rope_scaling *scaling) {
    const float exponent = (float)(2 * pair) / (float)dimension;
    const float frequency = 1.0f / (float)math_pow(theta, exponent);
    switch (scaling->kind) {
    case ROPE_LINEAR:
        return frequency / scaling->factor;
    case ROPE_LLAMA3:
        return scale_llama3(frequency, scaling);
    case ROPE_PLAIN:
        break;
    }
    return frequency;
}

void rope_table_fill(float *table, int64_t context, int dimension, float theta,
                     const struct rope_scaling *scaling) {
    const int half = dimension / 2;
    for (int i = 0; i < half; i++) {
        const float frequency = frequency_of_pair(i, dimension, theta, scaling);
        for (int64_t position = 0; position < context; position++) {
            const float angle = (float)position * frequency;
            table[position * dimension + i] = (float)math_cos((double)angle);
            table[position * dimension + half + i] = (float)math_sin((double)angle);
        }
    }
}
