#include <immintrin.h>

#include "kernels/quantize_row.h"

typedef __m512 lanes;

static inline lanes lanes_set(float value) {
    return _mm512_set1_ps(value);
}
static inline lanes lanes_load(const float *source) {
    return _mm512_loadu_ps(source);
}
static inline lanes lanes_load_bf16(const uint16_t *source) {
    const __m256i halves = _mm256_loadu_si256((const __m256i *)(const void *)source);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}
static inline lanes lanes_load_f16(const uint16_t *source) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(const void *)source));
}
static inline lanes lanes_add(lanes a, lanes b) {
    return _mm512_add_ps(a, b);
}
static inline lanes lanes_subtract(lanes a, lanes b) {
    return _mm512_sub_ps(a, b);
}
static inline lanes lanes_multiply(lanes a, lanes b) {
    return _mm512_mul_ps(a, b);
}
static inline lanes lanes_min(lanes a, lanes b) {
    return _mm512_min_ps(a, b);
}
static inline lanes lanes_max(lanes a, lanes b) {
    return _mm512_max_ps(a, b);
}
static inline float lanes_least(lanes a) {
    return _mm512_reduce_min_ps(a);
}
static inline float lanes_most(lanes a) {
    return _mm512_reduce_max_ps(a);
}
static inline lanes lanes_round(lanes a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
static inline void lanes_store(float *destination, lanes a) {
    _mm512_storeu_ps(destination, a);
}
static inline void lanes_store_int8(int8_t *destination, lanes a) {
    _mm_storeu_si128((__m128i *)(void *)destination, _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(a)));
}

#include "kernels/quantize_body.h"

const struct quantize_functions quantize_avx512 = QUANTIZE_FUNCTIONS;
