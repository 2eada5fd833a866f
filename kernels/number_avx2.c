#include <immintrin.h>

#include "kernels/number_avx2.h"

enum { VECTOR = 8 };

void number_widen_avx2(float *destination, const uint16_t *source, enum number_type type,
                       size_t count) {
    size_t i = 0;
    for (; i + VECTOR <= count; i += VECTOR) {
        const __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)(source + i));
        const __m256 value =
            type == NUMBER_F16
                ? _mm256_cvtph_ps(bits)
                : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
        _mm256_storeu_ps(destination + i, value);
    }
    for (; i < count; i++)
        destination[i] =
            type == NUMBER_F16 ? number_from_f16(source[i]) : number_from_bf16(source[i]);
}

/* number_to_bf16, in the low halves of 8 lanes. */
static inline __m256i round_to_bf16(__m256 value) {
    const __m256i x = _mm256_castps_si256(value), high = _mm256_srli_epi32(x, 16);
    const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(x, half), 16);
    const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
    const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(value, value, _CMP_UNORD_Q));
    return _mm256_blendv_epi8(rounded, quiet, is_nan);
}

void number_narrow_avx2(uint16_t *destination, const float *source, enum number_type type,
                        size_t count) {
    size_t i = 0;
    for (; i + VECTOR <= count; i += VECTOR) {
        const __m256 value = _mm256_loadu_ps(source + i);
        __m128i bits;
        if (type == NUMBER_F16) {
            bits = _mm256_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT);
        } else {
            const __m256i wide = round_to_bf16(value);
            bits =
                _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
        }
        _mm_storeu_si128((__m128i *)(void *)(destination + i), bits);
    }
    for (; i < count; i++)
        destination[i] = type == NUMBER_F16 ? number_to_f16(source[i]) : number_to_bf16(source[i]);
}
