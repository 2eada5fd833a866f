#include <immintrin.h>

#include "kernels/quantize_row.h"

typedef struct {
    __m256 low, high;
} lanes;
struct pair {
    lanes even, odd;
};

static inline lanes lanes_set(float value) {
    return (lanes){_mm256_set1_ps(value), _mm256_set1_ps(value)};
}
static inline lanes lanes_load(const float *source) {
    return (lanes){_mm256_loadu_ps(source), _mm256_loadu_ps(source + 8)};
}
static inline void lanes_store(float *destination, lanes a) {
    _mm256_storeu_ps(destination, a.low);
    _mm256_storeu_ps(destination + 8, a.high);
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
static inline lanes lanes_divide(lanes a, lanes b) {
    return (lanes){_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
static inline lanes lanes_multiply_add(lanes a, lanes b, lanes c) {
    return (lanes){_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
static inline lanes lanes_subtract_product(lanes a, lanes b, lanes c) {
    return (lanes){_mm256_fnmadd_ps(b.low, c.low, a.low), _mm256_fnmadd_ps(b.high, c.high, a.high)};
}
static inline lanes lanes_min(lanes a, lanes b) {
    return (lanes){_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
static inline lanes lanes_max(lanes a, lanes b) {
    return (lanes){_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
static inline __m256 where_zero(__m256 test, __m256 a, __m256 b) {
    return _mm256_blendv_ps(b, a, _mm256_cmp_ps(test, _mm256_setzero_ps(), _CMP_EQ_OQ));
}
static inline lanes lanes_where_zero(lanes test, lanes a, lanes b) {
    return (lanes){where_zero(test.low, a.low, b.low), where_zero(test.high, a.high, b.high)};
}
static inline __m256 round_up_f16(__m256 a) {
    return _mm256_cvtph_ps(_mm256_cvtps_ph(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}
static inline lanes lanes_round_up_f16(lanes a) {
    return (lanes){round_up_f16(a.low), round_up_f16(a.high)};
}
/* Transpose and take the least on the way: 8 vectors to 4, 2, 1. */
#define REDUCE_8(a, take)                                                                          \
    __m256 t[4], u[2];                                                                             \
    for (int i = 0; i < 4; i++) {                                                                  \
        const __m256 x = take((a)[2 * i].low, (a)[2 * i].high);                                    \
        const __m256 y = take((a)[2 * i + 1].low, (a)[2 * i + 1].high);                            \
        t[i] = take(_mm256_unpacklo_ps(x, y), _mm256_unpackhi_ps(x, y));                           \
    }                                                                                              \
    for (int i = 0; i < 2; i++)                                                                    \
        u[i] = take(_mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44),                               \
                    _mm256_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee));                              \
    return take(_mm256_permute2f128_ps(u[0], u[1], 0x20), _mm256_permute2f128_ps(u[0], u[1], 0x31))
static inline __m256 least_8(const lanes a[8]) {
    REDUCE_8(a, _mm256_min_ps);
}
static inline __m256 most_8(const lanes a[8]) {
    REDUCE_8(a, _mm256_max_ps);
}
static inline lanes lanes_least(const lanes a[16]) {
    return (lanes){least_8(a), least_8(a + 8)};
}
static inline lanes lanes_most(const lanes a[16]) {
    return (lanes){most_8(a), most_8(a + 8)};
}
static inline void lanes_store_low_bytes(int8_t destination[16], lanes a) {
    float values[16];
    lanes_store(values, a);
    for (int i = 0; i < 16; i++)
        memcpy(&destination[i], &values[i], 1);
}

static inline __m256i load_256(const unsigned char *source) {
    return _mm256_loadu_si256((const __m256i *)(const void *)source);
}
/* 16 f32 -> 8 even, 8 odd */
static inline __m256 take_8_f32(const unsigned char *source, bool odd) {
    const __m256 low = _mm256_castsi256_ps(load_256(source));
    const __m256 high = _mm256_castsi256_ps(load_256(source + 32));
    const __m256 mixed =
        odd ? _mm256_shuffle_ps(low, high, 0xdd) : _mm256_shuffle_ps(low, high, 0x88);
    return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(mixed), 0xd8));
}
static inline struct pair pair_load_f32(const unsigned char *source) {
    return (struct pair){{take_8_f32(source, false), take_8_f32(source + 64, false)},
                         {take_8_f32(source, true), take_8_f32(source + 64, true)}};
}
/* Even ones to the low half of each 128 bits, odd ones to the high half; then all even ones first.
 */
static inline __m256i split_16_halves(const unsigned char *source) {
    const __m256i order = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15));
    return _mm256_permute4x64_epi64(_mm256_shuffle_epi8(load_256(source), order), 0xd8);
}
static inline struct pair pair_load_f16(const unsigned char *source) {
    const __m256i low = split_16_halves(source), high = split_16_halves(source + 32);
    return (struct pair){{_mm256_cvtph_ps(_mm256_castsi256_si128(low)),
                          _mm256_cvtph_ps(_mm256_castsi256_si128(high))},
                         {_mm256_cvtph_ps(_mm256_extracti128_si256(low, 1)),
                          _mm256_cvtph_ps(_mm256_extracti128_si256(high, 1))}};
}
static inline struct pair pair_load_bf16(const unsigned char *source) {
    const __m256i low = load_256(source), high = load_256(source + 32);
    const __m256i mask = _mm256_set1_epi32((int)0xffff0000);
    return (struct pair){{_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)),
                          _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))},
                         {_mm256_castsi256_ps(_mm256_and_si256(low, mask)),
                          _mm256_castsi256_ps(_mm256_and_si256(high, mask))}};
}

/* Half a unit: level + 8 in 16 bits each, in the order of the columns. */
static inline __m256i level_words(__m256 even, __m256 odd) {
    return _mm256_blend_epi16(_mm256_castps_si256(even),
                              _mm256_slli_epi32(_mm256_castps_si256(odd), 16), 0xaa);
}
/* A unit to a byte for two columns, 16 bits each; packing to bytes clamps to 0, the minimum to 15.
 */
static inline __m256i level_pairs(const lanes levels[2]) {
    const __m256i bytes = _mm256_packus_epi16(level_words(levels[0].low, levels[1].low),
                                              level_words(levels[0].high, levels[1].high));
    return _mm256_maddubs_epi16(_mm256_min_epu8(bytes, _mm256_set1_epi8(15)),
                                _mm256_set1_epi16(0x0110));
}
static inline void lanes_store_levels(uint8_t packed[64], const lanes levels[8]) {
    /* The packing instructions leave dword 4 q + half unit in place of 2 half unit + q. */
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int i = 0; i < 2; i++) {
        const __m256i bytes = _mm256_permutevar8x32_epi32(
            _mm256_packus_epi16(level_pairs(levels + 4 * i), level_pairs(levels + 4 * i + 2)),
            order);
        const __m256i nibbles = _mm256_xor_si256(bytes, _mm256_set1_epi8((char)0x88));
        __m256i *to = (__m256i *)(void *)(packed + 32 * i);
        /* Past the caches: nobody reads them soon, and the line need not be read first. */
        if ((uintptr_t)packed % 64 == 0)
            _mm256_stream_si256(to, nibbles);
        else
            _mm256_storeu_si256(to, nibbles);
    }
}

#include "kernels/quantize_body.h"

const struct quantize_functions quantize_avx2 = QUANTIZE_FUNCTIONS;
