/* 16 lanes as a plain array. */
#include "kernels/quantize_row.h"

typedef struct {
    float x[16];
} lanes;

#define LANES_EACH(expression)                                                                     \
    lanes result;                                                                                  \
    for (int i = 0; i < 16; i++)                                                                   \
        result.x[i] = (expression);                                                                \
    return result

static inline lanes lanes_set(float value) {
    LANES_EACH(value);
}
static inline lanes lanes_load(const float *source) {
    LANES_EACH(source[i]);
}
static inline lanes lanes_load_bf16(const uint16_t *source) {
    LANES_EACH(number_from_bf16(source[i]));
}
static inline lanes lanes_load_f16(const uint16_t *source) {
    LANES_EACH(number_from_f16(source[i]));
}
static inline lanes lanes_add(lanes a, lanes b) {
    LANES_EACH(a.x[i] + b.x[i]);
}
static inline lanes lanes_subtract(lanes a, lanes b) {
    LANES_EACH(a.x[i] - b.x[i]);
}
static inline lanes lanes_multiply(lanes a, lanes b) {
    LANES_EACH(a.x[i] * b.x[i]);
}
static inline lanes lanes_min(lanes a, lanes b) {
    LANES_EACH(a.x[i] < b.x[i] ? a.x[i] : b.x[i]);
}
static inline lanes lanes_max(lanes a, lanes b) {
    LANES_EACH(a.x[i] > b.x[i] ? a.x[i] : b.x[i]);
}
static inline float lanes_least(lanes a) {
    float least = a.x[0];
    for (int i = 1; i < 16; i++)
        least = a.x[i] < least ? a.x[i] : least;
    return least;
}
static inline float lanes_most(lanes a) {
    float most = a.x[0];
    for (int i = 1; i < 16; i++)
        most = a.x[i] > most ? a.x[i] : most;
    return most;
}
/* Adding and taking away 1.5 * 2^23 rounds to an integer, half to even, for |x| < 2^22. */
static inline lanes lanes_round(lanes a) {
    LANES_EACH((a.x[i] + 12582912.0f) - 12582912.0f);
}
static inline void lanes_store(float *destination, lanes a) {
    for (int i = 0; i < 16; i++)
        destination[i] = a.x[i];
}
static inline void lanes_store_int8(int8_t *destination, lanes a) {
    for (int i = 0; i < 16; i++)
        destination[i] = (int8_t)(int)a.x[i];
}

#include "kernels/quantize_body.h"

const struct quantize_functions quantize_portable = QUANTIZE_FUNCTIONS;
