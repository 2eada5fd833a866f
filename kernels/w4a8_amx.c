/* X is operand A, levels are operand B (q - z, which fits a byte, so zero points cost nothing in
 * the product), so that a group's scales are a vector over the columns.
 *
 * A group's sums leave the tiles for a ring in the nearest cache just before the tiles are cleared
 * for the group after the next; they are converted to f32 while the tiles work on later groups: the
 * two kinds of work share the load ports and one of the two vector units. What bounds the rate is
 * therefore the number of vectors loaded and stored for a tile product: some groups are converted
 * at once, so that the f32 sums are loaded and stored once for all of them. X passes by the nearest
 * cache, whose room the levels and the ring need. */
#include <immintrin.h>

enum { TILE = 16, COLUMNS = 32, ROWS = 32, SPAN = 64, X_SPAN = 64, UNIT = 8 * 64, NIBBLE_SIGN = 0 };

#define OWN_UNPACK
#define OWN_ROWS
#include "kernels/tile_amx.h"
#include "kernels/unroll.h"
#include "kernels/w4a8_avx512.h"
#include "kernels/w4a8_body.h"

#define INLINE static inline __attribute__((always_inline))

enum { TILE_BYTES = 1024, BLOCK_BYTES = 2 * TILE_BYTES }; /* a block: 64 k of all rows, columns */
enum { TILE_SUMS = TILE * TILE, GROUP_SUMS = ROWS * COLUMNS };
enum { MOST_AT_ONCE = 2, LEVEL_BIAS = 8, BYTE_BIAS = 128 };

/* ---- Levels ---- */

static void unpack(uint8_t *levels, const uint8_t *packed, int64_t bytes,
                   const uint8_t *zero_points) {
    const __m512i low = _mm512_set1_epi8(15);
    for (int lane = 0; lane < COLUMNS / TILE; lane++) {
        const __m512i zero = zero_points == NULL ? _mm512_set1_epi8(LEVEL_BIAS)
                                                 : spread_columns(zero_points + TILE * lane);
        for (int64_t at = lane * UNIT; at < bytes; at += 2 * UNIT) {
            UNROLL
            for (int i = 0; i < UNIT; i += 64) {
                const __m512i both = _mm512_loadu_si512(packed + at + i);
                const __m512i first = _mm512_and_si512(both, low);
                const __m512i second = _mm512_and_si512(_mm512_srli_epi16(both, 4), low);
                _mm512_storeu_si512(levels + 2 * at + i, _mm512_sub_epi8(first, zero));
                _mm512_storeu_si512(levels + 2 * at + UNIT + i, _mm512_sub_epi8(second, zero));
            }
        }
    }
}

/* ---- Conversion ---- */

/* int32 sums of some groups, [group][tile], on their way to f32. */
struct pending {
    const int32_t *brackets;
    float *sums; /* (ROWS, COLUMNS) */
    const char *scales;
    int64_t scales_stride; /* bytes */
    int row;               /* the first that is not converted */
};

struct scales {
    __m512 of[MOST_AT_ONCE][2];
};

INLINE struct scales load_scales(const struct pending *pending, const int groups) {
    struct scales scales;
    UNROLL
    for (int group = 0; group < groups; group++) {
        const char *at = pending->scales + group * pending->scales_stride;
        scales.of[group][0] = _mm512_loadu_ps(at);
        scales.of[group][1] = _mm512_loadu_ps(at + 64);
    }
    return scales;
}

/* At most `rows` more rows. */
INLINE void convert(struct pending *pending, const struct scales *scales, const int groups,
                    int rows) {
    const int end = pending->row + rows < ROWS ? pending->row + rows : ROWS;
    for (; pending->row < end; pending->row++) {
        float *at = pending->sums + pending->row * COLUMNS;
        const int32_t *bracket =
            pending->brackets + pending->row / TILE * 2 * TILE_SUMS + pending->row % TILE * TILE;
        UNROLL
        for (int v = 0; v < 2; v++) {
            __m512 sum = _mm512_loadu_ps(at + 16 * v);
            UNROLL
            for (int group = 0; group < groups; group++)
                sum = _mm512_fmadd_ps(scales->of[group][v],
                                      _mm512_cvtepi32_ps(_mm512_loadu_si512(
                                          bracket + group * GROUP_SUMS + v * TILE_SUMS)),
                                      sum);
            _mm512_storeu_ps(at + 16 * v, sum);
        }
    }
}

/* ---- Products ---- */

#define DOT_INT8(sum, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

/* Lines to be fetched, a few with each block. */
struct ahead {
    const char *at[2];
    int64_t lines[2]; /* with a block */
};

INLINE void fetch_ahead(struct ahead *ahead) {
    for (int i = 0; i < 2; i++)
        for (int64_t line = 0; line < ahead->lines[i]; line++, ahead->at[i] += 64)
            w4a8_fetch(ahead->at[i]);
}

/* Sums of the group before leave a tile just before it is cleared. */
#define REOPEN(tile)                                                                               \
    if (opens) {                                                                                   \
        TILE_STORE(tile, brackets + (tile)*TILE_SUMS, 64);                                         \
        TILE_ZERO(tile);                                                                           \
    }

/* 64 k of a panel and of 32 rows of X: 2 x 2 tiles of sums in tmm0 .. tmm3. `share` rows of what
 * is pending are converted beside each tile product. */
INLINE void multiply_block(const uint8_t *w, const int8_t *x, const bool opens, int32_t *brackets,
                           struct pending *pending, const int groups, int share) {
    const struct scales scales = load_scales(pending, groups);
    TILE_LOAD_STREAM(4, x, 64);
    TILE_LOAD(6, w, 64);
    REOPEN(0)
    DOT_INT8(0, 4, 6);
    convert(pending, &scales, groups, share);
    TILE_LOAD(7, w + TILE_BYTES, 64);
    REOPEN(1)
    DOT_INT8(1, 4, 7);
    convert(pending, &scales, groups, share);
    TILE_LOAD_STREAM(5, x + TILE_BYTES, 64);
    REOPEN(2)
    DOT_INT8(2, 5, 6);
    convert(pending, &scales, groups, share);
    REOPEN(3)
    DOT_INT8(3, 5, 7);
    convert(pending, &scales, groups, share);
}

INLINE void store_tiles(int32_t *brackets) {
    TILE_STORE(0, brackets, 64);
    TILE_STORE(1, brackets + TILE_SUMS, 64);
    TILE_STORE(2, brackets + 2 * TILE_SUMS, 64);
    TILE_STORE(3, brackets + 3 * TILE_SUMS, 64);
}

INLINE void finish_conversion(struct pending *pending, const int groups) {
    const struct scales scales = load_scales(pending, groups);
    convert(pending, &scales, groups, ROWS);
}

/* Rounds of `at_once` groups, from first_group on. The brackets of a round are all stored in the
 * first block of the next: its rows are converted from the second block on, up to the end of the
 * first block of the round after. */
INLINE void multiply_rounds(const struct w4a8_block *block, const struct w4a8_rows *rows,
                            int64_t first_group, struct ahead *ahead, const int at_once) {
    _Alignas(64) int32_t ring[2][MOST_AT_ONCE * GROUP_SUMS];
    const int64_t blocks = block->count / SPAN;
    const int share = (int)((ROWS + 4 * at_once * blocks - 1) / (4 * at_once * blocks));
    /* the round before and the one before that; none yet */
    struct pending last = {.scales = block->grid, .row = ROWS}, older = last;
    int32_t *brackets = ring[1];
    int half = 0;
    for (int64_t m = 0; m < rows->rows; m += ROWS) {
        const int8_t *x = rows->x + (m * block->groups + first_group * ROWS) * block->count;
        for (int64_t group = first_group; group + at_once <= block->groups; group += at_once) {
            UNROLL
            for (int i = 0; i < at_once; i++) {
                const uint8_t *w = block->weights + (group + i) * block->weight_stride;
                multiply_block(w, x, true, brackets, i == 0 ? &older : &last, at_once, share);
                fetch_ahead(ahead);
                for (int64_t j = 1; j < blocks; j++) {
                    multiply_block(w + j * BLOCK_BYTES, x + j * BLOCK_BYTES, false, NULL, &last,
                                   at_once, share);
                    fetch_ahead(ahead);
                }
                x += blocks * BLOCK_BYTES;
                brackets = ring[half] + i * GROUP_SUMS;
            }
            older = last;
            last = (struct pending){.brackets = ring[half],
                                    .sums = rows->sums + m * COLUMNS,
                                    .scales = block->grid + group * block->grid_stride,
                                    .scales_stride = block->grid_stride};
            half ^= 1;
        }
    }
    store_tiles(brackets);
    finish_conversion(&older, at_once);
    finish_conversion(&last, at_once);
}

static void multiply_pairs(const struct w4a8_block *block, const struct w4a8_rows *rows,
                           struct ahead *ahead) {
    multiply_rounds(block, rows, 0, ahead, 2);
}

static void multiply_singly(const struct w4a8_block *block, const struct w4a8_rows *rows,
                            int64_t first_group, struct ahead *ahead) {
    multiply_rounds(block, rows, first_group, ahead, 1);
}

/* A part of a group. */
static void multiply_part(const struct w4a8_block *block, const struct w4a8_rows *rows,
                          struct ahead *ahead) {
    struct pending none = {.scales = block->grid, .row = ROWS};
    for (int64_t m = 0; m < rows->rows; m += ROWS) {
        int32_t *carry = rows->carries + m * COLUMNS;
        const int8_t *x = rows->x + m * block->count;
        if (block->opens) {
            TILE_ZERO(0);
            TILE_ZERO(1);
            TILE_ZERO(2);
            TILE_ZERO(3);
        } else {
            TILE_LOAD(0, carry, 64);
            TILE_LOAD(1, carry + TILE_SUMS, 64);
            TILE_LOAD(2, carry + 2 * TILE_SUMS, 64);
            TILE_LOAD(3, carry + 3 * TILE_SUMS, 64);
        }
        for (int64_t j = 0; j < block->count / SPAN; j++) {
            multiply_block(block->weights + j * BLOCK_BYTES, x + j * BLOCK_BYTES, false, NULL,
                           &none, 1, 0);
            fetch_ahead(ahead);
        }
        store_tiles(carry);
        if (block->closes)
            finish_conversion(&(struct pending){.brackets = carry,
                                                .sums = rows->sums + m * COLUMNS,
                                                .scales = block->grid},
                              1);
    }
}

static void multiply_rows(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    const int64_t blocks = rows->rows / ROWS * block->groups * block->count / SPAN;
    struct ahead ahead;
    for (int i = 0; i < 2; i++) {
        ahead.at[i] = rows->ahead[i].at;
        ahead.lines[i] = (rows->ahead[i].bytes + 64 * blocks - 1) / (64 * blocks);
    }
    if (!block->opens || !block->closes) {
        multiply_part(block, rows, &ahead);
        return;
    }
    const int64_t paired = block->count <= 2 * SPAN ? block->groups / 2 * 2 : 0;
    if (paired > 0)
        multiply_pairs(block, rows, &ahead);
    if (paired < block->groups)
        multiply_singly(block, rows, paired, &ahead);
}

/* ---- One row ---- */

enum { QUADS = SPAN / 4 };

/* Levels as unsigned bytes times the broadcast quads of x: tiles would be nearly empty. */
INLINE __m512i add_lines(const int bits, __m512i total, const uint8_t *w, __m512i first,
                         __m512i second) {
    const __m512i line = _mm512_loadu_si512(w), low = _mm512_set1_epi8(15);
    if (bits == 8) {
        const __m512i flip = _mm512_set1_epi8((char)BYTE_BIAS);
        total = _mm512_dpbusd_epi32(total, _mm512_xor_si512(line, flip), first);
        return _mm512_dpbusd_epi32(total, _mm512_xor_si512(_mm512_loadu_si512(w + UNIT), flip),
                                   second);
    }
    total = _mm512_dpbusd_epi32(total, _mm512_and_si512(line, low), first);
    return _mm512_dpbusd_epi32(total, _mm512_and_si512(_mm512_srli_epi16(line, 4), low), second);
}

INLINE __m512i broadcast_quad(const int8_t *x) {
    int32_t four;
    memcpy(&four, x, sizeof four);
    return _mm512_set1_epi32(four);
}

/* A group's levels in each stream: total (streams, lanes) = the plain sums. */
INLINE void add_group(const int bits, __m512i total[W4A8_STREAMS][2],
                      const uint8_t *const w[W4A8_STREAMS], const int8_t *x, int64_t count) {
    const int64_t lane_bytes = TILE_BYTES * bits / 8;
    for (int64_t at = 0; at < count / SPAN * 2 * lane_bytes; at += 2 * lane_bytes, x += SPAN) {
        UNROLL
        for (int lane = 0; lane < 2; lane++) {
            for (int quad = 0; quad < QUADS / 2; quad++) {
                const __m512i first = broadcast_quad(x + 4 * quad);
                const __m512i second = broadcast_quad(x + 4 * quad + SPAN / 2);
                UNROLL
                for (int s = 0; s < W4A8_STREAMS; s++) {
                    const uint8_t *line = w[s] + at + lane * lane_bytes + 64 * quad;
                    __builtin_prefetch(line + W4A8_STREAM_AHEAD);
                    if (bits == 8)
                        __builtin_prefetch(line + UNIT + W4A8_STREAM_AHEAD);
                    total[s][lane] = add_lines(bits, total[s][lane], line, first, second);
                }
            }
        }
    }
}

INLINE void multiply_streams(const int bits, const struct w4a8_streams *streams) {
    const int8_t *x = streams->x;
    memset(streams->sums, 0, W4A8_STREAMS * COLUMNS * sizeof(float));
    for (int64_t group = 0; group < streams->groups; group++) {
        const int64_t count = group + 1 < streams->groups ? streams->count : streams->last_count;
        const __m512i x_sum = _mm512_set1_epi32(streams->x_sums[group]);
        const uint8_t *w[W4A8_STREAMS];
        __m512i total[W4A8_STREAMS][2];
        UNROLL
        for (int s = 0; s < W4A8_STREAMS; s++) {
            w[s] = streams->panels[s] + group * streams->record_bytes;
            total[s][0] = total[s][1] = _mm512_setzero_si512();
        }
        add_group(bits, total, w, x, count);
        x += count;
        UNROLL
        for (int s = 0; s < W4A8_STREAMS; s++) {
            const uint8_t *grid = w[s] + COLUMNS * count * bits / 8;
            UNROLL
            for (int lane = 0; lane < 2; lane++) {
                float *sum = streams->sums + s * COLUMNS + TILE * lane;
                const __m512i z = bits == 8 ? _mm512_set1_epi32(BYTE_BIAS)
                                  : streams->has_zero_points
                                      ? _mm512_cvtepu8_epi32(_mm_loadu_si128(
                                            (const void *)(grid + COLUMNS * 4 + TILE * lane)))
                                      : _mm512_set1_epi32(LEVEL_BIAS);
                const __m512i bracket =
                    _mm512_sub_epi32(total[s][lane], _mm512_mullo_epi32(z, x_sum));
                _mm512_storeu_ps(sum, _mm512_fmadd_ps(_mm512_loadu_ps(grid + 64 * lane),
                                                      _mm512_cvtepi32_ps(bracket),
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

const struct w4a8_kernel w4a8_amx = {
    .columns = COLUMNS,
    .lane_columns = TILE,
    .span = SPAN,
    .tile_rows = ROWS,
    .row_multiple = ROWS,
    .x_span = SPAN,
    .bias4 = LEVEL_BIAS,
    .begin = tile_configure,
    .end = tile_release,
    .subtracts = true,
    .multiply = {multiply_rows, multiply_rows},
    .multiply_streams = {multiply_streams4, multiply_streams8},
    .streams = true,
    W4A8_BODY_FUNCTIONS,
};
