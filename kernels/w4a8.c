#include "kernels/w4a8.h"

#include <assert.h>
#include <string.h>

#include "kernels/w4a8_kernel.h"

/* VNNI is no path of its own: its bits are those of the others. Where an avx512 machine lacks it,
 * the 256-bit instructions do. */
static const struct w4a8_kernel *find_kernel(enum kernel_path path) {
    static const struct w4a8_kernel *const kernels[PATH_COUNT] = {
        [PATH_PORTABLE] = &w4a8_portable,
        [PATH_AVX2] = &w4a8_avx2,
        [PATH_AVX512] = &w4a8_avx512_vnni,
        [PATH_AVX512_BF16] = &w4a8_avx512_vnni,
        [PATH_AMX] = &w4a8_amx,
    };
    if (path == PATH_AVX512 && !__builtin_cpu_supports("avx512vnni"))
        path = PATH_AVX2;
    return kernels[path];
}

static int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- Groups: where each lies, filled up to whole spans ---- */

struct grouping {
    int64_t groups, size, last_size; /* k of a group */
    int64_t count, last_count;       /* the same filled up */
    int64_t total;                   /* k of a row, filled up */
};

static struct grouping find_grouping(const struct w4a8_kernel *kernel, int64_t columns,
                                     int64_t group_size) {
    const int64_t size = group_size == 0 || group_size > columns ? columns : group_size;
    const int64_t groups = (columns + size - 1) / size;
    struct grouping grouping = {
        .groups = groups, .size = size, .last_size = columns - (groups - 1) * size};
    grouping.count = round_up(size, kernel->span);
    grouping.last_count = round_up(grouping.last_size, kernel->span);
    grouping.total = (groups - 1) * grouping.count + grouping.last_count;
    return grouping;
}

static int64_t group_size_of(const struct grouping *grouping, int64_t group) {
    return group + 1 < grouping->groups ? grouping->size : grouping->last_size;
}

static int64_t group_count_of(const struct grouping *grouping, int64_t group) {
    return group + 1 < grouping->groups ? grouping->count : grouping->last_count;
}

int64_t w4a8_group_count(int64_t columns, int64_t group_size) {
    return group_size == 0 ? 1 : (columns + group_size - 1) / group_size;
}

/* ---- Steps: what of k is multiplied at once ---- */

enum { BLOCK_K = 512 }; /* k whose levels lie in the nearest cache, a multiple of every span */

/* Some whole groups, all filled up to `count` k, or `count` k of one from k on. */
struct step {
    int64_t group, groups, k, count;
};

/* The step in which k of a group is; k counts filled up ones. */
static struct step step_of(const struct grouping *grouping, int64_t group, int64_t k) {
    const int64_t count = group_count_of(grouping, group);
    if (count > BLOCK_K) {
        const int64_t begin = k / BLOCK_K * BLOCK_K;
        return (struct step){group, 1, begin, minimum(BLOCK_K, count - begin)};
    }
    if (count != grouping->count) /* a short last one */
        return (struct step){group, 1, 0, count};
    const int64_t most = BLOCK_K / count, begin = group / most * most;
    const int64_t alike = grouping->groups - (grouping->last_count != grouping->count);
    return (struct step){begin, minimum(most, alike - begin), 0, count};
}

static struct step step_after(const struct grouping *grouping, const struct step *step) {
    const int64_t k = step->k + step->count, group = step->group + step->groups;
    return k < group_count_of(grouping, step->group) ? step_of(grouping, step->group, k)
           : group < grouping->groups                ? step_of(grouping, group, 0)
                                                     : (struct step){.group = group};
}

/* ---- Weights ---- */

struct layout {
    const struct w4a8_kernel *kernel;
    struct grouping grouping;
    int bits, bias;
    int64_t grid_bytes, record_bytes, panel_bytes;
};

static int64_t level_bytes(const struct layout *layout, int64_t count) {
    return layout->kernel->columns * count * layout->bits / 8;
}

static struct layout find_layout(const struct w4a8_weight *weight) {
    const struct w4a8_kernel *kernel = find_kernel(weight->path);
    assert((weight->bits == 4 || weight->bits == 8) && (weight->bits == 4 || weight->symmetric));
    struct layout layout = {
        .kernel = kernel,
        .grouping = find_grouping(kernel, weight->columns, weight->group_size),
        .bits = weight->bits,
        .bias = weight->bits == 4 ? kernel->bias4 : kernel->bias8,
        .grid_bytes = round_up(kernel->columns * (weight->symmetric ? 4 : 5), 64),
    };
    layout.record_bytes = level_bytes(&layout, layout.grouping.count) + layout.grid_bytes;
    layout.panel_bytes = round_up(level_bytes(&layout, layout.grouping.total), 64) +
                         layout.grouping.groups * layout.grid_bytes;
    return layout;
}

size_t w4a8_weight_bytes(const struct w4a8_weight *weight) {
    const struct layout layout = find_layout(weight);
    return (size_t)(round_up(weight->rows, layout.kernel->columns) / layout.kernel->columns *
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
static void place_span(const struct layout *layout, uint8_t *record, int64_t column, int64_t span,
                       const uint8_t *levels) {
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
static void pack_row(const struct layout *layout, const struct w4a8_weight *weight, int64_t row,
                     const void *values, int64_t first, const float *scales,
                     const int8_t *zero_points) {
    const struct grouping *grouping = &layout->grouping;
    const int64_t columns = layout->kernel->columns, span = layout->kernel->span;
    uint8_t *record = (uint8_t *)weight->data + row / columns * layout->panel_bytes;
    const int64_t column = row % columns;
    for (int64_t group = 0; group < grouping->groups; group++) {
        const int64_t size = group_size_of(grouping, group);
        for (int64_t k = 0; k < size; k += span) {
            uint8_t levels[MAX_SPAN] = {0};
            if (values != NULL)
                read_levels(levels, values, layout->bits, layout->bias,
                            first + group * grouping->size + k, minimum(span, size - k));
            place_span(layout, record, column, k / span, levels);
        }
        uint8_t *grid = record + level_bytes(layout, group_count_of(grouping, group));
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
    const struct layout layout = find_layout(weight);
    const int64_t groups = layout.grouping.groups;
    for (int64_t row = row_begin; row < row_end; row++) {
        const int64_t at = row - row_begin;
        pack_row(&layout, weight, row, values, at * weight->columns, scales + at * groups,
                 weight->symmetric ? NULL : zero_points + at * groups);
    }
    if (row_end == weight->rows)
        for (int64_t row = row_end; row < round_up(row_end, layout.kernel->columns); row++)
            pack_row(&layout, weight, row, NULL, 0, NULL, NULL);
}

/* ---- Activations ---- */

/* Packed X: scales of all rows, sums of all tiles, tiles. A step's parts of all tiles lie one after
 * the other, as they are read. */
struct packed_input {
    const struct w4a8_kernel *kernel;
    struct grouping grouping;
    int64_t rows; /* filled up */
    float *scales;
    int32_t *sums;
    int8_t *tiles;
};

static struct packed_input find_input(const struct w4a8_input *input) {
    const struct w4a8_kernel *kernel = find_kernel(input->path);
    struct packed_input packed = {
        .kernel = kernel,
        .grouping = find_grouping(kernel, input->columns, input->group_size),
        .rows = round_up(input->rows, kernel->row_multiple),
        .scales = input->data,
    };
    packed.sums = (int32_t *)input->data + round_up(packed.rows, 16);
    packed.tiles = (int8_t *)(packed.sums + round_up(packed.rows * packed.grouping.groups, 16));
    return packed;
}

size_t w4a8_input_bytes(enum kernel_path path, int64_t rows, int64_t columns, int64_t group_size) {
    const struct w4a8_input input = {
        .rows = rows, .columns = columns, .group_size = group_size, .path = path};
    const struct packed_input packed = find_input(&input);
    const int64_t words =
        round_up(packed.rows, 16) + round_up(packed.rows * packed.grouping.groups, 16);
    return (size_t)(words * 4 + round_up(packed.rows * packed.grouping.total, 64));
}

/* Rows of the tile that begins at m. */
static int64_t tile_rows(const struct packed_input *packed, int64_t m) {
    return minimum(packed->kernel->tile_rows, packed->rows - m);
}

/* A step's part of the tile that begins at m. */
static int8_t *tile_at(const struct packed_input *packed, int64_t m, const struct step *step) {
    const int64_t k = step->group * packed->grouping.count + step->k;
    return packed->tiles + k * packed->rows + m * step->groups * step->count;
}

/* Row `row` of that tile from k of a group on; k a multiple of x_span. */
static int8_t *row_at(const struct packed_input *packed, int64_t m, int64_t row, int64_t group,
                      int64_t k) {
    const int64_t rows = tile_rows(packed, m), x_span = packed->kernel->x_span;
    const struct step step = step_of(&packed->grouping, group, k);
    return tile_at(packed, m, &step) + ((group - step.group) * step.count + k - step.k) * rows +
           row * x_span;
}

struct quantizing {
    struct packed_input packed;
    const float *x;
    int64_t m, columns, stride;
    const struct w4a8_quantization *how;
};

/* The sum as the path's kernel reads it. */
static int32_t store_sum(const struct w4a8_kernel *kernel, int32_t sum) {
    if (!kernel->paired_sums)
        return sum;
    const int32_t high = (sum + W4A8_PAIR / 2) >> 11, low = sum - high * W4A8_PAIR;
    return (int32_t)((uint32_t)high << 16 | (uint16_t)low);
}

enum { PIECE = 256 }; /* k quantized at once, a multiple of every span */

/* One group of row `row` of the tile that begins at m. */
static int32_t quantize_group(const struct quantizing *task, int64_t m, int64_t row, int64_t group,
                              float reciprocal) {
    const struct w4a8_kernel *kernel = task->packed.kernel;
    const struct grouping *grouping = &task->packed.grouping;
    const int64_t rows = tile_rows(&task->packed, m), x_span = kernel->x_span;
    const int64_t size = group_size_of(grouping, group), first = group * grouping->size;
    const int64_t count = group_count_of(grouping, group);
    const float *multiplier = task->how->multiplier;
    int32_t sum = 0;
    for (int64_t k = 0; k < count; k += PIECE) {
        int8_t values[PIECE];
        const int64_t filled = minimum(PIECE, count - k);
        const int64_t here = m + row < task->m ? minimum(PIECE, size - k) : 0;
        if (here > 0)
            sum += kernel->quantize(values, task->x + (m + row) * task->stride + first + k,
                                    multiplier == NULL ? NULL : multiplier + first + k, reciprocal,
                                    here);
        const int64_t present = here > 0 ? here : 0;
        memset(values + present, 0, (size_t)(filled - present));
        int8_t *at = row_at(&task->packed, m, row, group, k);
        if (x_span == 4)
            for (int64_t i = 0; i < filled; i += 4, at += rows * 4)
                memcpy(at, values + i, 4);
        else
            for (int64_t i = 0; i < filled; i += x_span, at += rows * x_span)
                memcpy(at, values + i, (size_t)x_span);
    }
    return sum;
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

/* Group after group of all rows: a tile's bytes stay in the nearest cache until they are all there,
 * and x is read from several places at once. */
static void quantize_rows(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct quantizing *task = context;
    const struct packed_input *packed = &task->packed;
    const int64_t groups = packed->grouping.groups;
    for (int64_t m = begin; m < end; m += packed->kernel->tile_rows) {
        const int64_t rows = tile_rows(packed, m);
        float *scales = packed->scales + m;
        for (int64_t row = 0; row < rows; row++)
            scales[row] = m + row < task->m ? token_scale(task, m + row) : 1.0f;
        for (int64_t i = 0; i < groups * rows; i++)
            packed->sums[m * groups + i] =
                store_sum(packed->kernel,
                          quantize_group(task, m, i % rows, i / rows, 1.0f / scales[i % rows]));
    }
}

void w4a8_quantize(const struct compute *compute, struct w4a8_input *input, const float *x,
                   int64_t rows, int64_t columns, int64_t stride, int64_t group_size,
                   const struct w4a8_quantization *quantization) {
    input->rows = rows;
    input->columns = columns;
    input->group_size = group_size;
    input->path = compute->path;
    struct quantizing task = {.packed = find_input(input),
                              .x = x,
                              .m = rows,
                              .columns = columns,
                              .stride = stride,
                              .how = quantization};
    team_for(compute->team, task.packed.rows, task.packed.kernel->tile_rows, quantize_rows, &task);
}

void w4a8_input_unpack(const struct w4a8_input *input, int8_t *values, float *scales) {
    const struct packed_input packed = find_input(input);
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

/* ---- Product ---- */

enum { BLOCK_ROWS = 256, MAX_COLUMNS = 48, MAX_PANELS = 4 };
enum { SUM_BYTES = BLOCK_ROWS * MAX_COLUMNS * (int)sizeof(float) }; /* of a panel */

/* A thread's scratch: levels of a block, sums, carries. */
size_t w4a8_scratch_bytes(void) {
    return MAX_COLUMNS * BLOCK_K + 2 * MAX_PANELS * SUM_BYTES;
}

struct product {
    float *y;
    int64_t y_stride;
    int64_t m, n;
    struct packed_input x;
    const uint8_t *weights;
    struct layout layout;
    bool symmetric;
    const float *bias;
    int64_t panels, item_panels; /* an item is some panels against a block of m */
    int64_t items_across;        /* items of a block of m */
    struct team *team;
};

/* A panel against rows m .. m_end - 1 of X. */
struct item {
    int64_t m, m_end, n;
    const uint8_t *panel;
    uint8_t *levels; /* of a step */
    float *sums;
    int32_t *carries;
};

/* Bytes of a step's levels (and grids), as they lie. */
static int64_t step_bytes(const struct layout *layout, const struct step *step) {
    return step->count == group_count_of(&layout->grouping, step->group)
               ? step->groups * (level_bytes(layout, step->count) + layout->grid_bytes)
               : level_bytes(layout, step->count);
}

static const uint8_t *step_levels(const struct layout *layout, const struct item *item,
                                  const struct step *step) {
    return item->panel + step->group * layout->record_bytes + level_bytes(layout, step->k);
}

/* Levels of 4 bits are brought to bytes first, others are multiplied where they lie. */
static struct w4a8_block open_block(const struct product *product, const struct item *item,
                                    const struct step *step) {
    const struct layout *layout = &product->layout;
    const int64_t whole = group_count_of(&layout->grouping, step->group);
    const int64_t bytes = level_bytes(layout, step->count);
    const uint8_t *packed = step_levels(layout, item, step);
    if (layout->bits == 4)
        for (int64_t group = 0; group < step->groups; group++)
            layout->kernel->unpack(item->levels + group * 2 * bytes,
                                   packed + group * layout->record_bytes, bytes);
    return (struct w4a8_block){
        .weights = layout->bits == 4 ? item->levels : packed,
        .weight_stride = layout->bits == 4 ? 2 * bytes : layout->record_bytes,
        .grid = (const char *)packed + level_bytes(layout, whole - step->k),
        .grid_stride = layout->record_bytes,
        .has_zero_points = !product->symmetric,
        .zero_point = layout->bias,
        .groups = step->groups,
        .count = step->count,
        .opens = step->k == 0,
        .closes = step->k + step->count == whole,
    };
}

static void finish_rows(const struct product *product, const struct item *item, int64_t m,
                        int64_t rows, const float *sums) {
    const struct w4a8_kernel *kernel = product->layout.kernel;
    for (int64_t row = 0; row < minimum(rows, product->m - m); row++)
        kernel->finish(product->y + (m + row) * product->y_stride + item->n,
                       sums + row * kernel->columns, product->x.scales[m + row],
                       product->bias == NULL ? NULL : product->bias + item->n,
                       minimum(kernel->columns, product->n - item->n));
}

/* A step of an item, tile after tile. What follows in memory, in this panel or the next, is fetched
 * meanwhile; a tile is written as soon as it is done, so that its stores go on beside the next. */
static void multiply_step(const struct product *product, const struct item *item,
                          const struct step *step, bool last) {
    const struct layout *layout = &product->layout;
    const struct w4a8_kernel *kernel = layout->kernel;
    const struct w4a8_block block = open_block(product, item, step);
    const int64_t tiles = (item->m_end - item->m + kernel->tile_rows - 1) / kernel->tile_rows;
    const uint8_t *ahead = step_levels(layout, item, step) + step_bytes(layout, step);
    const int64_t left = product->weights + product->panels * layout->panel_bytes - ahead;
    const int64_t ahead_bytes = minimum(step_bytes(layout, step), left);
    const int64_t share = round_up((ahead_bytes + tiles - 1) / tiles, 64);
    int64_t fetched = 0;
    for (int64_t m = item->m; m < item->m_end; m += kernel->tile_rows) {
        const int64_t rows = tile_rows(&product->x, m), at = (m - item->m) * kernel->columns;
        const int64_t shape = rows / kernel->row_multiple - 1;
        for (const int64_t end = minimum(ahead_bytes, fetched + share); fetched < end;
             fetched += 64)
            __builtin_prefetch(ahead + fetched, 0, 2);
        if (step->group == 0 && step->k == 0)
            memset(item->sums + at, 0, (size_t)(rows * kernel->columns) * sizeof(float));
        (layout->bits == 4 ? kernel->multiply4 : kernel->multiply8)[shape](
            &block, tile_at(&product->x, m, step),
            product->x.sums + m * layout->grouping.groups + step->group * rows, item->sums + at,
            item->carries + at);
        if (last)
            finish_rows(product, item, m, rows, item->sums + at);
    }
}

/* Each step of all panels in turn: a step's part of X comes from afar once. */
static void run_item(const struct product *product, int64_t index, uint8_t *scratch) {
    const struct layout *layout = &product->layout;
    const int64_t panel = index % product->items_across * product->item_panels;
    const int64_t panels = minimum(product->item_panels, product->panels - panel);
    const int64_t m = index / product->items_across * BLOCK_ROWS;
    struct item items[MAX_PANELS];
    for (int64_t i = 0; i < panels; i++) {
        uint8_t *sums = scratch + MAX_COLUMNS * BLOCK_K + 2 * i * SUM_BYTES;
        items[i] = (struct item){
            .m = m,
            .m_end = minimum(m + BLOCK_ROWS, product->x.rows),
            .n = (panel + i) * layout->kernel->columns,
            .panel = product->weights + (panel + i) * layout->panel_bytes,
            .levels = scratch,
            .sums = (float *)(void *)sums,
            .carries = (int32_t *)(void *)(sums + SUM_BYTES),
        };
    }
    struct step step = step_of(&layout->grouping, 0, 0);
    while (step.group < layout->grouping.groups) {
        const struct step next = step_after(&layout->grouping, &step);
        for (int64_t i = 0; i < panels; i++)
            multiply_step(product, &items[i], &step, next.group == layout->grouping.groups);
        step = next;
    }
}

static void run_items(void *context, int64_t begin, int64_t end, int thread) {
    const struct product *product = context;
    const struct w4a8_kernel *kernel = product->layout.kernel;
    if (kernel->begin != NULL)
        kernel->begin();
    for (int64_t item = begin; item < end; item++)
        run_item(product, item, team_scratch(product->team, thread));
    if (kernel->end != NULL)
        kernel->end();
}

/* Panels begin .. end - 1 against one row, a quarter of them each in a stream of its own: memory
 * is read fastest from a few places far apart. */
static void run_streams(void *context, int64_t begin, int64_t end, int thread) {
    const struct product *product = context;
    const struct layout *layout = &product->layout;
    const struct w4a8_kernel *kernel = layout->kernel;
    const int64_t columns = kernel->columns;
    const int64_t quarter = (end - begin + W4A8_STREAMS - 1) / W4A8_STREAMS;
    float *sums = team_scratch(product->team, thread);
    for (int64_t i = 0; i < quarter; i++) {
        struct w4a8_streams streams = {
            .x = product->x.tiles,
            .x_sums = product->x.sums,
            .groups = layout->grouping.groups,
            .count = layout->grouping.count,
            .last_count = layout->grouping.last_count,
            .record_bytes = layout->record_bytes,
            .has_zero_points = !product->symmetric,
            .zero_point = layout->bias,
            .sums = sums,
        };
        /* A stream that is at its end reads its last panel again. */
        int64_t panels[W4A8_STREAMS];
        for (int64_t s = 0; s < W4A8_STREAMS; s++) {
            panels[s] = minimum(begin + s * quarter + i, end - 1);
            streams.panels[s] = product->weights + panels[s] * layout->panel_bytes;
        }
        kernel->multiply_streams[layout->bits == 8](&streams);
        for (int64_t s = 0; s < W4A8_STREAMS; s++) {
            const int64_t n = panels[s] * columns;
            kernel->finish(product->y + n, sums + s * columns, product->x.scales[0],
                           product->bias == NULL ? NULL : product->bias + n,
                           minimum(columns, product->n - n));
        }
    }
}

enum { PIECES = 4 }; /* that each thread has on average */

void w4a8_run(const struct compute *compute, float *y, int64_t y_stride,
              const struct w4a8_input *input, const struct w4a8_weight *weight, const float *bias) {
    assert(weight->path == compute->path && input->path == compute->path);
    assert(weight->columns == input->columns);
    assert(team_scratch_bytes(compute->team) >= w4a8_scratch_bytes());
    struct product product = {
        .y = y,
        .y_stride = y_stride,
        .m = input->rows,
        .n = weight->rows,
        .x = find_input(input),
        .weights = weight->data,
        .layout = find_layout(weight),
        .symmetric = weight->symmetric,
        .bias = bias,
        .team = compute->team,
    };
    const struct w4a8_kernel *kernel = product.layout.kernel;
    const int64_t threads = team_size(compute->team);
    assert(product.layout.grouping.size == product.x.grouping.size);
    product.panels = (weight->rows + kernel->columns - 1) / kernel->columns;
    if (input->rows == 1 && kernel->multiply_streams[weight->bits == 8] != NULL) {
        team_for(compute->team, product.panels, (product.panels + threads - 1) / threads,
                 run_streams, &product);
        return;
    }
    const int64_t m_blocks = (input->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    const int64_t share = product.panels * m_blocks / (PIECES * threads);
    product.item_panels = share < 1 ? 1 : minimum(share, MAX_PANELS);
    product.items_across = (product.panels + product.item_panels - 1) / product.item_panels;
    const int64_t items = product.items_across * m_blocks;
    team_for(compute->team, items, (items + PIECES * threads - 1) / (PIECES * threads), run_items,
             &product);
}
