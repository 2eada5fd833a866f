#include "kernels/w4a8.h"

#include <assert.h>
#include <string.h>

#include "kernels/w4a8_layout.h"

enum { BLOCK_ROWS = 256, MAX_COLUMNS = 48, MAX_PANELS = 16 };
enum { SUM_BYTES = BLOCK_ROWS * MAX_COLUMNS * (int)sizeof(float) }; /* of a panel */

/* A thread's scratch: levels of a block, sums, carries. */
size_t w4a8_scratch_bytes(void) {
    return MAX_COLUMNS * W4A8_STEP_K + 2 * MAX_PANELS * SUM_BYTES;
}

struct product {
    float *y;
    int64_t y_stride;
    int64_t m, n;
    struct w4a8_packed x;
    const uint8_t *weights;
    struct w4a8_layout layout;
    bool symmetric;
    const float *bias;
    bool streams; /* y goes past the caches: it is larger */
    int64_t panels;
    int64_t items_across; /* of a block of m; an item is some panels against it */
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
static int64_t step_bytes(const struct w4a8_layout *layout, const struct w4a8_step *step) {
    return step->count == w4a8_group_filled(&layout->grouping, step->group)
               ? step->groups * (w4a8_level_bytes(layout, step->count) + layout->grid_bytes)
               : w4a8_level_bytes(layout, step->count);
}

static const uint8_t *step_levels(const struct w4a8_layout *layout, const uint8_t *panel,
                                  const struct w4a8_step *step) {
    return panel + step->group * layout->record_bytes + w4a8_level_bytes(layout, step->k);
}

/* Levels of 4 bits are brought to bytes first, others are multiplied where they lie. */
static struct w4a8_block open_block(const struct product *product, const struct item *item,
                                    const struct w4a8_step *step) {
    const struct w4a8_layout *layout = &product->layout;
    const int64_t whole = w4a8_group_filled(&layout->grouping, step->group);
    const int64_t bytes = w4a8_level_bytes(layout, step->count);
    const uint8_t *packed = step_levels(layout, item->panel, step);
    const uint8_t *grid = packed + w4a8_level_bytes(layout, whole - step->k);
    const uint8_t *zero_points = grid + layout->kernel->columns * 4;
    const bool subtract = layout->kernel->subtracts && !product->symmetric;
    if (layout->bits == 4)
        for (int64_t group = 0; group < step->groups; group++)
            layout->kernel->unpack(item->levels + group * 2 * bytes,
                                   packed + group * layout->record_bytes, bytes,
                                   subtract ? zero_points + group * layout->record_bytes : NULL);
    return (struct w4a8_block){
        .weights = layout->bits == 4 ? item->levels : packed,
        .weight_stride = layout->bits == 4 ? 2 * bytes : layout->record_bytes,
        .grid = (const char *)grid,
        .grid_stride = layout->record_bytes,
        .has_zero_points = !product->symmetric && !subtract,
        .zero_point = subtract ? layout->kernel->subtracted_bias : layout->bias,
        .groups = step->groups,
        .count = step->count,
        .opens = step->k == 0,
        .closes = step->k + step->count == whole,
    };
}

enum { Y_AHEAD = 12 }; /* rows of y asked for ahead: far apart, no processor guesses them */

static void finish_rows(const struct product *product, const struct item *item) {
    const struct w4a8_kernel *kernel = product->layout.kernel;
    const int64_t end = w4a8_minimum(item->m_end, product->m);
    const int64_t count = w4a8_minimum(kernel->columns, product->n - item->n);
    for (int64_t m = item->m; m < end; m++) {
        float *y = product->y + m * product->y_stride + item->n;
        if (!product->streams && m + Y_AHEAD < end)
            for (int64_t n = 0; n < count; n += 16)
                __builtin_prefetch(y + Y_AHEAD * product->y_stride + n, 1);
        kernel->finish(y, item->sums + (m - item->m) * kernel->columns, product->x.scales[m],
                       product->bias == NULL ? NULL : product->bias + item->n, count,
                       product->streams);
    }
}

/* A step of an item. */
static void multiply_step(const struct product *product, const struct item *item,
                          const struct w4a8_step *step, const struct w4a8_ahead ahead[2]) {
    const struct w4a8_layout *layout = &product->layout;
    const struct w4a8_kernel *kernel = layout->kernel;
    const struct w4a8_block block = open_block(product, item, step);
    const int64_t rows = item->m_end - item->m;
    if (step->group == 0 && step->k == 0)
        memset(item->sums, 0, (size_t)(rows * kernel->columns) * sizeof(float));
    kernel->multiply[layout->bits == 8](
        &block, &(struct w4a8_rows){
                    .rows = rows,
                    .x = w4a8_tile_at(&product->x, item->m, step),
                    .x_sums = product->x.sums + item->m * layout->grouping.groups,
                    .first_group = step->group,
                    .all_groups = layout->grouping.groups,
                    .sums = item->sums,
                    .carries = item->carries,
                    .ahead = {ahead[0], ahead[1]},
                });
}

/* What is read after panel i of so many: the next panel's levels (the item's next step, the next
 * item), and a part of the next step's X. */
static void find_ahead(const struct product *product, const struct item *items, int64_t panels,
                       int64_t i, const struct w4a8_step *step, const struct w4a8_step *next,
                       struct w4a8_ahead ahead[2]) {
    const struct w4a8_layout *layout = &product->layout;
    const bool last = next->group == layout->grouping.groups;
    const struct w4a8_step first = w4a8_step_of(&layout->grouping, 0, 0);
    const struct w4a8_step *then = last ? &first : next;
    const uint8_t *end = product->weights + product->panels * layout->panel_bytes;
    const uint8_t *panel =
        i + 1 < panels || last ? items[i].panel + layout->panel_bytes : items[0].panel;
    const struct w4a8_step *levels = i + 1 < panels ? step : then;
    ahead[0] = panel < end ? (struct w4a8_ahead){step_levels(layout, panel, levels),
                                                 step_bytes(layout, levels)}
                           : (struct w4a8_ahead){end, 0};
    const int64_t x_bytes = (items[i].m_end - items[i].m) * then->groups * then->count;
    const int64_t begin = x_bytes * i / panels;
    ahead[1] = (struct w4a8_ahead){w4a8_tile_at(&product->x, items[i].m, then) + begin,
                                   x_bytes * (i + 1) / panels - begin};
}

/* Each step of all panels in turn: a step's part of X comes from afar once. */
static void run_item(const struct product *product, int64_t index, uint8_t *scratch) {
    const struct w4a8_layout *layout = &product->layout;
    const int64_t across = product->items_across, place = index % across;
    const int64_t panel = place * product->panels / across;
    const int64_t panels = (place + 1) * product->panels / across - panel;
    const int64_t m = index / across * BLOCK_ROWS;
    struct item items[MAX_PANELS];
    for (int64_t i = 0; i < panels; i++) {
        uint8_t *sums = scratch + MAX_COLUMNS * W4A8_STEP_K + 2 * i * SUM_BYTES;
        items[i] = (struct item){
            .m = m,
            .m_end = w4a8_minimum(m + BLOCK_ROWS, product->x.rows),
            .n = (panel + i) * layout->kernel->columns,
            .panel = product->weights + (panel + i) * layout->panel_bytes,
            .levels = scratch,
            .sums = (float *)(void *)sums,
            .carries = (int32_t *)(void *)(sums + SUM_BYTES),
        };
    }
    struct w4a8_step step = w4a8_step_of(&layout->grouping, 0, 0);
    while (step.group < layout->grouping.groups) {
        const struct w4a8_step next = w4a8_step_after(&layout->grouping, &step);
        for (int64_t i = 0; i < panels; i++) {
            struct w4a8_ahead ahead[2];
            find_ahead(product, items, panels, i, &step, &next, ahead);
            multiply_step(product, &items[i], &step, ahead);
            if (next.group == layout->grouping.groups)
                finish_rows(product, &items[i]);
        }
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
    const struct w4a8_layout *layout = &product->layout;
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
            panels[s] = w4a8_minimum(begin + s * quarter + i, end - 1);
            streams.panels[s] = product->weights + panels[s] * layout->panel_bytes;
        }
        kernel->multiply_streams[layout->bits == 8](&streams);
        for (int64_t s = 0; s < W4A8_STREAMS; s++) {
            const int64_t n = panels[s] * columns;
            kernel->finish(product->y + n, sums + s * columns, product->x.scales[0],
                           product->bias == NULL ? NULL : product->bias + n,
                           w4a8_minimum(columns, product->n - n), false);
        }
    }
}

enum { STREAM_FROM = 1 << 17 }; /* numbers of y: 512 KiB */
enum { PIECES = 4 };            /* that each thread has at least */

/* Items of a block of m: the same number for all threads, of as many panels as can be, so that X is
 * brought near seldom. */
static int64_t count_items(int64_t panels, int64_t m_blocks, int64_t threads) {
    const int64_t least = (panels + MAX_PANELS - 1) / MAX_PANELS;
    const int64_t wanted = (PIECES * threads + m_blocks - 1) / m_blocks;
    const int64_t items = w4a8_round_up(wanted > least ? wanted : least, threads);
    return w4a8_minimum(items, panels);
}

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
        .x = w4a8_find_packed(input),
        .weights = weight->data,
        .layout = w4a8_find_layout(weight),
        .symmetric = weight->symmetric,
        .bias = bias,
        .team = compute->team,
    };
    const struct w4a8_kernel *kernel = product.layout.kernel;
    product.streams = kernel->streams && input->rows * weight->rows >= STREAM_FROM;
    const int64_t threads = team_size(compute->team);
    assert(product.layout.grouping.size == product.x.grouping.size);
    product.panels = (weight->rows + kernel->columns - 1) / kernel->columns;
    if (input->rows == 1 && kernel->multiply_streams[weight->bits == 8] != NULL) {
        team_for(compute->team, product.panels, (product.panels + threads - 1) / threads,
                 run_streams, &product);
        return;
    }
    const int64_t m_blocks = (input->rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    product.items_across = count_items(product.panels, m_blocks, threads);
    team_for(compute->team, product.items_across * m_blocks, 1, run_items, &product);
}
