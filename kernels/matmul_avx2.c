#include <immintrin.h>

#include "kernels/matmul_kernel.h"
#include "kernels/unroll.h"

enum {
    PANEL_ROWS = 24,
    VECTOR = 8,
    K_BLOCK = 256,
    PANEL_STRIDE = (K_BLOCK + VECTOR) * sizeof(float),
    FETCH_K = 16 /* of f32 weights a cache line: fetched at once, since each k is short */
};
_Static_assert(PANEL_ROWS *PANEL_STRIDE <= MATMUL_PANEL_BYTES, "a panel fits the scratch");

/* The first `count` of 8 lanes; count may be beyond 0 .. 8. */
static inline __m256i mask8(int64_t count) {
    const int wanted = count >= 8 ? 8 : count <= 0 ? 0 : (int)count;
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(wanted), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

/* The first `count` lanes. A masked store takes many cycles on some processors. */
static inline void store8(float *to, __m256 value, int64_t count) {
    if (count >= VECTOR)
        _mm256_storeu_ps(to, value);
    else
        _mm256_maskstore_ps(to, mask8(count), value);
}

/* 8 x 8: row i, column j becomes row j, column i. */
static inline __attribute__((always_inline)) void transpose8(__m256 r[8]) {
    __m256 t[8];
    UNROLL
    for (int i = 0; i < 4; i++) {
        t[2 * i] = _mm256_unpacklo_ps(r[2 * i], r[2 * i + 1]);
        t[2 * i + 1] = _mm256_unpackhi_ps(r[2 * i], r[2 * i + 1]);
    }
    UNROLL
    for (int i = 0; i < 2; i++) {
        r[4 * i] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0x44);
        r[4 * i + 1] = _mm256_shuffle_ps(t[4 * i], t[4 * i + 2], 0xee);
        r[4 * i + 2] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0x44);
        r[4 * i + 3] = _mm256_shuffle_ps(t[4 * i + 1], t[4 * i + 3], 0xee);
    }
    UNROLL
    for (int j = 0; j < 4; j++) {
        const __m256 low = r[j], high = r[4 + j];
        r[j] = _mm256_permute2f128_ps(low, high, 0x20);
        r[4 + j] = _mm256_permute2f128_ps(low, high, 0x31);
    }
}

/* y (columns, rows; row stride) = x (rows, columns; row stride) transposed, at most 8 x 8. */
static inline __attribute__((always_inline)) void load8(__m256 r[8], const float *x, int64_t stride,
                                                        int64_t rows, int64_t columns) {
    const __m256i mask = mask8(columns);
    UNROLL
    for (int i = 0; i < VECTOR; i++)
        r[i] = i < rows ? _mm256_maskload_ps(x + i * stride, mask) : _mm256_setzero_ps();
}

static inline __m256 magnitude(__m256 x) {
    return _mm256_and_ps(x, _mm256_castsi256_ps(_mm256_set1_epi32(0x7fffffff)));
}

/* The larger of two magnitudes, as integers: like |x|, with NaN above infinity, so a NaN stays. */
static inline __m256 larger(__m256 a, __m256 b) {
    return _mm256_castsi256_ps(_mm256_max_epu32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}

/* Round to bf16 and widen again, as number_to_bf16 does. */
static inline __m256 round_to_bf16(__m256 value) {
    const __m256i x = _mm256_castps_si256(value);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
    const __m256i quiet = _mm256_or_si256(x, _mm256_set1_epi32(0x400000));
    const __m256 is_nan = _mm256_cmp_ps(value, value, _CMP_UNORD_Q);
    const __m256 rounded = _mm256_blendv_ps(_mm256_castsi256_ps(_mm256_add_epi32(x, half)),
                                            _mm256_castsi256_ps(quiet), is_nan);
    return _mm256_and_ps(rounded, _mm256_castsi256_ps(_mm256_set1_epi32((int)0xffff0000)));
}

static void pack(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                 int64_t count, bool round, float *maxima) {
    float *packed = tile;
    for (int64_t k = 0; k < count; k += VECTOR) {
        __m256 r[8];
        load8(r, x + k, stride, rows, count - k);
        if (maxima != NULL) {
            __m256 largest = magnitude(_mm256_maskload_ps(maxima + k, mask8(count - k)));
            UNROLL
            for (int m = 0; m < VECTOR; m++)
                largest = larger(largest, magnitude(r[m]));
            store8(maxima + k, largest, count - k);
        }
        transpose8(r);
        UNROLL
        for (int i = 0; i < VECTOR; i++)
            if (i < count - k)
                _mm256_storeu_ps(packed + (k + i) * width, round ? round_to_bf16(r[i]) : r[i]);
    }
}

static void load(void *panel_row, const void *w, enum number_type type, int64_t count,
                 enum matmul_part part) {
    (void)part;
    float *row = panel_row;
    const uint16_t *halves = w;
    if (type == NUMBER_F32) {
        memcpy(row, w, (size_t)count * sizeof *row);
        return;
    }
    int64_t k = 0;
    for (; k + VECTOR <= count; k += VECTOR) {
        const __m128i bits = _mm_loadu_si128((const __m128i *)(const void *)(halves + k));
        const __m256 value =
            type == NUMBER_F16
                ? _mm256_cvtph_ps(bits)
                : _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
        _mm256_storeu_ps(row + k, value);
    }
    for (; k < count; k++)
        row[k] = type == NUMBER_F16 ? number_from_f16(halves[k]) : number_from_bf16(halves[k]);
}

/* The products of one k: w is its first weight, x its vectors. */
static inline __attribute__((always_inline)) void add_products(const int rows, const int vectors,
                                                               __m256 total[12][2], const char *w,
                                                               int64_t w_stride, const float *x) {
    __m256 column[2];
    UNROLL
    for (int v = 0; v < vectors; v++)
        column[v] = _mm256_loadu_ps(x + v * VECTOR);
    UNROLL
    for (int n = 0; n < rows; n++) {
        float value;
        memcpy(&value, w + n * w_stride, sizeof value);
        const __m256 weight = _mm256_set1_ps(value);
        UNROLL
        for (int v = 0; v < vectors; v++)
            total[n][v] = _mm256_fmadd_ps(weight, column[v], total[n][v]);
    }
}

/* One chain of fused multiply-adds in ascending k for each of rows x vectors * 8 sums. */
static inline __attribute__((always_inline)) void multiply(const int rows, const int vectors,
                                                           const struct matmul_tile *tile) {
    const char *w = tile->w, *ahead = tile->ahead[0], *ahead_too = tile->ahead[1];
    const float *x = tile->x;
    const int64_t w_stride = tile->w_stride, width = vectors * VECTOR;
    const int64_t w_size = (int64_t)sizeof(float);
    __m256 total[12][2];
    UNROLL
    for (int n = 0; n < rows; n++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            total[n][v] = tile->first
                              ? _mm256_setzero_ps()
                              : _mm256_loadu_ps(tile->sum + n * MATMUL_SUM_STRIDE + v * VECTOR);
    }
    int64_t k = 0;
    for (; k + FETCH_K <= tile->count; k += FETCH_K) {
        __builtin_prefetch(ahead, 0, 2);
        __builtin_prefetch(ahead_too, 0, 2);
        ahead += FETCH_K * tile->ahead_size;
        ahead_too += FETCH_K * tile->ahead_size;
#pragma GCC unroll 8
        for (int i = 0; i < FETCH_K; i++, w += w_size, x += width)
            add_products(rows, vectors, total, w, w_stride, x);
    }
    for (; k < tile->count; k++, w += w_size, x += width)
        add_products(rows, vectors, total, w, w_stride, x);
    UNROLL
    for (int n = 0; n < rows; n++) {
        UNROLL
        for (int v = 0; v < vectors; v++)
            _mm256_storeu_ps(tile->sum + n * MATMUL_SUM_STRIDE + v * VECTOR, total[n][v]);
    }
}

#define MULTIPLY(rows, vectors)                                                                    \
    static void multiply_##vectors(const struct matmul_tile *tile) {                               \
        multiply(rows, vectors, tile);                                                             \
    }
MULTIPLY(12, 1)
MULTIPLY(6, 2)

static void store(float *y, int64_t y_stride, const float *sum, int64_t rows, int64_t columns,
                  bool far) {
    (void)far;
    for (int64_t m = 0; m < columns; m += VECTOR) {
        for (int64_t n = 0; n < rows; n += VECTOR) {
            __m256 r[8];
            load8(r, sum + n * MATMUL_SUM_STRIDE + m, MATMUL_SUM_STRIDE, rows - n, columns - m);
            transpose8(r);
            UNROLL
            for (int i = 0; i < VECTOR; i++)
                if (i < columns - m)
                    store8(y + (m + i) * y_stride + n, r[i], rows - n);
        }
    }
}

const struct matmul_kernel matmul_avx2 = {
    .element = NUMBER_F32,
    .direct = true,
    .width = 2 * VECTOR,
    .vector = VECTOR,
    .k_multiple = 1,
    .k_block = K_BLOCK,
    .panel_stride = PANEL_STRIDE,
    .panel_rows = PANEL_ROWS,
    .block_rows = 48,
    .far_block_rows = 192,
    .tile_rows = {12, 6},
    .ahead_rows = 2,
    .pack = pack,
    .load = load,
    .multiply = {multiply_1, multiply_2},
    .store = store,
};
