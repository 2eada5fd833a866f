/* Inside kernels/matmul: what an instruction path brings to the driver in matmul.c.
 *
 * The product is computed transposed. Rows of W are the broadcast operand (AMX: operand A) as they
 * lie; X is packed into vectors over m. Two kinds of element: f32, X packed as [k][m]; bf16, X
 * packed as [k / 2][m][2], the two k of a pair side by side. X is cut into tiles of `width` m, each
 * tile being [K][width] contiguous; the last tile is as narrow as a multiple of `vector` allows.
 * Absent m, and absent k up to a multiple of `k_multiple`, are zeros. */
#ifndef FPTQ_KERNELS_MATMUL_KERNEL_H
#define FPTQ_KERNELS_MATMUL_KERNEL_H

#include <stdbool.h>

#include "kernels/matmul.h"

enum {
    MATMUL_SUM_COLUMNS = 256, /* m in a block of sums, a multiple of every width */
    MATMUL_SUM_STRIDE = MATMUL_SUM_COLUMNS + 16, /* no power of two, for the caches' sake */
    MATMUL_BLOCK_ROWS = 512,                     /* W rows whose sums are kept at once, at most */
    MATMUL_AHEAD_ROWS = 4,                       /* rows that a micro-kernel fetches, at most */
    MATMUL_AHEAD_X = 4,                          /* bytes of X fetched for each k of a tile */
    MATMUL_K_BLOCK = 1024,                       /* k of a panel, at most */
    MATMUL_FAR_BYTES = 2 << 20,                  /* y of this size does not stay in the cache */
    MATMUL_FAR_X_BYTES = 6 << 20,                /* X of this size is long under way each time */
    MATMUL_PANEL_BYTES = 52 * 1024,              /* of a panel, at most */
};

/* An f16 weight on a bf16 path is the sum of two bf16 numbers. */
enum matmul_part { MATMUL_HIGH, MATMUL_LOW };

/* What a micro-kernel computes: sum (tile_rows, vectors * vector; row stride MATMUL_SUM_STRIDE, or
 * as it likes if tiled) = (first ? 0 : sum) + w (tile_rows, count) . x tile
 * [count][vectors * vector]. Meanwhile it fetches rows of the next weights (ahead_rows of its
 * matmul_kernel) into the cache, ahead_size bytes for each k. */
struct matmul_tile {
    float *sum;
    const char *w; /* rows w_stride bytes apart */
    int64_t w_stride;
    const void *x;
    int64_t count; /* a multiple of k_multiple */
    bool first;
    bool direct; /* w lies in the file, not in a panel */
    char *keep;  /* direct and tiled: the panel to copy w into on the way, or NULL */
    const char *ahead[MATMUL_AHEAD_ROWS]; /* beyond the first ahead_count: anything near */
    int64_t ahead_count;
    int64_t ahead_size;
    const char
        *ahead_x; /* tiled: of the next block of X, MATMUL_AHEAD_X bytes for each k, or NULL */
};

struct matmul_kernel {
    enum number_type element; /* of packed X and of panels: NUMBER_F32 or NUMBER_BF16 */
    bool direct; /* W whose type is `element` is read where it lies, not from a panel */
    int64_t width, vector, k_multiple;
    int64_t k_block;        /* k of a panel, a multiple of k_multiple */
    int64_t panel_stride;   /* bytes from one row of a panel to the next */
    int64_t panel_rows;     /* a multiple of all tile_rows */
    int64_t block_rows;     /* W rows whose sums are kept at once, a multiple of panel_rows */
    int64_t far_block_rows; /* the same where X is larger than MATMUL_FAR_X_BYTES; 0: block_rows */
    int64_t near_bytes;     /* X of up to this size stays in the cache; 0: not asked */
    int64_t tile_rows[4];   /* rows of a tile of 1, 2, .. vectors */
    /* X, panels and sums are kept tile by tile: a tile of X as [k / k_multiple][width / vector],
     * each a block of its own; the sums of panel_rows x width together, in the kernel's own order,
     * to be stored at once. tile_rows are panel_rows. Of weights that are read where they lie, the
     * first tile of a step makes a panel (keep) for the others. */
    bool tiled;
    int64_t ahead_rows; /* rows that a micro-kernel fetches; 0: it does not */
    int64_t fetch_rows; /* rows fetched during a tile where X is not near; 0: any number */

    /* Called before and after a thread's work; NULL: nothing to do. */
    void (*begin)(void);
    void (*end)(void);
    /* Pack x (rows, count), rows <= vector, into columns 0 .. vector - 1 of a tile of `width` m,
     * with zeros for absent rows and for k up to a multiple of k_multiple. round: to bf16. */
    void (*pack)(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                 int64_t count, bool round, float *maxima);
    /* Bring `count` weights of a row, as they lie in the file, into a row of a panel, with zeros up
     * to a multiple of k_multiple. Reads nothing else of w. */
    void (*load)(void *panel_row, const void *w, enum number_type type, int64_t count,
                 enum matmul_part part);
    void (*multiply[4])(const struct matmul_tile *tile); /* [vectors - 1] */
    /* y (columns, rows; row stride) = sum (rows, columns; row stride MATMUL_SUM_STRIDE; or those of
     * one tile) transposed. far: all of y is so large that it does not stay in the cache. */
    void (*store)(float *y, int64_t y_stride, const float *sum, int64_t rows, int64_t columns,
                  bool far);
};

/* Dequantize weights k .. k + count - 1 of row `row` into `values`, numbers of `element`, rounded
 * to bf16 if asked for; count at most MATMUL_K_BLOCK (matmul_int4.c). */
void matmul_dequantize(void *values, enum number_type element, bool round,
                       const struct matmul_weight *weight, int64_t row, int64_t k, int64_t count);

/* What the two bf16 paths share (matmul_avx512_bf16.c). */
void matmul_pack_bf16(void *tile, int64_t width, const float *x, int64_t stride, int64_t rows,
                      int64_t count, bool round, float *maxima);
void matmul_load_bf16(void *panel_row, const void *w, enum number_type type, int64_t count,
                      enum matmul_part part);

extern const struct matmul_kernel matmul_portable;
extern const struct matmul_kernel matmul_avx2;
extern const struct matmul_kernel matmul_avx512;
extern const struct matmul_kernel matmul_avx512_bf16;
extern const struct matmul_kernel matmul_amx;

#endif
