/* 16 lanes as a plain array. */
#include <math.h>

#include "kernels/quantize_row.h"

typedef struct {
    float x[16];
} lanes;
struct pair {
    lanes even, odd;
};

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
static inline void lanes_store(float *destination, lanes a) {
    memcpy(destination, &a, sizeof a);
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
static inline lanes lanes_divide(lanes a, lanes b) {
    LANES_EACH(a.x[i] / b.x[i]);
}
/* a b + c, rounded once */
static inline lanes lanes_multiply_add(lanes a, lanes b, lanes c) {
    LANES_EACH(fmaf(a.x[i], b.x[i], c.x[i]));
}
/* a - b c, rounded once */
static inline lanes lanes_subtract_product(lanes a, lanes b, lanes c) {
    LANES_EACH(fmaf(-b.x[i], c.x[i], a.x[i]));
}
/* b where a is NaN, as the instruction has it */
static inline lanes lanes_min(lanes a, lanes b) {
    LANES_EACH(a.x[i] < b.x[i] ? a.x[i] : b.x[i]);
}
static inline lanes lanes_max(lanes a, lanes b) {
    LANES_EACH(a.x[i] > b.x[i] ? a.x[i] : b.x[i]);
}
/* a where test is 0, else b */
static inline lanes lanes_where_zero(lanes test, lanes a, lanes b) {
    LANES_EACH(test.x[i] == 0 ? a.x[i] : b.x[i]);
}
static inline lanes lanes_round_up_f16(lanes a) {
    LANES_EACH(number_up_to_f16(a.x[i]));
}
/* Lane i: the least of a[i]. */
static inline lanes lanes_least(const lanes a[16]) {
    lanes result;
    for (int i = 0; i < 16; i++) {
        result.x[i] = a[i].x[0];
        for (int j = 1; j < 16; j++)
            result.x[i] = a[i].x[j] < result.x[i] ? a[i].x[j] : result.x[i];
    }
    return result;
}
static inline lanes lanes_most(const lanes a[16]) {
    lanes result;
    for (int i = 0; i < 16; i++) {
        result.x[i] = a[i].x[0];
        for (int j = 1; j < 16; j++)
            result.x[i] = a[i].x[j] > result.x[i] ? a[i].x[j] : result.x[i];
    }
    return result;
}
/* The low 8 bits of the floats' own bits. */
static inline void lanes_store_low_bytes(int8_t destination[16], lanes a) {
    for (int i = 0; i < 16; i++) {
        int32_t bits;
        memcpy(&bits, &a.x[i], sizeof bits);
        destination[i] = (int8_t)(bits & 0xff);
    }
}

/* 32 numbers, at any address. */
static inline struct pair pair_load_f32(const unsigned char *source) {
    struct pair pair;
    for (int i = 0; i < 16; i++) {
        memcpy(&pair.even.x[i], source + 8 * i, sizeof(float));
        memcpy(&pair.odd.x[i], source + 8 * i + 4, sizeof(float));
    }
    return pair;
}
static inline struct pair pair_load_f16(const unsigned char *source) {
    struct pair pair;
    uint16_t halves[32];
    memcpy(halves, source, sizeof halves);
    for (int i = 0; i < 16; i++) {
        pair.even.x[i] = number_from_f16(halves[2 * i]);
        pair.odd.x[i] = number_from_f16(halves[2 * i + 1]);
    }
    return pair;
}
static inline struct pair pair_load_bf16(const unsigned char *source) {
    struct pair pair;
    uint16_t halves[32];
    memcpy(halves, source, sizeof halves);
    for (int i = 0; i < 16; i++) {
        pair.even.x[i] = number_from_bf16(halves[2 * i]);
        pair.odd.x[i] = number_from_bf16(halves[2 * i + 1]);
    }
    return pair;
}

/* The low 16 bits of a float's bits hold level + 8, at most 1 beyond 0 .. 15: clamp. */
static inline int level_of(float a) {
    int32_t bits;
    memcpy(&bits, &a, sizeof bits);
    const int level = (int16_t)(bits & 0xffff);
    return level < 0 ? 0 : level > 15 ? 15 : level;
}
/* Four units, even and odd columns in turn -> 64 bytes; level + 8 with its high bit flipped is the
 * level in two's complement. */
static inline void lanes_store_levels(uint8_t packed[64], const lanes levels[8]) {
    for (int unit = 0; unit < 4; unit++)
        for (int i = 0; i < 16; i++)
            packed[16 * unit + i] = (uint8_t)((level_of(levels[2 * unit].x[i]) << 4 |
                                               level_of(levels[2 * unit + 1].x[i])) ^
                                              0x88);
}

#include "kernels/quantize_body.h"

const struct quantize_functions quantize_portable = QUANTIZE_FUNCTIONS;
