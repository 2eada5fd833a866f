#include "kernels/matmul_kernel.h"
#include "kernels/tile_amx.h"
#include "kernels/unroll.h"
#include "kernels/vector_avx512.h"

enum {
    TILE = 16,   /* rows of W, and columns of X, in a tile */
    TILE_K = 32, /* k in a tile: 16 pairs */
    K_BLOCK = 512,
    PANEL_STRIDE = (K_BLOCK + TILE_K) * sizeof(uint16_t),
    SUM_STRIDE = MATMUL_SUM_STRIDE * sizeof(float),
};
_Static_assert(2 * TILE * PANEL_STRIDE <= MATMUL_PANEL_BYTES, "a panel fits the scratch");

/* A line of each of the rows that are fetched ahead. */
static inline void fetch(const struct matmul_tile *tile, int64_t k) {
    UNROLL
    for (int i = 0; i < MATMUL_AHEAD_ROWS; i++)
        __builtin_prefetch(tile->ahead[i] + k * tile->ahead_size, 0, 2);
}

/* 32 rows of W against 32 columns of X: 2 x 2 tiles of sums in tmm0 .. tmm3. */
static void multiply_2(const struct matmul_tile *tile) {
    const int64_t w_stride = tile->w_stride, x_stride = 2 * 64;
    const char *upper = tile->w, *lower = upper + TILE * w_stride, *left = tile->x;
    float *sum = tile->sum, *lower_sum = sum + TILE * MATMUL_SUM_STRIDE;
    if (tile->first) {
        TILE_ZERO(0);
        TILE_ZERO(1);
        TILE_ZERO(2);
        TILE_ZERO(3);
    } else {
        TILE_LOAD(0, sum, SUM_STRIDE);
        TILE_LOAD(1, sum + TILE, SUM_STRIDE);
        TILE_LOAD(2, lower_sum, SUM_STRIDE);
        TILE_LOAD(3, lower_sum + TILE, SUM_STRIDE);
    }
    for (int64_t k = 0; k < tile->count; k += TILE_K) {
        fetch(tile, k);
        TILE_LOAD_STREAM(6, left, x_stride);
        TILE_LOAD(4, upper, w_stride);
        TILE_DOT_BF16(0, 4, 6);
        TILE_LOAD_STREAM(7, left + 64, x_stride);
        TILE_DOT_BF16(1, 4, 7);
        TILE_LOAD(5, lower, w_stride);
        TILE_DOT_BF16(2, 5, 6);
        TILE_DOT_BF16(3, 5, 7);
        upper += 64;
        lower += 64;
        left += 16 * x_stride;
    }
    TILE_STORE(0, sum, SUM_STRIDE);
    TILE_STORE(1, sum + TILE, SUM_STRIDE);
    TILE_STORE(2, lower_sum, SUM_STRIDE);
    TILE_STORE(3, lower_sum + TILE, SUM_STRIDE);
}

/* 32 rows of W against 16 columns of X. */
static void multiply_1(const struct matmul_tile *tile) {
    const int64_t w_stride = tile->w_stride;
    const char *upper = tile->w, *lower = upper + TILE * w_stride, *column = tile->x;
    float *sum = tile->sum, *lower_sum = sum + TILE * MATMUL_SUM_STRIDE;
    if (tile->first) {
        TILE_ZERO(0);
        TILE_ZERO(2);
    } else {
        TILE_LOAD(0, sum, SUM_STRIDE);
        TILE_LOAD(2, lower_sum, SUM_STRIDE);
    }
    for (int64_t k = 0; k < tile->count; k += TILE_K) {
        fetch(tile, k);
        TILE_LOAD_STREAM(6, column, 64);
        TILE_LOAD(4, upper, w_stride);
        TILE_DOT_BF16(0, 4, 6);
        TILE_LOAD(5, lower, w_stride);
        TILE_DOT_BF16(2, 5, 6);
        upper += 64;
        lower += 64;
        column += 16 * 64;
    }
    TILE_STORE(0, sum, SUM_STRIDE);
    TILE_STORE(2, lower_sum, SUM_STRIDE);
}

/* Past the caches where whole lines can be written. */
static void store(float *y, int64_t y_stride, const float *sum, int64_t rows, int64_t columns) {
    vector_transpose_f32(y, y_stride, sum, MATMUL_SUM_STRIDE, rows, columns,
                         (uintptr_t)y % 64 == 0 && y_stride % 16 == 0);
}

static void end(void) {
    _mm_sfence();
    tile_release();
}

const struct matmul_kernel matmul_amx = {
    .element = NUMBER_BF16,
    .direct = false, /* rows of a file are often apart by a power of two: they share cache sets */
    .width = 2 * TILE,
    .vector = TILE,
    .k_multiple = TILE_K,
    .k_block = K_BLOCK,
    .panel_stride = PANEL_STRIDE,
    .panel_rows = 2 * TILE,
    .block_rows = 2 * TILE,
    .tile_rows = {2 * TILE, 2 * TILE},
    .begin = tile_configure,
    .end = end,
    .ahead_rows = MATMUL_AHEAD_ROWS,
    .pack = matmul_pack_bf16,
    .load = matmul_load_bf16,
    .multiply = {multiply_1, multiply_2},
    .store = store,
};
