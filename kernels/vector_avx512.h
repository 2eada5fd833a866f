/* Transposition in registers, for the AVX-512 paths' files. */
#ifndef FPTQ_KERNELS_VECTOR_AVX512_H
#define FPTQ_KERNELS_VECTOR_AVX512_H

#include <immintrin.h>
#include <stdbool.h>
#include <stdint.h>

#include "kernels/unroll.h"

/* The first `count` of 16 lanes; count may be beyond 0 .. 16. */
static inline __mmask16 vector_mask16(int64_t count) {
    return (__mmask16)(count >= 16 ? 0xffff : count <= 0 ? 0 : (1 << count) - 1);
}

/* 16 x 16 elements of 32 bits: row i, column j becomes row j, column i. */
static inline __attribute__((always_inline)) void vector_transpose16(__m512i r[16]) {
    __m512i t[16];
    UNROLL
    for (int i = 0; i < 8; i++) {
        t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 4; i++) {
        r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
        r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
        r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
    }
    /* r[4 g + j], lane group q: rows 4 g .. 4 g + 3 of column 4 q + j */
    UNROLL
    for (int j = 0; j < 4; j++) {
        t[j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0x88);
        t[4 + j] = _mm512_shuffle_i32x4(r[j], r[4 + j], 0xdd);
        t[8 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0x88);
        t[12 + j] = _mm512_shuffle_i32x4(r[8 + j], r[12 + j], 0xdd);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        r[j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0x88);
        r[8 + j] = _mm512_shuffle_i32x4(t[j], t[8 + j], 0xdd);
        r[4 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0x88);
        r[12 + j] = _mm512_shuffle_i32x4(t[4 + j], t[12 + j], 0xdd);
    }
}

/* y (columns, rows; row stride y_stride) = x (rows, columns; row stride x_stride) transposed.
 * stream: y's rows are 64-byte aligned; whole lines are to go past the caches. */
static inline void vector_transpose_f32(float *y, int64_t y_stride, const float *x,
                                        int64_t x_stride, int64_t rows, int64_t columns,
                                        bool stream) {
    for (int64_t j = 0; j < columns; j += 16) {
        const __mmask16 wanted = vector_mask16(columns - j);
        for (int64_t i = 0; i < rows; i += 16) {
            const __mmask16 present = vector_mask16(rows - i);
            __m512i r[16];
            UNROLL
            for (int n = 0; n < 16; n++)
                r[n] = _mm512_maskz_loadu_epi32(present >> n & 1 ? wanted : 0,
                                                x + (i + n) * x_stride + j);
            vector_transpose16(r);
            UNROLL
            for (int m = 0; m < 16; m++)
                if (!(wanted >> m & 1))
                    continue;
                else if (stream && present == 0xffff)
                    _mm512_stream_si512((void *)(y + (j + m) * y_stride + i), r[m]);
                else
                    _mm512_mask_storeu_epi32(y + (j + m) * y_stride + i, present, r[m]);
        }
    }
}

/* maxima[0 .. 15] = max(maxima, magnitude) as integers: like |x|, with NaN above infinity. */
static inline void vector_take_maxima(float *maxima, __mmask16 mask, __m512i magnitude) {
    const __m512i before =
        _mm512_and_si512(_mm512_maskz_loadu_epi32(mask, maxima), _mm512_set1_epi32(0x7fffffff));
    _mm512_mask_storeu_epi32(maxima, mask, _mm512_max_epu32(before, magnitude));
}

#endif
