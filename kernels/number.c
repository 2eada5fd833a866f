#include "kernels/number.h"

void number_widen(float *destination, const void *source, enum number_type type, size_t count) {
    const uint16_t *halves = source;
    switch (type) {
    case NUMBER_F32:
        memcpy(destination, source, count * sizeof *destination);
        break;
    case NUMBER_F16:
        for (size_t i = 0; i < count; i++)
            destination[i] = number_from_f16(halves[i]);
        break;
    case NUMBER_BF16:
        for (size_t i = 0; i < count; i++)
            destination[i] = number_from_bf16(halves[i]);
        break;
    }
}

void number_narrow(void *destination, const float *source, enum number_type type, size_t count) {
    uint16_t *halves = destination;
    switch (type) {
    case NUMBER_F32:
        memcpy(destination, source, count * sizeof *source);
        break;
    case NUMBER_F16:
        for (size_t i = 0; i < count; i++)
            halves[i] = number_to_f16(source[i]);
        break;
    case NUMBER_BF16:
        for (size_t i = 0; i < count; i++)
            halves[i] = number_to_bf16(source[i]);
        break;
    }
}
