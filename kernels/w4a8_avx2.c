/* pmaddubsw adds two products of an unsigned and a signed byte in 16 bits, clamped. 4-bit levels as
 * 0 .. 15 keep eight such sums (8 * 2 * 15 * 127 = 30480) exact before they are widened; 8-bit ones
 * are multiplied as |w| and x with w's sign, which never reaches the clamp (2 * 128 * 127 = 32512).
 */
#include <immintrin.h>

enum { COLUMNS = 16, VECTORS = 2, ROWS = 4, SPAN = 8, UNIT = COLUMNS * 4, NIBBLE_SIGN = 0 };

#include "kernels/w4a8_body.h"

enum { QUAD_BYTES = COLUMNS * 4, CHAIN = 8 };

static inline __m256i load(const void *p) {
    return _mm256_loadu_si256(p);
}

static inline __m256i broadcast4(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm256_set1_epi32(four);
}

static inline __attribute__((always_inline)) void clear(__m256i total[ROWS][VECTORS]) {
#pragma GCC unroll 4
    for (int row = 0; row < ROWS; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            total[row][v] = _mm256_setzero_si256();
}

/* Keeps the sums in registers: reordering the long unrolled loop, the compiler runs out of them. */
static inline __attribute__((always_inline)) void keep_in_registers(__m256i sums[ROWS][VECTORS]) {
    __asm__ volatile(""
                     : "+x"(sums[0][0]), "+x"(sums[0][1]), "+x"(sums[1][0]), "+x"(sums[1][1]),
                       "+x"(sums[2][0]), "+x"(sums[2][1]), "+x"(sums[3][0]), "+x"(sums[3][1]));
}

/* total = the sums of `quads` quads of k, at most CHAIN. Callers name a whole chain by the
 * constant, so that its loop is unrolled whole. */
static inline __attribute__((always_inline)) void sum_quads4(const int rows,
                                                             __m256i total[ROWS][VECTORS],
                                                             const uint8_t *w, const int8_t *x,
                                                             const int64_t quads) {
    clear(total);
#pragma GCC unroll 8
    for (int64_t quad = 0; quad < quads; quad++) {
        const __m256i left = load(w + quad * QUAD_BYTES), right = load(w + quad * QUAD_BYTES + 32);
#pragma GCC unroll 4
        for (int row = 0; row < rows; row++) {
            const __m256i four = broadcast4(x + (quad * rows + row) * 4);
            total[row][0] = _mm256_add_epi16(total[row][0], _mm256_maddubs_epi16(left, four));
            total[row][1] = _mm256_add_epi16(total[row][1], _mm256_maddubs_epi16(right, four));
        }
        if (rows == ROWS)
            keep_in_registers(total);
    }
#pragma GCC unroll 4
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            total[row][v] = _mm256_madd_epi16(total[row][v], _mm256_set1_epi16(1));
}

/* The sums of four products of levels of 8 bits and x. */
static inline __m256i product8(__m256i level, __m256i four) {
    return _mm256_madd_epi16(
        _mm256_maddubs_epi16(_mm256_abs_epi8(level), _mm256_sign_epi8(four, level)),
        _mm256_set1_epi16(1));
}

static inline __attribute__((always_inline)) void sum_quads8(const int rows,
                                                             __m256i total[ROWS][VECTORS],
                                                             const uint8_t *w, const int8_t *x,
                                                             int64_t quads) {
    clear(total);
    for (int64_t quad = 0; quad < quads; quad++, w += QUAD_BYTES, x += rows * 4) {
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++) {
            const __m256i level = load(w + 32 * v);
#pragma GCC unroll 4
            for (int row = 0; row < rows; row++)
                total[row][v] =
                    _mm256_add_epi32(total[row][v], product8(level, broadcast4(x + 4 * row)));
        }
    }
}

/* The scales and zero points of a group's columns. Without zero points z is the same for all. */
struct grid {
    __m256 scale[VECTORS];
    __m256i z[VECTORS];
};

static inline __attribute__((always_inline)) struct grid
read_grid(const char *grid, bool has_zero_points, int32_t zero_point) {
    struct grid read;
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        const char *zero_points = grid + COLUMNS * 4 + 8 * v;
        read.scale[v] = _mm256_loadu_ps((const float *)(const void *)grid + 8 * v);
        read.z[v] =
            has_zero_points
                ? _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)(const void *)zero_points))
                : _mm256_set1_epi32(zero_point);
    }
    return read;
}

/* A row's sums of a group: sum += scale * (total - z * x_sum). */
static inline __attribute__((always_inline)) void
close_row(float *sum, const __m256i total[VECTORS], const struct grid *grid, int32_t x_sum) {
#pragma GCC unroll 2
    for (int v = 0; v < VECTORS; v++) {
        const __m256i offset = _mm256_mullo_epi32(grid->z[v], _mm256_set1_epi32(x_sum));
        const __m256 value = _mm256_cvtepi32_ps(_mm256_sub_epi32(total[v], offset));
        _mm256_storeu_ps(sum + 8 * v,
                         _mm256_fmadd_ps(grid->scale[v], value, _mm256_loadu_ps(sum + 8 * v)));
    }
}

/* Between the chains of a group, as between the blocks that are parts of one, its sums lie in
 * memory: all registers are the chain's. */
static inline __attribute__((always_inline)) void
add_carry(const int rows, __m256i total[ROWS][VECTORS], const int32_t *carry) {
#pragma GCC unroll 4
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            total[row][v] = _mm256_add_epi32(total[row][v], load(carry + row * COLUMNS + 8 * v));
}

static inline __attribute__((always_inline)) void
keep_carry(const int rows, __m256i total[ROWS][VECTORS], int32_t *carry) {
#pragma GCC unroll 4
    for (int row = 0; row < rows; row++)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            _mm256_storeu_si256((__m256i *)(void *)(carry + row * COLUMNS + 8 * v), total[row][v]);
}

/* The rows' sums of a group. */
static inline __attribute__((always_inline)) void
close_group(const int rows, __m256i total[ROWS][VECTORS], const struct w4a8_block *block,
            const char *grid, const int32_t *x_sums, float *sum) {
    const struct grid read = read_grid(grid, block->has_zero_points, block->zero_point);
#pragma GCC unroll 4
    for (int row = 0; row < rows; row++)
        close_row(sum + row * COLUMNS, total[row], &read, x_sums[row]);
}

static inline __attribute__((always_inline)) void multiply(const int bits, const int rows,
                                                           const struct w4a8_block *block,
                                                           const int8_t *x, const int32_t *x_sums,
                                                           float *sum, int32_t *carry) {
    const int64_t quads = block->count / 4;
    int32_t tile[ROWS * COLUMNS]; /* stays in the nearest cache */
    if (block->opens && block->closes)
        carry = tile;
    for (int64_t group = 0; group < block->groups; group++, x_sums += rows) {
        const uint8_t *w = block->weights + group * block->weight_stride;
        const char *grid = block->grid + group * block->grid_stride;
        for (int64_t done = 0, here; done < quads; done += here) {
            __m256i total[ROWS][VECTORS];
            here = quads - done;
            if (bits == 8) {
                sum_quads8(rows, total, w, x, here);
            } else if (here >= CHAIN) {
                here = CHAIN;
                sum_quads4(rows, total, w, x, CHAIN);
            } else {
                sum_quads4(rows, total, w, x, here);
            }
            w += here * QUAD_BYTES;
            x += here * rows * 4;
            if (done || !block->opens)
                add_carry(rows, total, carry);
            if (done + here == quads && block->closes)
                close_group(rows, total, block, grid, x_sums, sum);
            else
                keep_carry(rows, total, carry);
        }
    }
}

/* total += `spans` spans (of 8 k; nibbles: at most a chain's) of a panel where it lies, times x. */
static inline __attribute__((always_inline)) void add_spans(const int bits, __m256i total[VECTORS],
                                                            const uint8_t *w, const int8_t *x,
                                                            const int64_t spans) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    __m256i chain[VECTORS] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 4
    for (int64_t span = 0; span < spans; span++) {
        const __m256i first = broadcast4(x + span * SPAN), second = broadcast4(x + span * SPAN + 4);
        const uint8_t *at = w + span * UNIT * bits / 4;
        for (int line = 0; line < UNIT * bits / 4; line += 64)
            __builtin_prefetch(at + W4A8_STREAM_AHEAD + line, 0, 2);
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++, at += 32) {
            if (bits == 8) {
                total[v] = _mm256_add_epi32(total[v], product8(load(at), first));
                total[v] = _mm256_add_epi32(total[v], product8(load(at + QUAD_BYTES), second));
                continue;
            }
            const __m256i both = load(at), left = _mm256_and_si256(both, low),
                          right = _mm256_and_si256(_mm256_srli_epi16(both, 4), low);
            chain[v] = _mm256_add_epi16(chain[v], _mm256_maddubs_epi16(left, first));
            chain[v] = _mm256_add_epi16(chain[v], _mm256_maddubs_epi16(right, second));
        }
    }
    if (bits == 4)
#pragma GCC unroll 2
        for (int v = 0; v < VECTORS; v++)
            total[v] = _mm256_add_epi32(total[v], _mm256_madd_epi16(chain[v], ones));
}

static inline __attribute__((always_inline)) void
multiply_streams(const int bits, const struct w4a8_streams *streams) {
    enum { MOST = CHAIN * 4 / SPAN };
    const int8_t *x = streams->x;
    memset(streams->sums, 0, W4A8_STREAMS * COLUMNS * sizeof *streams->sums);
    for (int64_t group = 0; group < streams->groups; group++) {
        const int64_t count = group + 1 < streams->groups ? streams->count : streams->last_count;
        const int64_t spans = count / SPAN, levels = count * COLUMNS * bits / 8;
        __m256i total[W4A8_STREAMS][VECTORS];
        memset(total, 0, sizeof total);
        for (int64_t span = 0; span < spans; span += MOST)
#pragma GCC unroll 4
            for (int s = 0; s < W4A8_STREAMS; s++) {
                const uint8_t *w =
                    streams->panels[s] + group * streams->record_bytes + span * UNIT * bits / 4;
                if (spans - span >= MOST)
                    add_spans(bits, total[s], w, x + span * SPAN, MOST);
                else
                    add_spans(bits, total[s], w, x + span * SPAN, spans - span);
            }
#pragma GCC unroll 4
        for (int s = 0; s < W4A8_STREAMS; s++) {
            const uint8_t *record = streams->panels[s] + group * streams->record_bytes;
            const struct grid grid = read_grid((const char *)record + levels,
                                               streams->has_zero_points, streams->zero_point);
            close_row(streams->sums + s * COLUMNS, total[s], &grid, streams->x_sums[group]);
        }
        x += count;
    }
}

static void multiply_streams4(const struct w4a8_streams *streams) {
    multiply_streams(4, streams);
}

static void multiply_streams8(const struct w4a8_streams *streams) {
    multiply_streams(8, streams);
}

#define MULTIPLY(bits, rows)                                                                       \
    static void multiply##bits##_##rows(const struct w4a8_block *block, const int8_t *x,           \
                                        const int32_t *x_sums, float *sum, int32_t *carry) {       \
        multiply(bits, rows, block, x, x_sums, sum, carry);                                        \
    }
MULTIPLY(4, 1)
MULTIPLY(4, 2)
MULTIPLY(4, 3)
MULTIPLY(4, 4)
MULTIPLY(8, 1)
MULTIPLY(8, 2)
MULTIPLY(8, 3)
MULTIPLY(8, 4)

static void multiply_rows4(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    static multiply_tile *const by_rows[ROWS] = {multiply4_1, multiply4_2, multiply4_3,
                                                 multiply4_4};
    multiply_tiles(block, rows, by_rows);
}

static void multiply_rows8(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    static multiply_tile *const by_rows[ROWS] = {multiply8_1, multiply8_2, multiply8_3,
                                                 multiply8_4};
    multiply_tiles(block, rows, by_rows);
}

const struct w4a8_kernel w4a8_avx2 = {
    .columns = COLUMNS,
    .lane_columns = COLUMNS,
    .span = SPAN,
    .tile_rows = ROWS,
    .row_multiple = 1,
    .x_span = 4,
    .bias4 = 8,
    .multiply = {multiply_rows4, multiply_rows8},
    .multiply_streams = {multiply_streams4, multiply_streams8},
    W4A8_BODY_FUNCTIONS,
};
