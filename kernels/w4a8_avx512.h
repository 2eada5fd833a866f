/* What the AVX-512 kernels of kernels/w4a8 have in common. Included before w4a8_body.h; X_SPAN is
 * the k of a span of X, 4 or 64. */
#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>

#include "kernels/vector_avx512.h"

/* 16 columns' bytes, each for its four k. */
static inline __m512i spread_columns(const uint8_t *bytes) {
    return _mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((const void *)bytes)),
                              _mm512_set1_epi32(0x01010101));
}

#define OWN_QUANTIZE
/* 16 numbers as int32. The magnitude is limited as an integer: it orders like |x|, NaN at the top.
 */
static inline __attribute__((always_inline)) __m512i
quantize_16(const float *x, const float *multiplier, __m512 reciprocal, __mmask16 present) {
    const __m512i magnitude_bits = _mm512_set1_epi32(0x7fffffff);
    __m512 value = _mm512_maskz_loadu_ps(present, x);
    if (multiplier != NULL)
        value = _mm512_mul_ps(value, _mm512_maskz_loadu_ps(present, multiplier));
    const __m512i bits = _mm512_castps_si512(_mm512_mul_ps(value, reciprocal));
    const __m512i magnitude = _mm512_min_epu32(_mm512_and_si512(bits, magnitude_bits),
                                               _mm512_castps_si512(_mm512_set1_ps(127.0f)));
    enum { MAGNITUDE_OR_SIGN = 0xe4 }; /* magnitude_bits ? magnitude : bits; clang: no variable */
    return _mm512_cvtps_epi32(_mm512_castsi512_ps(
        _mm512_ternarylogic_epi32(magnitude, bits, magnitude_bits, MAGNITUDE_OR_SIGN)));
}

/* 64 numbers as int8; dword 4 q + part has numbers 16 part + 4 q and the three after it. */
static inline __attribute__((always_inline)) __m512i
quantize_64(const float *x, const float *multiplier, __m512 reciprocal, int64_t count) {
    __m512i part[4];
    UNROLL
    for (int i = 0; i < 4; i++)
        part[i] = quantize_16(x + 16 * i, multiplier == NULL ? NULL : multiplier + 16 * i,
                              reciprocal, vector_mask16(count - 16 * i));
    return _mm512_packs_epi16(_mm512_packs_epi32(part[0], part[1]),
                              _mm512_packs_epi32(part[2], part[3]));
}

static inline __attribute__((always_inline)) int32_t
quantize_spans(int8_t *spans, int64_t stride, const float *x, const float *multiplier,
               float reciprocal, int64_t count, int64_t filled) {
    const __m512 factor = _mm512_set1_ps(reciprocal);
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15);
    __m512i sums = _mm512_setzero_si512();
    for (int64_t k = 0; k < filled; k += 64) {
        const __m512i values = _mm512_permutexvar_epi32(
            order, count - k >= 64
                       ? quantize_64(x + k, multiplier == NULL ? NULL : multiplier + k, factor, 64)
                       : quantize_64(x + k, multiplier == NULL ? NULL : multiplier + k, factor,
                                     count - k));
        sums = _mm512_dpbusd_epi32(sums, _mm512_set1_epi8(1), values);
        if (X_SPAN == 64) {
            _mm512_storeu_si512(spans, values);
            spans += stride;
            continue;
        }
        int32_t quads[16];
        _mm512_storeu_si512(quads, values);
        for (int64_t i = 0; i < 16 && k + 4 * i < filled; i++, spans += stride)
            memcpy(spans, &quads[i], sizeof quads[i]);
    }
    return _mm512_reduce_add_epi32(sums);
}

static int32_t quantize(int8_t *spans, int64_t stride, const float *x, const float *multiplier,
                        float reciprocal, int64_t count, int64_t filled) {
    return multiplier == NULL
               ? quantize_spans(spans, stride, x, NULL, reciprocal, count, filled)
               : quantize_spans(spans, stride, x, multiplier, reciprocal, count, filled);
}

#define OWN_FINISH
static void finish(float *y, const float *sum, float scale, const float *bias, int64_t count,
                   bool stream) {
    const __m512 factor = _mm512_set1_ps(scale);
    for (int64_t n = 0; n < count; n += 16) {
        const __mmask16 present = vector_mask16(count - n);
        __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(present, sum + n), factor);
        if (bias != NULL)
            value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(present, bias + n));
        if (stream && present == 0xffff && (uintptr_t)(y + n) % 64 == 0)
            _mm512_stream_ps(y + n, value);
        else
            _mm512_mask_storeu_ps(y + n, present, value);
    }
}
