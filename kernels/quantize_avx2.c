#include <immintrin.h>

#include "kernels/quantize_row.h"

typedef struct {
    __m256 low, high;
} lanes;

static inline lanes lanes_set(float value) {
    return (lanes){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
static inline lanes lanes_load(const float *source) {
    return (lanes){_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)};
}
static inline __m256 load_8_bf16(const uint16_t *source) {
    const __m128i halves = _mm_loadu_si128((const __m128i *)(const void *)source);
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}
static inline lanes lanes_load_bf16(const uint16_t *source) {
    return (lanes){load_8_bf16(source), load_8_bf16(source + 8)};
}
static inline __m256 load_8_f16(const uint16_t *source) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(const void *)source));
}
static inline lanes lanes_load_f16(const uint16_t *source) {
    return (lanes){load_8_f16(source), load_8_f16(source + 8)};
}
static inline lanes lanes_add(lanes a, lanes b) {
    return (lanes){_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
static inline lanes lanes_subtract(lanes a, lanes b) {
    return (lanes){_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
static inline lanes lanes_multiply(lanes a, lanes b) {
    return (lanes){_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
static inline lanes lanes_min(lanes a, lanes b) {
    return (lanes){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
static inline lanes lanes_max(lanes a, lanes b) {
    return (lanes){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
static inline float lanes_least(lanes a) {
    const __m256 eight = _mm256_min_ps(a.low, a.high);
    __m128 four = _mm_min_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_min_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_min_ss(four, _mm_movehdup_ps(four)));
}
static inline float lanes_most(lanes a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}
static inline lanes lanes_round(lanes a) {
    const int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return (lanes){_mm256_round_ps(a.low, nearest), _mm256_round_ps(a.high, nearest)};
}
static inline void lanes_store(float *destination, lanes a) {
    _mm256_storeu_ps(destination, a.low);
    _mm256_storeu_ps(destination + 8, a.high);
}
static inline void lanes_store_int8(int8_t *destination, lanes a) {
    /* packs works within 128-bit halves: restore the order of the four quarters in between. */
    const __m256i words = _mm256_permute4x64_epi64(
        _mm256_packs_epi32(_mm256_cvtps_epi32(a.low), _mm256_cvtps_epi32(a.high)), 0xd8);
    _mm_storeu_si128(
        (__m128i *)(void *)destination,
        _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1)));
}

#include "kernels/quantize_body.h"

const struct quantize_functions quantize_avx2 = QUANTIZE_FUNCTIONS;
