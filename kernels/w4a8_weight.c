#include <assert.h>
#include <string.h>

#include "kernels/w4a8_layout.h"

int64_t w4a8_group_count(int64_t columns, int64_t group_size) {
    return group_size == 0 ? 1 : (columns + group_size - 1) / group_size;
}

size_t w4a8_weight_bytes(const struct w4a8_weight *weight) {
    const struct w4a8_layout layout = w4a8_find_layout(weight);
    return (size_t)(w4a8_round_up(weight->rows, layout.kernel->columns) / layout.kernel->columns *
                    layout.panel_bytes);
}

/* `count` levels from element `first` on, plus the bias, as bytes. */
static void read_levels(uint8_t *levels, const void *values, int bits, int bias, int64_t first,
                        int64_t count) {
    const uint8_t *bytes = values;
    for (int64_t i = 0; i < count; i++) {
        const int64_t at = first + i;
        int level = (int8_t)bytes[bits == 8 ? at : at / 2];
        if (bits == 4)
            level = (((at % 2 != 0 ? level : level >> 4) & 15) ^ 8) - 8;
        levels[i] = (uint8_t)(level + bias);
    }
}

/* A span of one column's levels into the group's bytes. */
static void place_span(const struct w4a8_layout *layout, uint8_t *record, int64_t column,
                       int64_t span, const uint8_t *levels) {
    const struct w4a8_kernel *kernel = layout->kernel;
    const int64_t lane = kernel->lane_columns, quads = kernel->span * layout->bits / 32;
    uint8_t *at = record + (span * (kernel->columns / lane) + column / lane) * quads * lane * 4 +
                  column % lane * 4;
    for (int64_t quad = 0; quad < quads; quad++, at += lane * 4) {
        uint32_t four, high;
        memcpy(&four, levels + 4 * quad, sizeof four);
        if (layout->bits == 4) {
            memcpy(&high, levels + 4 * (quad + quads), sizeof high);
            four = (four & 0x0f0f0f0fu) | (high & 0x0f0f0f0fu) << 4;
        }
        memcpy(at, &four, sizeof four);
    }
}

enum { MAX_SPAN = 64 };

/* values NULL: a row that is not there. first: its first element in values. */
static void pack_row(const struct w4a8_layout *layout, const struct w4a8_weight *weight,
                     int64_t row, const void *values, int64_t first, const float *scales,
                     const int8_t *zero_points) {
    const struct w4a8_grouping *grouping = &layout->grouping;
    const int64_t columns = layout->kernel->columns, span = layout->kernel->span;
    uint8_t *record = (uint8_t *)weight->data + row / columns * layout->panel_bytes;
    const int64_t column = row % columns;
    for (int64_t group = 0; group < grouping->groups; group++) {
        const int64_t size = w4a8_group_size(grouping, group);
        for (int64_t k = 0; k < size; k += span) {
            uint8_t levels[MAX_SPAN] = {0};
            if (values != NULL)
                read_levels(levels, values, layout->bits, layout->bias,
                            first + group * grouping->size + k, w4a8_minimum(span, size - k));
            place_span(layout, record, column, k / span, levels);
        }
        uint8_t *grid = record + w4a8_level_bytes(layout, w4a8_group_filled(grouping, group));
        const float scale = values == NULL ? 0.0f : scales[group];
        memcpy(grid + column * 4, &scale, sizeof scale);
        if (!weight->symmetric)
            grid[columns * 4 + column] =
                (uint8_t)(values == NULL ? 0 : zero_points[group] + layout->bias);
        record = grid + layout->grid_bytes;
    }
}

void w4a8_weight_pack(const struct w4a8_weight *weight, int64_t row_begin, int64_t row_end,
                      const void *values, const float *scales, const int8_t *zero_points) {
    const struct w4a8_layout layout = w4a8_find_layout(weight);
    const int64_t groups = layout.grouping.groups;
    for (int64_t row = row_begin; row < row_end; row++) {
        const int64_t at = row - row_begin;
        pack_row(&layout, weight, row, values, at * weight->columns, scales + at * groups,
                 weight->symmetric ? NULL : zero_points + at * groups);
    }
    if (row_end == weight->rows)
        for (int64_t row = row_end; row < w4a8_round_up(row_end, layout.kernel->columns); row++)
            pack_row(&layout, weight, row, NULL, 0, NULL, NULL);
}
