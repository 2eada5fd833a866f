#include "kernels/number.h"

#include "kernels/number_avx2.h"

/* Conversions give the same bits either way, so no caller chooses. Whatever has AVX2 has F16C. */
static int has_avx2(void) {
    return __builtin_cpu_supports("avx2");
}

void number_widen(float *destination, const void *source, enum number_type type, size_t count) {
    const uint16_t *halves = source;
    if (type == NUMBER_F32) {
        memcpy(destination, source, count * sizeof *destination);
    } else if (has_avx2()) {
        number_widen_avx2(destination, halves, type, count);
    } else {
        for (size_t i = 0; i < count; i++)
            destination[i] =
                type == NUMBER_F16 ? number_from_f16(halves[i]) : number_from_bf16(halves[i]);
    }
}

void number_narrow(void *destination, const float *source, enum number_type type, size_t count) {
    uint16_t *halves = destination;
    if (type == NUMBER_F32) {
        memcpy(destination, source, count * sizeof *source);
    } else if (has_avx2()) {
        number_narrow_avx2(halves, source, type, count);
    } else {
        for (size_t i = 0; i < count; i++)
            halves[i] = type == NUMBER_F16 ? number_to_f16(source[i]) : number_to_bf16(source[i]);
    }
}
