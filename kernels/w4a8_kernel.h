/* Inside kernels/w4a8: what a set of instructions brings to the driver in w4a8.c.
 *
 * Weights lie in panels of `columns` rows of W, a panel as one record after the other, a record for
 * each group: the levels, f32 scales (columns), and int8 zero points (columns) unless symmetric,
 * filled up to 64 bytes. k is filled up with zeros to a multiple of `span` in each group. Levels
 * for the multiplication are bytes [k / span][columns / lane_columns][span / 4][lane_columns][4];
 * 4-bit ones are stored with the first half of each [span / 4] in the low and the second half in
 * the high nibbles of [span / 8].
 *
 * Quantized X lies in tiles of tile_rows rows (the last has a multiple of row_multiple; one row
 * alone stays one where there is multiply_streams), each tile [k / x_span][rows][x_span]; sums over
 * k lie as int32 [groups][rows] for each tile.
 *
 * Stored levels are q + bias. The zero points stored are z + bias likewise. */
#ifndef FPTQ_KERNELS_W4A8_KERNEL_H
#define FPTQ_KERNELS_W4A8_KERNEL_H

#include "kernels/w4a8.h"

/* Panels that are read side by side, and how many bytes ahead memory is asked for in each. */
enum { W4A8_STREAMS = 4, W4A8_STREAM_AHEAD = 1024 };

enum { W4A8_MAX_TILE_ROWS = 32 };

/* Some whole groups of a panel, or a part of one group. */
struct w4a8_block {
    const uint8_t *weights; /* levels in bytes */
    int64_t weight_stride;  /* bytes from one group to the next */
    const char *grid;       /* scales and zero points */
    int64_t grid_stride;
    bool has_zero_points;
    int32_t zero_point;    /* where there are none: the same for all */
    int64_t groups, count; /* count: k of each, filled up */
    bool opens, closes;    /* a part of a group: the first, the last */
};

/* The rows of X that a block is multiplied with, tile after tile. */
struct w4a8_rows {
    int64_t rows;
    const int8_t *x;       /* the block's k */
    const int32_t *x_sums; /* of all groups */
    int64_t first_group, all_groups;
    float *sums;      /* (rows, columns) */
    int32_t *carries; /* (rows, columns) */
    /* Memory that is read next (levels, X): to be fetched meanwhile. */
    struct w4a8_ahead {
        const void *at;
        int64_t bytes;
    } ahead[2];
};

/* Ask for a line, to lie in the second nearest cache. (GCC 12 drops loops of prefetches alone.) */
static inline void w4a8_fetch(const void *line) {
    __builtin_prefetch(line, 0, 2);
    __asm__ volatile("");
}

/* One row of X against up to W4A8_STREAMS panels, whole rows, read side by side. */
struct w4a8_streams {
    const uint8_t *panels[W4A8_STREAMS];
    const int8_t *x;
    const int32_t *x_sums;
    int64_t groups, count, last_count; /* count: k of each group, filled up; of the last */
    int64_t record_bytes;
    bool has_zero_points;
    int32_t zero_point;
    float *sums; /* (W4A8_STREAMS, columns) */
};

struct w4a8_kernel {
    int64_t columns, lane_columns, span;
    int64_t tile_rows, row_multiple, x_span;
    int bias4, bias8; /* added to 4-bit and 8-bit levels */

    /* Called before and after a thread's work; NULL: nothing to do. */
    void (*begin)(void);
    void (*end)(void);
    /* 4-bit levels -> bytes; `bytes` packed ones, of one group. zero_points (columns) as stored, or
     * NULL: where the kernel subtracts, they are taken off, and what is left is q - z +
     * subtracted_bias. */
    void (*unpack)(uint8_t *levels, const uint8_t *packed, int64_t bytes,
                   const uint8_t *zero_points);
    bool subtracts;
    int subtracted_bias;
    /* sums f32 = the chain over the block's groups, continued; carries int32: the bracket of a
     * group between its parts. [bits == 8] */
    void (*multiply[2])(const struct w4a8_block *block, const struct w4a8_rows *rows);
    /* [bits == 8]; NULL: the driver multiplies as for many rows. */
    void (*multiply_streams[2])(const struct w4a8_streams *streams);

    /* max |x * multiplier| */
    float (*find_maximum)(const float *x, const float *multiplier, int64_t count);
    /* Quantize `count` numbers of a row, fill up with zeros to `filled`; spans of x_span go
     * `stride` bytes apart. Returns the sum. */
    int32_t (*quantize)(int8_t *spans, int64_t stride, const float *x, const float *multiplier,
                        float reciprocal, int64_t count, int64_t filled);
    /* The same for tile_rows rows of X, `x_stride` numbers apart, whose spans lie side by side: row
     * i times reciprocals[i], its sum added to sums[i]. NULL: the driver goes row by row. */
    void (*quantize_tile)(int8_t *spans, const float *x, int64_t x_stride, const float *multiplier,
                          const float *reciprocals, int64_t count, int64_t filled, int32_t *sums);
    /* y (count) = sum * scale (+ bias where not NULL); stream: nobody reads y soon, it goes past
     * the caches, which a kernel that `streams` can. */
    void (*finish)(float *y, const float *sum, float scale, const float *bias, int64_t count,
                   bool stream);
    bool streams;
};

extern const struct w4a8_kernel w4a8_portable;
extern const struct w4a8_kernel w4a8_avx2;
extern const struct w4a8_kernel w4a8_avx512_vnni;
extern const struct w4a8_kernel w4a8_amx;

#endif
