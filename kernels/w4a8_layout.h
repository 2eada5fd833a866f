/* Inside kernels/w4a8: where the parts of packed weights and of packed X lie (w4a8_kernel.h says in
 * which form), and what of k is multiplied at once. */
#ifndef FPTQ_KERNELS_W4A8_LAYOUT_H
#define FPTQ_KERNELS_W4A8_LAYOUT_H

#include "kernels/w4a8_kernel.h"

static inline int64_t w4a8_round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static inline int64_t w4a8_minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- Groups: filled up to whole spans ---- */

struct w4a8_grouping {
    int64_t groups, size, last_size; /* k of a group */
    int64_t count, last_count;       /* the same filled up */
    int64_t total;                   /* k of a row, filled up */
};

static inline int64_t w4a8_group_size(const struct w4a8_grouping *grouping, int64_t group) {
    return group + 1 < grouping->groups ? grouping->size : grouping->last_size;
}

static inline int64_t w4a8_group_filled(const struct w4a8_grouping *grouping, int64_t group) {
    return group + 1 < grouping->groups ? grouping->count : grouping->last_count;
}

/* ---- Steps: what of k is multiplied at once ---- */

enum { W4A8_STEP_K = 512 }; /* k whose levels lie in the nearest cache, a multiple of every span */

/* Some whole groups, all filled up to `count` k, or `count` k of one from k on. */
struct w4a8_step {
    int64_t group, groups, k, count;
};

/* The step in which k of a group is; k counts filled up ones. */
struct w4a8_step w4a8_step_of(const struct w4a8_grouping *grouping, int64_t group, int64_t k);
/* The one that follows; behind the last: group is the number of groups. */
struct w4a8_step w4a8_step_after(const struct w4a8_grouping *grouping,
                                 const struct w4a8_step *step);

/* ---- Weights ---- */

struct w4a8_layout {
    const struct w4a8_kernel *kernel;
    struct w4a8_grouping grouping;
    int bits, bias;
    int64_t grid_bytes, record_bytes, panel_bytes;
};

struct w4a8_layout w4a8_find_layout(const struct w4a8_weight *weight);

/* Bytes of a panel's levels of `count` k. */
static inline int64_t w4a8_level_bytes(const struct w4a8_layout *layout, int64_t count) {
    return layout->kernel->columns * count * layout->bits / 8;
}

/* ---- Packed X ---- */

/* Scales of all rows, sums of all tiles, tiles. A step's parts of all tiles lie one after the
 * other, as they are read. */
struct w4a8_packed {
    const struct w4a8_kernel *kernel;
    struct w4a8_grouping grouping;
    int64_t rows; /* filled up */
    float *scales;
    int32_t *sums;
    int8_t *tiles;
};

struct w4a8_packed w4a8_find_packed(const struct w4a8_input *input);

/* Rows of the tile that begins at m. */
static inline int64_t w4a8_tile_rows(const struct w4a8_packed *packed, int64_t m) {
    return w4a8_minimum(packed->kernel->tile_rows, packed->rows - m);
}

/* A step's part of the tile that begins at m. */
static inline int8_t *w4a8_tile_at(const struct w4a8_packed *packed, int64_t m,
                                   const struct w4a8_step *step) {
    const int64_t k = step->group * packed->grouping.count + step->k;
    return packed->tiles + k * packed->rows + m * step->groups * step->count;
}

#endif
