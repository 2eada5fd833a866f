#include "kernels/matmul_kernel.h"
#include "kernels/unroll.h"
#include "kernels/vector_avx512.h"

enum {
    PANEL_ROWS = 48,
    VECTOR = 16,
    K_BLOCK = 256,
    PANEL_STRIDE = (K_BLOCK + VECTOR) * sizeof(float)
};
_Static_assert(PANEL_ROWS *PANEL_STRIDE <= MATMUL_PANEL_BYTES, "a panel fits the scratch");

/* Round to bf16 and widen again, as number_to_bf16 does. */
static inline __m512i round_to_bf16(__m512i x) {
    const __m512i one = _mm512_set1_epi32(1);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), one);
    const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
    const __m512i quiet = _mm512_or_si512(x, _mm512_set1_epi32(0x400000));
    const __mmask16 is_nan = _mm512_fpclass_ps_mask(_mm512_castsi512_ps(x), 0x81);
    const __m512i rounded = _mm512_mask_mov_epi32(_mm512_add_epi32(x, half), is_nan, quiet);
    return _mm512_and_si512(rounded, _mm512_set1_epi32((int)0xffff0000));
}

static void pack(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                 int64_t count, bool round, float *maxima) {
    const __mmask16 present = vector_mask16(rows);
    float *packed = tile;
    for (int64_t k = 0; k < count; k += VECTOR) {
        const __mmask16 wanted = vector_mask16(count - k);
        __m512i r[16], magnitude = _mm512_setzero_si512();
        UNROLL
        for (int m = 0; m < VECTOR; m++) {
            r[m] = _mm512_maskz_loadu_epi32(present >> m & 1 ? wanted : 0, x + m * stride + k);
            magnitude =
                _mm512_max_epu32(magnitude, _mm512_and_si512(r[m], _mm512_set1_epi32(0x7fffffff)));
            if (round)
                r[m] = round_to_bf16(r[m]);
        }
        if (maxima != NULL)
            vector_take_maxima(maxima + k, wanted, magnitude);
        vector_transpose16(r);
        UNROLL
        for (int i = 0; i < VECTOR; i++)
            if (wanted >> i & 1)
                _mm512_storeu_si512(packed + (k + i) * width, r[i]);
    }
}

static inline __m512 widen(const void *w, enum number_type type, __mmask16 wanted) {
    if (type == NUMBER_F32)
        return _mm512_maskz_loadu_ps(wanted, w);
    const __m256i bits = _mm256_maskz_loadu_epi16(wanted, w);
    if (type == NUMBER_F16)
        return _mm512_cvtph_ps(bits);
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}

static void load(void *panel_row, const void *w, enum number_type type, int64_t count,
                 enum matmul_part part) {
    (void)part;
    float *row = panel_row;
    const int64_t size = (int64_t)number_size(type);
    for (int64_t k = 0; k < count; k += VECTOR)
        _mm512_storeu_ps(row + k,
                         widen((const char *)w + k * size, type, vector_mask16(count - k)));
}

/* One chain of fused multiply-adds in ascending k for each of rows x vectors * 16 sums. */
static inline __attribute__((always_inline)) void multiply(const int rows, const int vectors,
                                                           const struct matmul_tile *tile) {
    const char *w = tile->w, *ahead = tile->ahead[0], *ahead_too = tile->ahead[1];
    const float *x = tile->x;
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
    for (int64_t k = 0; k < tile->count; k++) {
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead_too, 0, 2);
        ahead += tile->ahead_size;
        ahead_too += tile->ahead_size;
        __m512 column[4];
        UNROLL
        for (int v = 0; v < vectors; v++)
            column[v] = _mm512_loadu_ps(x + v * VECTOR);
        UNROLL
        for (int n = 0; n < rows; n++) {
            float value;
            memcpy(&value, w + n * w_stride, sizeof value);
            const __m512 weight = _mm512_set1_ps(value);
            UNROLL
            for (int v = 0; v < vectors; v++)
                total[n][v] = _mm512_fmadd_ps(weight, column[v], total[n][v]);
        }
        w += sizeof(float);
        x += vectors * VECTOR;
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

const struct matmul_kernel matmul_avx512 = {
    .element = NUMBER_F32,
    .direct = true,
    .width = 4 * VECTOR,
    .vector = VECTOR,
    .k_multiple = 1,
    .k_block = K_BLOCK,
    .panel_stride = PANEL_STRIDE,
    .panel_rows = PANEL_ROWS,
    .block_rows = 5 * PANEL_ROWS,
    .near_bytes = 1 << 20,
    .tile_rows = {12, 12, 6, 6},
    .ahead_rows = 2,
    .pack = pack,
    .load = load,
    .multiply = {multiply_1, multiply_2, multiply_3, multiply_4},
    .store = store,
};
