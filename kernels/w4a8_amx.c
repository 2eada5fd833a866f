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
        /* A column's zero point is that of its four k. */
        const __m512i zero =
            zero_points == NULL ? _mm512_set1_epi8(LEVEL_BIAS)
                                : _mm512_mullo_epi32(_mm512_cvtepu8_epi32(_mm_loadu_si128((
                                                         const void *)(zero_points + TILE * lane))),
                                                     _mm512_set1_epi32(0x01010101));
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
    float *sums; /* (ROWS, COLUMNS); NULL: nothing to do */
    const char *scales;
    int64_t scales_stride; /* bytes */
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

INLINE void convert(const struct pending *pending, const struct scales *scales, const int groups,
                    const int begin, const int rows) {
    if (pending->sums == NULL)
        return;
    UNROLL
    for (int row = begin; row < begin + rows; row++) {
        UNROLL
        for (int v = 0; v < 2; v++) {
            float *at = pending->sums + row * COLUMNS + 16 * v;
            const int32_t *bracket =
                pending->brackets + (row / TILE * 2 + v) * TILE_SUMS + row % TILE * TILE;
            __m512 sum = _mm512_loadu_ps(at);
            UNROLL
            for (int group = 0; group < groups; group++)
                sum = _mm512_fmadd_ps(
                    scales->of[group][v],
                    _mm512_cvtepi32_ps(_mm512_loadu_si512(bracket + group * GROUP_SUMS)), sum);
            _mm512_storeu_ps(at, sum);
        }
    }
}

/* ---- Products ---- */

#define DOT_INT8(sum, a, b) __asm__ volatile("tdpbssd %%tmm" #b ", %%tmm" #a ", %%tmm" #sum : :)

/* Lines to be fetched, a few with each block. */
struct ahead {
    const uint8_t *at;
    int64_t lines; /* with a block */
};

static struct ahead ahead_of(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    const int64_t blocks = rows->rows / ROWS * block->groups * block->count / SPAN;
    return (struct ahead){rows->ahead, (rows->ahead_bytes + 64 * blocks - 1) / (64 * blocks)};
}

INLINE void fetch_ahead(struct ahead *ahead) {
    for (int64_t i = 0; i < ahead->lines; i++, ahead->at += 64)
        __builtin_prefetch(ahead->at, 0, 2);
}

/* What is converted beside a round of blocks: a round of `slots` tile products. */
struct beside {
    struct pending last, older; /* the round before, the one before that */
    struct scales scales;
    int groups, slots;
};

/* The brackets of a round are all stored after the first four tile products of the next round: its
 * rows are converted from there on, evenly, up to the same place in the round after. */
INLINE void convert_share(struct beside *beside, const int slot) {
    if (slot >= beside->slots)
        return;
    const int delay = 4, share = ROWS / beside->slots;
    if (slot == 0)
        beside->scales = load_scales(&beside->older, beside->groups);
    if (slot == delay)
        beside->scales = load_scales(&beside->last, beside->groups);
    if (slot < delay)
        convert(&beside->older, &beside->scales, beside->groups,
                (slot - delay + beside->slots) % beside->slots * share, share);
    else
        convert(&beside->last, &beside->scales, beside->groups, (slot - delay) * share, share);
}

/* Sums of the group before leave a tile just before it is cleared. */
#define REOPEN(tile)                                                                               \
    if (opens) {                                                                                   \
        TILE_STORE(tile, brackets + (tile)*TILE_SUMS, 64);                                         \
        TILE_ZERO(tile);                                                                           \
    }

/* 64 k of a panel and of 32 rows of X: 2 x 2 tiles of sums in tmm0 .. tmm3. */
INLINE void multiply_block(const uint8_t *w, const int8_t *x, const bool opens, int32_t *brackets,
                           struct beside *beside, const int slot) {
    TILE_LOAD_STREAM(4, x, 64);
    TILE_LOAD(6, w, 64);
    REOPEN(0)
    DOT_INT8(0, 4, 6);
    convert_share(beside, slot);
    TILE_LOAD(7, w + TILE_BYTES, 64);
    REOPEN(1)
    DOT_INT8(1, 4, 7);
    convert_share(beside, slot + 1);
    TILE_LOAD_STREAM(5, x + TILE_BYTES, 64);
    REOPEN(2)
    DOT_INT8(2, 5, 6);
    convert_share(beside, slot + 2);
    REOPEN(3)
    DOT_INT8(3, 5, 7);
    convert_share(beside, slot + 3);
}

INLINE void store_tiles(int32_t *brackets) {
    TILE_STORE(0, brackets, 64);
    TILE_STORE(1, brackets + TILE_SUMS, 64);
    TILE_STORE(2, brackets + 2 * TILE_SUMS, 64);
    TILE_STORE(3, brackets + 3 * TILE_SUMS, 64);
}

INLINE void finish_conversions(const struct beside *beside, const int groups, const int slots) {
    const int left = 4 * ROWS / slots;
    struct scales scales = load_scales(&beside->older, groups);
    convert(&beside->older, &scales, groups, ROWS - left, left);
    scales = load_scales(&beside->last, groups);
    for (int row = 0; row < ROWS; row += 8)
        convert(&beside->last, &scales, groups, row, 8);
}

/* Rounds of `at_once` groups of `blocks` blocks (and, where at_once is 1, `more` blocks). */
INLINE void multiply_rounds(const struct w4a8_block *block, const struct w4a8_rows *rows,
                            struct ahead *ahead, const int at_once, const int blocks,
                            const int64_t more) {
    _Alignas(64) int32_t ring[2][MOST_AT_ONCE * GROUP_SUMS];
    struct beside beside = {.groups = at_once, .slots = 4 * at_once * blocks};
    beside.last.scales = beside.older.scales = block->grid;
    int32_t *brackets = ring[1];
    int half = 0;
    for (int64_t m = 0; m < rows->rows; m += ROWS) {
        const int8_t *x = rows->x + m * block->groups * block->count;
        for (int64_t group = 0; group + at_once <= block->groups; group += at_once, half ^= 1) {
            UNROLL
            for (int i = 0; i < at_once; i++) {
                const uint8_t *w = block->weights + (group + i) * block->weight_stride;
                UNROLL
                for (int j = 0; j < blocks; j++, w += BLOCK_BYTES, x += BLOCK_BYTES) {
                    multiply_block(w, x, j == 0, brackets, &beside, 4 * (i * blocks + j));
                    fetch_ahead(ahead);
                }
                for (int64_t j = 0; j < more; j++, w += BLOCK_BYTES, x += BLOCK_BYTES) {
                    multiply_block(w, x, false, NULL, &beside, beside.slots);
                    fetch_ahead(ahead);
                }
                brackets = ring[half] + i * GROUP_SUMS;
            }
            beside.older = beside.last;
            beside.last.brackets = ring[half];
            beside.last.sums = rows->sums + m * COLUMNS;
            beside.last.scales = block->grid + group * block->grid_stride;
            beside.last.scales_stride = block->grid_stride;
        }
    }
    store_tiles(brackets);
    finish_conversions(&beside, at_once, beside.slots);
}

/* One group, or a part of one, of any length. */
static void multiply_group(const struct w4a8_block *block, const struct w4a8_rows *rows,
                           struct ahead *ahead, int64_t group) {
    _Alignas(64) int32_t ring[GROUP_SUMS];
    struct beside none = {.groups = 1, .slots = 1};
    struct pending pending = {.scales = block->grid + group * block->grid_stride};
    const struct scales scales = load_scales(&pending, 1);
    for (int64_t m = 0; m < rows->rows; m += ROWS) {
        int32_t *carry = rows->carries + m * COLUMNS;
        const uint8_t *w = block->weights + group * block->weight_stride;
        const int8_t *x = rows->x + (m * block->groups + group * ROWS) * block->count;
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
        for (int64_t k = 0; k < block->count; k += SPAN, w += BLOCK_BYTES, x += BLOCK_BYTES) {
            multiply_block(w, x, false, NULL, &none, none.slots);
            fetch_ahead(ahead);
        }
        pending.brackets = block->closes ? ring : carry;
        store_tiles(block->closes ? ring : carry);
        if (block->closes) {
            pending.sums = rows->sums + m * COLUMNS;
            for (int row = 0; row < ROWS; row += 8)
                convert(&pending, &scales, 1, row, 8);
        }
    }
}

static void multiply_pairs_of_64(const struct w4a8_block *block, const struct w4a8_rows *rows,
                                 struct ahead *ahead) {
    multiply_rounds(block, rows, ahead, 2, 1, 0);
}

static void multiply_pairs_of_128(const struct w4a8_block *block, const struct w4a8_rows *rows,
                                  struct ahead *ahead) {
    multiply_rounds(block, rows, ahead, 2, 2, 0);
}

static void multiply_from_256(const struct w4a8_block *block, const struct w4a8_rows *rows,
                              struct ahead *ahead) {
    multiply_rounds(block, rows, ahead, 1, 4, block->count / SPAN - 4);
}

static void multiply_rows(const struct w4a8_block *block, const struct w4a8_rows *rows) {
    struct ahead ahead = ahead_of(block, rows);
    const bool whole = block->opens && block->closes;
    int64_t group = 0;
    if (whole && block->count >= 4 * SPAN) {
        multiply_from_256(block, rows, &ahead);
        group = block->groups;
    } else if (block->groups >= 2 && block->count <= 2 * SPAN) {
        (block->count == SPAN ? multiply_pairs_of_64 : multiply_pairs_of_128)(block, rows, &ahead);
        group = block->groups / 2 * 2;
    }
    for (; group < block->groups; group++)
        multiply_group(block, rows, &ahead, group);
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
    W4A8_BODY_FUNCTIONS,
};
