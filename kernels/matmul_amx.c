#include "kernels/matmul_kernel.h"
#include "kernels/tile_amx.h"
#include "kernels/unroll.h"
#include "kernels/vector_avx512.h"

/* Panels of W and sums are kept tile by tile, each of a tile's rows 64 bytes behind the one before:
 * a panel as [k / 32][32 rows][32 k], the sums of 32 rows as 2 x 2 (or 2 x 1) tiles. */
enum {
    TILE = 16,   /* rows of W, and columns of X, in a tile */
    TILE_K = 32, /* k in a tile: 16 pairs */
    ROW = 64,    /* bytes of a row of a tile */
    TILE_BYTES = TILE * ROW,
    ROWS = 2 * TILE,
    AHEAD_ROWS = 4,
    K_BLOCK = 512,
    NEAR_BYTES = 1 << 20, /* half of the second-level cache */
};
_Static_assert(MATMUL_AHEAD_X *TILE_K == 2 * ROW, "two lines a step");
_Static_assert(ROWS *K_BLOCK * sizeof(uint16_t) <= MATMUL_PANEL_BYTES, "a panel fits the scratch");

/* A line of each of the rows that are fetched ahead: of one, or of all. */
static inline void fetch(const struct matmul_tile *tile, int64_t k) {
    __builtin_prefetch(tile->ahead[0] + k * tile->ahead_size, 0, 2);
    if (tile->ahead_count <= 1)
        return;
    UNROLL
    for (int i = 1; i < AHEAD_ROWS; i++)
        __builtin_prefetch(tile->ahead[i] + k * tile->ahead_size, 0, 2);
}

/* 32 rows of W, in a panel (keep: or in the file, from where they are put into a panel), against 32
 * columns of X: 2 x 2 tiles of sums in tmm0 .. tmm3. The next sums, which lie behind these, are
 * brought near meanwhile: waiting for them would cost a quarter of the time. */
static inline __attribute__((always_inline)) void multiply_2x2(const struct matmul_tile *tile,
                                                               const bool direct, const bool keep) {
    const int64_t stride = direct ? tile->w_stride : ROW, step = direct ? ROW : 2 * TILE_BYTES;
    const char *w = tile->w, *x = tile->x;
    char *sum = (char *)tile->sum, *next_sum = sum + 4 * TILE_BYTES, *kept = tile->keep;
    if (tile->first) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    } else {
        TILE_LOAD(0, sum, ROW);
        TILE_LOAD(1, sum + TILE_BYTES, ROW);
        TILE_LOAD(2, sum + 2 * TILE_BYTES, ROW);
        TILE_LOAD(3, sum + 3 * TILE_BYTES, ROW);
    }
    for (int64_t k = 0; k < tile->count; k += TILE_K) {
        fetch(tile, k);
        TILE_LOAD_STREAM(6, x, ROW);
        __builtin_prefetch(next_sum, 1, 3);
        TILE_LOAD(4, w, stride);
        if (keep)
            TILE_STORE(4, kept, ROW);
        TILE_DOT_BF16(0, 4, 6);
        __builtin_prefetch(next_sum + ROW, 1, 3);
        TILE_LOAD_STREAM(7, x + TILE_BYTES, ROW);
        TILE_DOT_BF16(1, 4, 7);
        __builtin_prefetch(next_sum + 2 * ROW, 1, 3);
        TILE_LOAD(5, w + TILE * stride, stride);
        if (keep)
            TILE_STORE(5, kept + TILE_BYTES, ROW);
        TILE_DOT_BF16(2, 5, 6);
        __builtin_prefetch(next_sum + 3 * ROW, 1, 3);
        TILE_DOT_BF16(3, 5, 7);
        if (tile->ahead_x != NULL) {
            const char *ahead = tile->ahead_x + k * MATMUL_AHEAD_X;
            __builtin_prefetch(ahead, 0, 2);
            __builtin_prefetch(ahead + ROW, 0, 2);
        }
        w += step;
        kept += 2 * TILE_BYTES;
        x += 2 * TILE_BYTES;
        next_sum += 4 * ROW;
    }
    TILE_STORE(0, sum, ROW);
    TILE_STORE(1, sum + TILE_BYTES, ROW);
    TILE_STORE(2, sum + 2 * TILE_BYTES, ROW);
    TILE_STORE(3, sum + 3 * TILE_BYTES, ROW);
}

static void multiply_2(const struct matmul_tile *tile) {
    if (!tile->direct)
        multiply_2x2(tile, false, false);
    else if (tile->keep == NULL)
        multiply_2x2(tile, true, false);
    else
        multiply_2x2(tile, true, true);
}

/* 32 rows of W against 16 columns of X: the last columns, so that nothing is kept. */
static void multiply_1(const struct matmul_tile *tile) {
    const int64_t stride = tile->direct ? tile->w_stride : ROW,
                  step = tile->direct ? ROW : 2 * TILE_BYTES;
    const char *w = tile->w, *x = tile->x;
    char *sum = (char *)tile->sum;
    if (tile->first) {
        TILE_ZERO(0);
        TILE_ZERO(2);
    } else {
        TILE_LOAD(0, sum, ROW);
        TILE_LOAD(2, sum + 2 * TILE_BYTES, ROW);
    }
    for (int64_t k = 0; k < tile->count; k += TILE_K) {
        fetch(tile, k);
        TILE_LOAD_STREAM(6, x, ROW);
        TILE_LOAD(4, w, stride);
        TILE_DOT_BF16(0, 4, 6);
        TILE_LOAD(5, w + TILE * stride, stride);
        TILE_DOT_BF16(2, 5, 6);
        w += step;
        x += TILE_BYTES;
    }
    TILE_STORE(0, sum, ROW);
    TILE_STORE(2, sum + 2 * TILE_BYTES, ROW);
}

static void pack(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                 int64_t count, bool round, float *maxima) {
    char *packed = tile;
    for (int64_t k = 0; k < count; k += TILE_K) {
        matmul_pack_bf16(packed, TILE, x + k, stride, rows, count - k < TILE_K ? count - k : TILE_K,
                         round, maxima == NULL ? NULL : maxima + k);
        packed += width / TILE * TILE_BYTES;
    }
}

/* A row of a panel, whose parts of 32 k lie a step apart. */
static void load(void *panel_row, const void *w, enum number_type type, int64_t count,
                 enum matmul_part part) {
    char *row = panel_row;
    const char *halves = w;
    for (int64_t k = 0; k < count; k += TILE_K) {
        matmul_load_bf16(row, halves + k * (int64_t)sizeof(uint16_t), type,
                         count - k < TILE_K ? count - k : TILE_K, part);
        row += 2 * TILE_BYTES;
    }
}

/* Past the caches where whole lines can be written. */
static void store(float *y, int64_t y_stride, const float *sum, int64_t rows, int64_t columns,
                  bool far) {
    const bool stream = far && (uintptr_t)y % 64 == 0 && y_stride % 16 == 0;
    for (int64_t n = 0; n < rows; n += TILE) {
        for (int64_t m = 0; m < columns; m += TILE) {
            const float *tile = sum + (n / TILE * 2 + m / TILE) * TILE * TILE;
            vector_transpose_f32(y + m * y_stride + n, y_stride, tile, TILE,
                                 rows - n < TILE ? rows - n : TILE,
                                 columns - m < TILE ? columns - m : TILE, stream);
        }
    }
}

static void end(void) {
    _mm_sfence();
    tile_release();
}

const struct matmul_kernel matmul_amx = {
    .element = NUMBER_BF16,
    .direct = true,
    .width = 2 * TILE,
    .vector = TILE,
    .k_multiple = TILE_K,
    .k_block = K_BLOCK,
    .panel_stride = ROW,
    .panel_rows = ROWS,
    .block_rows = MATMUL_BLOCK_ROWS,
    .near_bytes = NEAR_BYTES,
    .tile_rows = {ROWS, ROWS},
    .tiled = true,
    .ahead_rows = AHEAD_ROWS,
    .fetch_rows = 1, /* more hinder X on its way from the second-level cache */
    .begin = tile_configure,
    .end = end,
    .pack = pack,
    .load = load,
    .multiply = {multiply_1, multiply_2},
    .store = store,
};
