/* vpdpbusd: levels as unsigned bytes (q + 8, q - z + 15, q + 128), activations as the broadcast
 * signed ones. A group's sums start at -bias * sum x. */
#include <immintrin.h>

enum {
    COLUMNS = 48,
    VECTORS = 3,
    ROWS = 4,
    SPAN = 8,
    X_SPAN = 4,
    UNIT = COLUMNS * 4,
    NIBBLE_SIGN = 0
};

#define OWN_UNPACK
#include "kernels/w4a8_avx512.h"
#include "kernels/w4a8_body.h"

enum { QUAD_BYTES = COLUMNS * 4, SUBTRACTED_BIAS = 15 };

static void unpack(uint8_t *levels, const uint8_t *packed, int64_t bytes,
                   const uint8_t *zero_points) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512i subtrahend[VECTORS];
    UNROLL
    for (int v = 0; v < VECTORS; v++)
        subtrahend[v] = zero_points == NULL ? _mm512_setzero_si512()
                                            : _mm512_sub_epi8(spread_columns(zero_points + 16 * v),
                                                              _mm512_set1_epi8(SUBTRACTED_BIAS));
    for (; bytes > 0; bytes -= UNIT, packed += UNIT, levels += 2 * UNIT) {
        UNROLL
        for (int v = 0; v < VECTORS; v++) {
            const __m512i both = _mm512_loadu_si512(packed + 64 * v);
            const __m512i high = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
            _mm512_storeu_si512(levels + 64 * v,
                                _mm512_sub_epi8(_mm512_and_si512(both, low), subtrahend[v]));
            _mm512_storeu_si512(levels + UNIT + 64 * v, _mm512_sub_epi8(high, subtrahend[v]));
        }
    }
}

/* 64 numbers of each row, a dword of four beside those of the other rows. */
static inline __attribute__((always_inline)) void store_tile(int8_t *spans, const __m512i row[ROWS],
                                                             int64_t quads) {
    const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]),
                  low23 = _mm512_unpacklo_epi32(row[2], row[3]),
                  high01 = _mm512_unpackhi_epi32(row[0], row[1]),
                  high23 = _mm512_unpackhi_epi32(row[2], row[3]);
    const __m512i part[4] = {
        _mm512_unpacklo_epi64(low01, low23), _mm512_unpackhi_epi64(low01, low23),
        _mm512_unpacklo_epi64(high01, high23), _mm512_unpackhi_epi64(high01, high23)};
    UNROLL
    for (int i = 0; i < 4; i++) {
        const int64_t dwords = ROWS * (quads - 4 * i);
        _mm512_mask_storeu_epi32(spans + 64 * i, vector_mask16(dwords), part[i]);
    }
}

static inline __attribute__((always_inline)) void
quantize_tile_spans(int8_t *spans, const float *x, int64_t x_stride, const float *multiplier,
                    const float *reciprocals, int64_t count, int64_t quads, __m512i sums[ROWS]) {
    __m512i values[ROWS];
    UNROLL
    for (int row = 0; row < ROWS; row++) {
        values[row] =
            quantize_64(x + row * x_stride, multiplier, _mm512_set1_ps(reciprocals[row]), count);
        sums[row] = _mm512_dpbusd_epi32(sums[row], _mm512_set1_epi8(1), values[row]);
    }
    store_tile(spans, values, quads);
}

/* A quad of all rows is written at once, instead of 4 bytes in each of many lines. */
static inline __attribute__((always_inline)) void
quantize_rows(int8_t *spans, const float *x, int64_t x_stride, const float *multiplier,
              const float *reciprocals, int64_t count, int64_t filled, int32_t *row_sums) {
    __m512i sums[ROWS];
    UNROLL
    for (int row = 0; row < ROWS; row++)
        sums[row] = _mm512_setzero_si512();
    for (int64_t k = 0; k < filled; k += 64, spans += 64 * ROWS, x += 64) {
        const float *multipliers = multiplier == NULL ? NULL : multiplier + k;
        if (count - k >= 64)
            quantize_tile_spans(spans, x, x_stride, multipliers, reciprocals, 64, 16, sums);
        else
            quantize_tile_spans(spans, x, x_stride, multipliers, reciprocals, count - k,
                                (filled - k) / 4, sums);
    }
    UNROLL
    for (int row = 0; row < ROWS; row++)
        row_sums[row] += _mm512_reduce_add_epi32(sums[row]);
}

static void quantize_tile(int8_t *spans, const float *x, int64_t x_stride, const float *multiplier,
                          const float *reciprocals, int64_t count, int64_t filled, int32_t *sums) {
    if (multiplier == NULL)
        quantize_rows(spans, x, x_stride, NULL, reciprocals, count, filled, sums);
    else
        quantize_rows(spans, x, x_stride, multiplier, reciprocals, count, filled, sums);
}

static inline __m512i broadcast4(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

static inline __m512i zero_points_of(bool present, int32_t otherwise, const char *grid, int v) {
    if (!present)
        return _mm512_set1_epi32(-otherwise);
    const __m512i z = _mm512_cvtepi8_epi32(
        _mm_loadu_si128((const __m128i *)(const void *)(grid + COLUMNS * 4 + 16 * v)));
    return _mm512_sub_epi32(_mm512_setzero_si512(), z);
}

static inline __m512 scales_of(const char *grid, int v) {
    return _mm512_loadu_ps((const float *)(const void *)grid + 16 * v);
}

/* For each row of the tile, for each of its vectors. (Braces follow: the pragmas go with loops.) */
#define EACH_SUM                                                                                   \
    _Pragma("GCC unroll 4") for (int row = 0; row < rows; row++)                                   \
        _Pragma("GCC unroll 3") for (int v = 0; v < VECTORS; v++)

/* A row has one start for all columns. */
static inline __attribute__((always_inline)) void
open_sums(const int rows, __m512i total[ROWS][VECTORS], const struct w4a8_block *block,
          const int32_t *x_sums, const int32_t *carry) {
    if (block->opens)
        EACH_SUM {
            total[row][v] = _mm512_set1_epi32(-block->zero_point * x_sums[row]);
        }
    else
        EACH_SUM {
            total[row][v] = _mm512_loadu_si512(carry + row * COLUMNS + 16 * v);
        }
}

static inline __attribute__((always_inline)) void
add_quad(const int rows, __m512i total[ROWS][VECTORS], const uint8_t *w, const int8_t *x) {
    __m512i level[VECTORS];
#pragma GCC unroll 3
    for (int v = 0; v < VECTORS; v++)
        level[v] = _mm512_loadu_si512(w + 64 * v);
#pragma GCC unroll 4
    for (int row = 0; row < rows; row++) {
        const __m512i four = broadcast4(x + 4 * row);
#pragma GCC unroll 3
        for (int v = 0; v < VECTORS; v++)
            total[row][v] = _mm512_dpbusd_epi32(total[row][v], level[v], four);
    }
}

/* A tile's sums stay in registers from group to group. */
static inline __attribute__((always_inline)) void multiply(const int rows,
                                                           const struct w4a8_block *block,
                                                           const int8_t *x, const int32_t *x_sums,
                                                           float *sum, int32_t *carry) {
    const bool closes = block->closes; /* here, so that no store can change it */
    __m512 sums[ROWS][VECTORS];
    EACH_SUM {
        sums[row][v] = _mm512_loadu_ps(sum + row * COLUMNS + 16 * v);
    }
    for (int64_t group = 0; group < block->groups; group++) {
        const uint8_t *w = block->weights + group * block->weight_stride;
        const char *grid = block->grid + group * block->grid_stride;
        __m512i total[ROWS][VECTORS];
        open_sums(rows, total, block, x_sums + group * rows, carry);
        for (int64_t k = 0; k < block->count; k += SPAN) {
            add_quad(rows, total, w, x);
            add_quad(rows, total, w + QUAD_BYTES, x + rows * 4);
            w += 2 * QUAD_BYTES;
            x += 2 * rows * 4;
        }
        if (closes)
            EACH_SUM {
                sums[row][v] = _mm512_fmadd_ps(scales_of(grid, v),
                                               _mm512_cvtepi32_ps(total[row][v]), sums[row][v]);
            }
        else
            EACH_SUM {
                _mm512_storeu_si512(carry + row * COLUMNS + 16 * v, total[row][v]);
            }
    }
    if (closes)
        EACH_SUM {
            _mm512_storeu_ps(sum + row * COLUMNS + 16 * v, sums[row][v]);
        }
}

#define MULTIPLY(rows)                                                                             \
    static void multiply_##rows(const struct w4a8_block *block, const int8_t *x,                   \
                                const int32_t *x_sums, float *sum, int32_t *carry) {               \
        multiply(rows, block, x, x_sums, sum, carry);                                              \
    }
MULTIPLY(1)
MULTIPLY(2)
MULTIPLY(3)
MULTIPLY(4)

/* The levels of 8 k of one panel's vector, from nibbles or bytes, times 8 k of x. */
static inline __m512i add_span(const int bits, __m512i total, const uint8_t *w, const __m512i *x) {
    __m512i first, second;
    if (bits == 4) {
        const __m512i packed = _mm512_loadu_si512(w), low = _mm512_set1_epi8(15);
        first = _mm512_and_si512(packed, low);
        second = _mm512_and_si512(_mm512_srli_epi16(packed, 4), low);
    } else {
        first = _mm512_loadu_si512(w);
        second = _mm512_loadu_si512(w + QUAD_BYTES);
    }
    return _mm512_dpbusd_epi32(_mm512_dpbusd_epi32(total, first, x[0]), second, x[1]);
}

static inline __attribute__((always_inline)) void
multiply_streams(const int bits, const struct w4a8_streams *streams) {
    const int64_t span_bytes = QUAD_BYTES * bits / 4;
    const int8_t *x = streams->x;
    for (int i = 0; i < W4A8_STREAMS * COLUMNS; i++)
        streams->sums[i] = 0.0f;
    for (int64_t group = 0; group < streams->groups; group++) {
        const int64_t count = group + 1 < streams->groups ? streams->count : streams->last_count;
        const int64_t record = group * streams->record_bytes;
        __m512i total[W4A8_STREAMS][VECTORS];
        const uint8_t *w[W4A8_STREAMS];
#pragma GCC unroll 4
        for (int s = 0; s < W4A8_STREAMS; s++) {
            w[s] = streams->panels[s] + record;
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; v++)
                total[s][v] = _mm512_setzero_si512();
        }
        for (int64_t k = 0; k < count; k += SPAN, x += SPAN) {
            const __m512i eight[2] = {broadcast4(x), broadcast4(x + 4)};
#pragma GCC unroll 4
            for (int s = 0; s < W4A8_STREAMS; s++) {
#pragma GCC unroll 3
                for (int v = 0; v < VECTORS; v++) {
                    const uint8_t *line = w[s] + 64 * v;
                    if (bits == 4)
                        __builtin_prefetch(line + W4A8_STREAM_AHEAD, 0, 2);
                    total[s][v] = add_span(bits, total[s][v], line, eight);
                }
                w[s] += span_bytes;
            }
        }
        const __m512i x_sum = _mm512_set1_epi32(streams->x_sums[group]);
#pragma GCC unroll 4
        for (int s = 0; s < W4A8_STREAMS; s++) {
            const char *grid = (const char *)w[s];
#pragma GCC unroll 3
            for (int v = 0; v < VECTORS; v++) {
                float *sum = streams->sums + s * COLUMNS + 16 * v;
                const __m512i z =
                    zero_points_of(streams->has_zero_points, streams->zero_point, grid, v);
                const __m512i bracket = _mm512_add_epi32(total[s][v], _mm512_mullo_epi32(z, x_sum));
                _mm512_storeu_ps(sum,
                                 _mm512_fmadd_ps(scales_of(grid, v), _mm512_cvtepi32_ps(bracket),
                                                 _mm512_loadu_ps(sum)));
            }
        }
    }
}

static void multiply_streams4(const struct w4a8_streams *streams) {
    multiply_streams(4, streams);
}

static void multiply_streams8(const struct w4a8_streams *streams) {
    multiply_streams(8, streams);
}

static void multiply_rows(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    static multiply_tile *const by_rows[ROWS] = {multiply_1, multiply_2, multiply_3, multiply_4};
    multiply_tiles(block, rows, by_rows);
}

const struct w4a8_kernel w4a8_avx512_vnni = {
    .columns = COLUMNS,
    .lane_columns = COLUMNS,
    .span = SPAN,
    .tile_rows = ROWS,
    .row_multiple = 1,
    .x_span = 4,
    .bias4 = 8,
    .bias8 = 128,
    .subtracts = true,
    .subtracted_bias = SUBTRACTED_BIAS,
    .multiply = {multiply_rows, multiply_rows},
    .multiply_streams = {multiply_streams4, multiply_streams8},
    .quantize_tile = quantize_tile,
    .streams = true,
    W4A8_BODY_FUNCTIONS,
};
