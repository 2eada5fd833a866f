#include "kernels/matmul_kernel.h"
#include "kernels/unroll.h"
#include "kernels/vector_avx512.h"

enum {
    PANEL_ROWS = 24,
    LINE = 32,
    VECTOR = 16,
    PAIR = 2,
    K_BLOCK = 1024,
    PANEL_STRIDE = (K_BLOCK + 2 * VECTOR) * sizeof(uint16_t)
};
_Static_assert(PANEL_ROWS *PANEL_STRIDE <= MATMUL_PANEL_BYTES, "a panel fits the scratch");

/* 32 k of one row, the first `count` present, rounded to bf16: 16 pairs. */
static inline __m512i pack_pairs(const float *x, int64_t count, __m512i *magnitude) {
    const __m512i sign_off = _mm512_set1_epi32(0x7fffffff);
    const __m512 low = _mm512_maskz_loadu_ps(vector_mask16(count), x);
    const __m512 high = _mm512_maskz_loadu_ps(vector_mask16(count - VECTOR), x + VECTOR);
    magnitude[0] =
        _mm512_max_epu32(magnitude[0], _mm512_and_si512(_mm512_castps_si512(low), sign_off));
    magnitude[1] =
        _mm512_max_epu32(magnitude[1], _mm512_and_si512(_mm512_castps_si512(high), sign_off));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

void matmul_pack_bf16(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                      int64_t count, bool round, float *maxima) {
    (void)round;
    uint16_t *packed = tile;
    for (int64_t k = 0; k < count; k += PAIR * VECTOR) {
        __m512i r[16], magnitude[2] = {_mm512_setzero_si512(), _mm512_setzero_si512()};
        UNROLL
        for (int m = 0; m < VECTOR; m++)
            r[m] = pack_pairs(x + m * stride + k, m < rows ? count - k : 0, magnitude);
        if (maxima != NULL) {
            vector_take_maxima(maxima + k, vector_mask16(count - k), magnitude[0]);
            vector_take_maxima(maxima + k + VECTOR, vector_mask16(count - k - VECTOR),
                               magnitude[1]);
        }
        vector_transpose16(r);
        UNROLL
        for (int i = 0; i < VECTOR; i++)
            _mm512_storeu_si512(packed + (k + PAIR * i) * width, r[i]);
    }
}

/* 16 f16 numbers as bf16: the nearest one, or what that leaves (exactly a bf16 number too). */
static inline __m256i part_of_f16(__m256i halves, enum matmul_part part) {
    const __m512 value = _mm512_cvtph_ps(halves);
    const __m256i high = (__m256i)_mm512_cvtneps_pbh(value);
    if (part == MATMUL_HIGH)
        return high;
    const __m512 near = _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    const __mmask16 is_finite = _mm512_fpclass_ps_mask(value, 0x99) ^ 0xffff;
    return (__m256i)_mm512_cvtneps_pbh(_mm512_maskz_sub_ps(is_finite, value, near));
}

void matmul_load_bf16(void *panel_row, const void *w, enum number_type type, int64_t count,
                      enum matmul_part part) {
    uint16_t *row = panel_row;
    const uint16_t *halves = w;
    for (int64_t k = 0; k < count; k += 2 * VECTOR) {
        const __mmask16 low = vector_mask16(count - k), high = vector_mask16(count - k - VECTOR);
        if (type == NUMBER_BF16) {
            const __mmask32 wanted = (__mmask32)high << 16 | low;
            _mm512_storeu_si512(row + k, _mm512_maskz_loadu_epi16(wanted, halves + k));
        } else {
            for (int i = 0; i < 2; i++) {
                const int64_t at = k + i * VECTOR;
                const __m256i f16 = _mm256_maskz_loadu_epi16(i == 0 ? low : high, halves + at);
                _mm256_storeu_si256((__m256i *)(void *)(row + at), part_of_f16(f16, part));
            }
        }
    }
}

/* One chain of dot instructions, a pair of k each, for each of rows x vectors * 16 sums. */
static inline __attribute__((always_inline)) void multiply(const int rows, const int vectors,
                                                           const struct matmul_tile *tile) {
    const char *w = tile->w, *ahead = tile->ahead[0], *ahead_too = tile->ahead[1];
    const uint16_t *x = tile->x;
    const int64_t w_stride = tile->w_stride;
    __m512 total[12][4];
    UNROLL
    for (int n = 0; n < rows; n++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            total[n][v] = tile->first
                              ? _mm512_setzero_ps()
                              : _mm512_loadu_ps(tile->sum + n * MATMUL_SUM_STRIDE + v * VECTOR);
    }
    for (int64_t k = 0; k < tile->count; k += PAIR) {
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead_too, 0, 2);
        ahead += PAIR * tile->ahead_size;
        ahead_too += PAIR * tile->ahead_size;
        __m512bh column[4];
        UNROLL
        for (int v = 0; v < vectors; v++)
            column[v] = (__m512bh)_mm512_loadu_si512(x + v * PAIR * VECTOR);
        UNROLL
        for (int n = 0; n < rows; n++) {
            int pair;
            memcpy(&pair, w + n * w_stride, sizeof pair);
            const __m512bh weight = (__m512bh)_mm512_set1_epi32(pair);
            UNROLL
            for (int v = 0; v < vectors; v++)
                total[n][v] = _mm512_dpbf16_ps(total[n][v], weight, column[v]);
        }
        w += PAIR * sizeof(uint16_t);
        x += vectors * PAIR * VECTOR;
    }
    UNROLL
    for (int n = 0; n < rows; n++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            _mm512_storeu_ps(tile->sum + n * MATMUL_SUM_STRIDE + v * VECTOR, total[n][v]);
    }
}

#define MULTIPLY(rows, vectors)                                                                    \
    static void multiply_##vectors(const struct matmul_tile *tile) {                               \
        multiply(rows, vectors, tile);                                                             \
    }
MULTIPLY(12, 1)
MULTIPLY(12, 2)
MULTIPLY(6, 3)
MULTIPLY(6, 4)

static void store(float *y, int64_t y_stride, const float *sum, int64_t rows, int64_t columns,
                  bool far) {
    (void)far;
    vector_transpose_f32(y, y_stride, sum, MATMUL_SUM_STRIDE, rows, columns, false);
}

const struct matmul_kernel matmul_avx512_bf16 = {
    .element = NUMBER_BF16,
    .direct = true,
    .width = 4 * VECTOR,
    .vector = VECTOR,
    .k_multiple = LINE,
    .k_block = K_BLOCK,
    .panel_stride = PANEL_STRIDE,
    .panel_rows = PANEL_ROWS,
    .block_rows = 48,
    .tile_rows = {12, 12, 6, 6},
    .ahead_rows = 2,
    .pack = matmul_pack_bf16,
    .load = matmul_load_bf16,
    .multiply = {multiply_1, multiply_2, multiply_3, multiply_4},
    .store = store,
};
