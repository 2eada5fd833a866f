#include <immintrin.h>

#include "kernels/quantize_row.h"

typedef __m512 lanes;
struct pair {
    lanes even, odd;
};

static inline lanes lanes_set(float value) {
    return _mm512_set1_ps(value);
}
static inline lanes lanes_load(const float *source) {
    return _mm512_loadu_ps(source);
}
static inline void lanes_store(float *destination, lanes a) {
    _mm512_storeu_ps(destination, a);
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
static inline lanes lanes_divide(lanes a, lanes b) {
    return _mm512_div_ps(a, b);
}
static inline lanes lanes_multiply_add(lanes a, lanes b, lanes c) {
    return _mm512_fmadd_ps(a, b, c);
}
static inline lanes lanes_subtract_product(lanes a, lanes b, lanes c) {
    return _mm512_fnmadd_ps(b, c, a);
}
static inline lanes lanes_min(lanes a, lanes b) {
    return _mm512_min_ps(a, b);
}
static inline lanes lanes_max(lanes a, lanes b) {
    return _mm512_max_ps(a, b);
}
static inline lanes lanes_where_zero(lanes test, lanes a, lanes b) {
    const __mmask16 zero = _mm512_cmp_ps_mask(test, _mm512_setzero_ps(), _CMP_EQ_OQ);
    return _mm512_mask_blend_ps(zero, b, a);
}
static inline lanes lanes_round_up_f16(lanes a) {
    return _mm512_cvtph_ps(_mm512_cvtps_ph(a, _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC));
}
/* Transpose and take the least on the way: 16 vectors to 8, 4, 2, 1. */
#define LANES_REDUCE(a, take)                                                                      \
    lanes t[8], u[4], v[2];                                                                        \
    _Pragma("GCC unroll 8") for (int i = 0; i < 8; i++) t[i] =                                     \
        take(_mm512_unpacklo_ps((a)[2 * i], (a)[2 * i + 1]),                                       \
             _mm512_unpackhi_ps((a)[2 * i], (a)[2 * i + 1]));                                      \
    _Pragma("GCC unroll 8") for (int i = 0; i < 4; i++) u[i] =                                     \
        take(_mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0x44),                                      \
             _mm512_shuffle_ps(t[2 * i], t[2 * i + 1], 0xee));                                     \
    _Pragma("GCC unroll 8") for (int i = 0; i < 2; i++) v[i] =                                     \
        take(_mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0x88),                                   \
             _mm512_shuffle_f32x4(u[2 * i], u[2 * i + 1], 0xdd));                                  \
    return take(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd))
static inline lanes lanes_least(const lanes a[16]) {
    LANES_REDUCE(a, _mm512_min_ps);
}
static inline lanes lanes_most(const lanes a[16]) {
    LANES_REDUCE(a, _mm512_max_ps);
}
static inline void lanes_store_low_bytes(int8_t destination[16], lanes a) {
    _mm_storeu_si128((__m128i *)(void *)destination, _mm512_cvtepi32_epi8(_mm512_castps_si512(a)));
}

static inline struct pair pair_load_f32(const unsigned char *source) {
    const __m512 low = _mm512_loadu_ps(source), high = _mm512_loadu_ps(source + 64);
    const __m512i even =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const __m512i odd = _mm512_add_epi32(even, _mm512_set1_epi32(1));
    return (struct pair){_mm512_permutex2var_ps(low, even, high),
                         _mm512_permutex2var_ps(low, odd, high)};
}
static inline struct pair pair_load_f16(const unsigned char *source) {
    const __m512i halves = _mm512_loadu_si512(source);
    return (struct pair){_mm512_cvtph_ps(_mm512_cvtepi32_epi16(halves)),
                         _mm512_cvtph_ps(_mm512_cvtepi32_epi16(_mm512_srli_epi32(halves, 16)))};
}
static inline struct pair pair_load_bf16(const unsigned char *source) {
    const __m512i halves = _mm512_loadu_si512(source);
    const __m512i high = _mm512_set1_epi32((int)0xffff0000);
    return (struct pair){_mm512_castsi512_ps(_mm512_slli_epi32(halves, 16)),
                         _mm512_castsi512_ps(_mm512_and_si512(halves, high))};
}

/* One unit: level + 8 in 16 bits each, in the order of the columns. */
static inline __m512i level_words(lanes even, lanes odd) {
    return _mm512_mask_blend_epi16(0xaaaaaaaa, _mm512_castps_si512(even),
                                   _mm512_slli_epi32(_mm512_castps_si512(odd), 16));
}
/* Two units to a byte for two columns, 16 bits each; packing to bytes clamps to 0, the minimum to
 * 15. */
static inline __m512i level_pairs(const lanes levels[4]) {
    const __m512i bytes =
        _mm512_packus_epi16(level_words(levels[0], levels[1]), level_words(levels[2], levels[3]));
    return _mm512_maddubs_epi16(_mm512_min_epu8(bytes, _mm512_set1_epi8(15)),
                                _mm512_set1_epi16(0x0110));
}
static inline void lanes_store_levels(uint8_t packed[64], const lanes levels[8]) {
    /* The packing instructions leave dword 4 q + unit in place of 4 unit + q. */
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    const __m512i bytes = _mm512_permutexvar_epi32(
        order, _mm512_packus_epi16(level_pairs(levels), level_pairs(levels + 4)));
    /* Past the caches: nobody reads them soon, and the line need not be read first. */
    const __m512i nibbles = _mm512_xor_si512(bytes, _mm512_set1_epi8((char)0x88));
    if ((uintptr_t)packed % 64 == 0)
        _mm512_stream_si512((__m512i *)(void *)packed, nibbles);
    else
        _mm512_storeu_si512(packed, nibbles);
}

#include "kernels/quantize_body.h"

const struct quantize_functions quantize_avx512 = QUANTIZE_FUNCTIONS;
