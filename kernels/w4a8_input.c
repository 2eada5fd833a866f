#include <string.h>

#include "kernels/w4a8_layout.h"

size_t w4a8_input_bytes(enum kernel_path path, int64_t rows, int64_t columns, int64_t group_size) {
    const struct w4a8_input input = {
        .rows = rows, .columns = columns, .group_size = group_size, .path = path};
    const struct w4a8_packed packed = w4a8_find_packed(&input);
    const int64_t words =
        w4a8_round_up(packed.rows, 16) + w4a8_round_up(packed.rows * packed.grouping.groups, 16);
    return (size_t)(words * 4 + w4a8_round_up(packed.rows * packed.grouping.total, 64));
}

/* Row `row` of that tile from k of a group on; k a multiple of x_span. */
static int8_t *row_at(const struct w4a8_packed *packed, int64_t m, int64_t row, int64_t group,
                      int64_t k) {
    const int64_t rows = w4a8_tile_rows(packed, m), x_span = packed->kernel->x_span;
    const struct w4a8_step step = w4a8_step_of(&packed->grouping, group, k);
    return w4a8_tile_at(packed, m, &step) +
           ((group - step.group) * step.count + k - step.k) * rows + row * x_span;
}

struct quantizing {
    struct w4a8_packed packed;
    const float *x;
    int64_t m, columns, stride;
    const struct w4a8_quantization *how;
};

/* One group of the tile that begins at m, in the pieces that lie together: of one row, or of all
 * (rows > 1), side by side. reciprocals, sums: of these (rows). */
static void quantize_group(const struct quantizing *task, int64_t m, int64_t row, int64_t rows,
                           int64_t group, const float *reciprocals, int32_t *sums) {
    const struct w4a8_kernel *kernel = task->packed.kernel;
    const struct w4a8_grouping *grouping = &task->packed.grouping;
    const int64_t stride = w4a8_tile_rows(&task->packed, m) * kernel->x_span;
    const int64_t size = m + row < task->m ? w4a8_group_size(grouping, group) : 0;
    const int64_t filled = w4a8_group_filled(grouping, group), first = group * grouping->size;
    const float *x = task->x + (m + row) * task->stride + first;
    const float *multiplier = task->how->multiplier;
    memset(sums, 0, (size_t)rows * sizeof *sums);
    for (int64_t k = 0; k < filled; k += W4A8_STEP_K) {
        int8_t *spans = row_at(&task->packed, m, row, group, k);
        const float *multipliers = multiplier == NULL ? NULL : multiplier + first + k;
        const int64_t piece = w4a8_minimum(W4A8_STEP_K, filled - k);
        if (rows > 1)
            kernel->quantize_tile(spans, x + k, task->stride, multipliers, reciprocals, size - k,
                                  piece, sums);
        else
            *sums +=
                kernel->quantize(spans, stride, x + k, multipliers, *reciprocals, size - k, piece);
    }
}

static float token_scale(const struct quantizing *task, int64_t m) {
    if (!task->how->dynamic)
        return task->how->scale;
    const float least = 0x1p-126f;
    const float scale = task->packed.kernel->find_maximum(task->x + m * task->stride,
                                                          task->how->multiplier, task->columns) /
                        127.0f;
    return scale < least ? least : scale;
}

enum { PART_K = 2048 }; /* k of a row quantized before the next row's */

/* A tile's rows in turn, part after part: long enough to be read fast, short enough that the tile's
 * bytes are near when their neighbours come. */
static void quantize_rows(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct quantizing *task = context;
    const struct w4a8_packed *packed = &task->packed;
    const int64_t groups = packed->grouping.groups;
    const int64_t part = 1 + (PART_K - 1) / packed->grouping.size;
    for (int64_t m = begin; m < end; m += packed->kernel->tile_rows) {
        const int64_t rows = w4a8_tile_rows(packed, m);
        float *scales = packed->scales + m;
        int32_t *sums = packed->sums + m * groups;
        float reciprocals[W4A8_MAX_TILE_ROWS];
        for (int64_t row = 0; row < rows; row++) {
            scales[row] = m + row < task->m ? token_scale(task, m + row) : 1.0f;
            reciprocals[row] = 1.0f / scales[row];
        }
        if (packed->kernel->quantize_tile != NULL && m + packed->kernel->tile_rows <= task->m) {
            for (int64_t group = 0; group < groups; group++)
                quantize_group(task, m, 0, rows, group, reciprocals, sums + group * rows);
            continue;
        }
        for (int64_t first = 0; first < groups; first += part)
            for (int64_t row = 0; row < rows; row++)
                for (int64_t group = first; group < w4a8_minimum(first + part, groups); group++)
                    quantize_group(task, m, row, 1, group, &reciprocals[row],
                                   &sums[group * rows + row]);
    }
}

void w4a8_quantize(const struct compute *compute, struct w4a8_input *input, const float *x,
                   int64_t rows, int64_t columns, int64_t stride, int64_t group_size,
                   const struct w4a8_quantization *quantization) {
    input->rows = rows;
    input->columns = columns;
    input->group_size = group_size;
    input->path = compute->path;
    struct quantizing task = {.packed = w4a8_find_packed(input),
                              .x = x,
                              .m = rows,
                              .columns = columns,
                              .stride = stride,
                              .how = quantization};
    team_for(compute->team, task.packed.rows, task.packed.kernel->tile_rows, quantize_rows, &task);
}

void w4a8_input_unpack(const struct w4a8_input *input, int8_t *values, float *scales) {
    const struct w4a8_packed packed = w4a8_find_packed(input);
    const int64_t size = packed.grouping.size, x_span = packed.kernel->x_span;
    for (int64_t row = 0; row < input->rows; row++) {
        const int64_t m = row / packed.kernel->tile_rows * packed.kernel->tile_rows;
        scales[row] = packed.scales[row];
        for (int64_t k = 0; k < input->columns; k++) {
            const int64_t in_span = k % size % x_span;
            const int8_t *span = row_at(&packed, m, row - m, k / size, k % size - in_span);
            values[row * input->columns + k] = span[in_span];
        }
    }
}
