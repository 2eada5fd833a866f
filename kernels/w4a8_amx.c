/* X is operand A, levels are operand B (signed), so that a group's scales are a vector over the
 * columns. Sums of a group leave the tiles into a ring in the nearest cache and are converted while
 * the tiles work on the next group. */
#include <immintrin.h>

enum { TILE = 16, COLUMNS = 32, ROWS = 32, SPAN = 64, UNIT = 8 * 64, NIBBLE_SIGN = 8 };

#include "kernels/tile_amx.h"
#include "kernels/w4a8_body.h"

enum { TILE_BYTES = 1024, SUM_BYTES = COLUMNS * 4 };

/* int32 sums (rows, COLUMNS) of one group on their way to f32. */
struct conversion {
    const int32_t *bracket;
    float *sum;
    const int32_t *x_sums;
    __m512 scales[2];
    __m512i zero_points[2]; /* -z and -z * W4A8_PAIR as int16 */
    bool has_zero_points;
};

static inline struct conversion begin_conversion(const struct w4a8_block *block, int64_t group,
                                                 const int32_t *bracket, float *sum,
                                                 const int32_t *x_sums) {
    const char *grid = block->grid + group * block->grid_stride;
    struct conversion c = {.bracket = bracket,
                           .sum = sum,
                           .x_sums = x_sums,
                           .has_zero_points = block->has_zero_points};
    for (int v = 0; v < 2; v++) {
        c.scales[v] = _mm512_loadu_ps((const float *)(const void *)grid + 16 * v);
        if (!c.has_zero_points)
            continue;
        const __m512i z =
            _mm512_sub_epi32(_mm512_setzero_si512(),
                             _mm512_cvtepi8_epi32(_mm_loadu_si128(
                                 (const __m128i *)(const void *)(grid + COLUMNS * 4 + 16 * v))));
        c.zero_points[v] = _mm512_mask_blend_epi16(
            0xaaaaaaaa, z,
            _mm512_slli_epi32(_mm512_mullo_epi32(z, _mm512_set1_epi32(W4A8_PAIR)), 16));
    }
    return c;
}

static inline __attribute__((always_inline)) void convert(const struct conversion *c, int begin,
                                                          int end) {
    for (int row = begin; row < end; row++) {
        const __m512i x_sum = _mm512_set1_epi32(c->has_zero_points ? c->x_sums[row] : 0);
#pragma GCC unroll 2
        for (int v = 0; v < 2; v++) {
            const int at = row * COLUMNS + 16 * v;
            __m512i bracket = _mm512_loadu_si512(c->bracket + at);
            if (c->has_zero_points)
                bracket = _mm512_dpwssd_epi32(bracket, c->zero_points[v], x_sum);
            _mm512_storeu_ps(c->sum + at, _mm512_fmadd_ps(c->scales[v], _mm512_cvtepi32_ps(bracket),
                                                          _mm512_loadu_ps(c->sum + at)));
        }
    }
}

#define DOT_INT8(sum, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

/* 32 rows of X: 2 x 2 tiles of sums in tmm0 .. tmm3. `done`: the group before, or NULL. */
static inline void multiply_group_2(const uint8_t *w, const int8_t *x, int64_t count,
                                    const int32_t *before, int32_t *after,
                                    const struct conversion *done) {
    int converted = 0;
    const int64_t blocks = count / SPAN;
    const int share = (int)((ROWS + 4 * blocks - 1) / (4 * blocks));
#define CONVERT_SHARE                                                                              \
    if (done != NULL && converted < ROWS) {                                                        \
        const int end = converted + share < ROWS ? converted + share : ROWS;                       \
        convert(done, converted, end);                                                             \
        converted = end;                                                                           \
    }
    if (before == NULL) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    } else {
        TILE_LOAD(0, before, SUM_BYTES);
        TILE_LOAD(1, before + TILE, SUM_BYTES);
        TILE_LOAD(2, before + TILE * COLUMNS, SUM_BYTES);
        TILE_LOAD(3, before + TILE * COLUMNS + TILE, SUM_BYTES);
    }
    for (int64_t block = 0; block < blocks; block++) {
        TILE_LOAD(4, x, 64);
        TILE_LOAD(6, w, 64);
        DOT_INT8(0, 4, 6);
        CONVERT_SHARE
        TILE_LOAD(7, w + TILE_BYTES, 64);
        DOT_INT8(1, 4, 7);
        CONVERT_SHARE
        TILE_LOAD(5, x + TILE_BYTES, 64);
        DOT_INT8(2, 5, 6);
        CONVERT_SHARE
        DOT_INT8(3, 5, 7);
        CONVERT_SHARE
        w += 2 * TILE_BYTES;
        x += 2 * TILE_BYTES;
    }
    TILE_STORE(0, after, SUM_BYTES);
    TILE_STORE(1, after + TILE, SUM_BYTES);
    TILE_STORE(2, after + TILE * COLUMNS, SUM_BYTES);
    TILE_STORE(3, after + TILE * COLUMNS + TILE, SUM_BYTES);
#undef CONVERT_SHARE
}

/* 16 rows of X. */
static inline void multiply_group_1(const uint8_t *w, const int8_t *x, int64_t count,
                                    const int32_t *before, int32_t *after) {
    if (before == NULL) {
        TILE_ZERO(0);
        TILE_ZERO(1);
    } else {
        TILE_LOAD(0, before, SUM_BYTES);
        TILE_LOAD(1, before + TILE, SUM_BYTES);
    }
    for (int64_t block = 0; block < count / SPAN; block++) {
        TILE_LOAD(4, x, 64);
        TILE_LOAD(6, w, 64);
        DOT_INT8(0, 4, 6);
        TILE_LOAD(7, w + TILE_BYTES, 64);
        DOT_INT8(1, 4, 7);
        w += 2 * TILE_BYTES;
        x += TILE_BYTES;
    }
    TILE_STORE(0, after, SUM_BYTES);
    TILE_STORE(1, after + TILE, SUM_BYTES);
}

static void multiply_2(const struct w4a8_block *block, const int8_t *x, const int32_t *x_sums,
                       float *sum, int32_t *carry) {
    if (!block->closes) {
        multiply_group_2(block->weights, x, block->count, block->opens ? NULL : carry, carry, NULL);
        return;
    }
    _Alignas(64) int32_t ring[2][ROWS * COLUMNS];
    struct conversion done;
    for (int64_t group = 0; group < block->groups; group++) {
        multiply_group_2(block->weights + group * block->weight_stride,
                         x + group * block->count * ROWS, block->count, block->opens ? NULL : carry,
                         ring[group % 2], group > 0 ? &done : NULL);
        done = begin_conversion(block, group, ring[group % 2], sum, x_sums + group * ROWS);
    }
    convert(&done, 0, ROWS);
}

static void multiply_1(const struct w4a8_block *block, const int8_t *x, const int32_t *x_sums,
                       float *sum, int32_t *carry) {
    _Alignas(64) int32_t bracket[TILE * COLUMNS];
    for (int64_t group = 0; group < block->groups; group++) {
        multiply_group_1(block->weights + group * block->weight_stride,
                         x + group * block->count * TILE, block->count, block->opens ? NULL : carry,
                         block->closes ? bracket : carry);
        if (!block->closes)
            return;
        const struct conversion done =
            begin_conversion(block, group, bracket, sum, x_sums + group * TILE);
        convert(&done, 0, TILE);
    }
}

const struct w4a8_kernel w4a8_amx = {
    .columns = COLUMNS,
    .lane_columns = TILE,
    .span = SPAN,
    .tile_rows = ROWS,
    .row_multiple = TILE,
    .x_span = SPAN,
    .paired_sums = true,
    .begin = tile_configure,
    .end = tile_release,
    .multiply4 = {multiply_1, multiply_2},
    .multiply8 = {multiply_1, multiply_2},
    W4A8_BODY_FUNCTIONS,
};
