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

static inline float number_from_f16(uint16_t bits) {
    _Float16 value;
    memcpy(&value, &bits, sizeof value);
    return (float)value;
}

/* Round half to even; beyond 65504 becomes infinity. */
static inline uint16_t number_to_f16(float value) {
    const _Float16 half = (_Float16)value;
    uint16_t bits;
    memcpy(&bits, &half, sizeof bits);
    return bits;
}

/* source (type, count) -> destination f32 (count), exact. */
void number_widen(float *destination, const void *source, enum number_type type, size_t count);
/* source f32 (count) -> destination (type, count), round half to even. */
void number_narrow(void *destination, const float *source, enum number_type type, size_t count);

#endif
