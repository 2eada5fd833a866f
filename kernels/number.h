/* The number formats of weights and their conversions. */
#ifndef FPTQ_KERNELS_NUMBER_H
#define FPTQ_KERNELS_NUMBER_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum number_type { NUMBER_F32, NUMBER_F16, NUMBER_BF16 };

static inline size_t number_size(enum number_type type) {
    return type == NUMBER_F32 ? 4 : 2;
}

static inline float number_from_bf16(uint16_t bits) {
    const uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Round half to even; NaN stays NaN. */
static inline uint16_t number_to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    if ((bits & 0x7fffffffu) > 0x7f800000u)
        return (uint16_t)((bits >> 16) | 0x40u);
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

/* NaN becomes quiet. */
static inline float number_from_f16(uint16_t bits) {
    const uint32_t sign = (uint32_t)(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    uint32_t wide;
    float value;
    if (magnitude >= 0x7c00u) {
        wide = magnitude << 13 | 0x7f800000u | (magnitude > 0x7c00u ? 0x400000u : 0);
    } else if (magnitude >= 0x400u) {
        wide = (magnitude << 13) + 0x38000000u; /* the exponent's bias: 127 - 15 */
    } else {
        value = (float)magnitude * 0x1p-24f; /* a denormal number */
        memcpy(&wide, &value, sizeof wide);
    }
    wide |= sign;
    memcpy(&value, &wide, sizeof value);
    return value;
}

/* Round half to even; beyond 65504 becomes infinity; NaN stays NaN. */
static inline uint16_t number_to_f16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    const uint32_t sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) {
        magnitude = 0x7e00u | (magnitude >> 13 & 0x3ffu);
    } else if (magnitude >= 0x477ff000u) { /* 65520: half way to the next number */
        magnitude = 0x7c00u;
    } else if (magnitude >= 0x38800000u) { /* 2^-14 */
        magnitude = (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13;
    } else { /* denormal: the sum's last bit is 2^-24 */
        float sum;
        memcpy(&sum, &magnitude, sizeof sum);
        sum += 0.5f;
        memcpy(&magnitude, &sum, sizeof magnitude);
        magnitude -= 0x3f000000u;
    }
    return (uint16_t)(sign | magnitude);
}

/* The nearest f16 that is not below value >= 0, as f32. */
static inline float number_up_to_f16(float value) {
    const uint16_t bits = number_to_f16(value);
    return number_from_f16((uint16_t)(bits + (number_from_f16(bits) < value)));
}

/* source (type, count) -> destination f32 (count), exact. */
void number_widen(float *destination, const void *source, enum number_type type, size_t count);
/* source f32 (count) -> destination (type, count), round half to even. */
void number_narrow(void *destination, const float *source, enum number_type type, size_t count);

#endif
