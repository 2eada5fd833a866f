#include "kernels/matmul.h"

#include <assert.h>
#include <string.h>

#include "kernels/matmul_kernel.h"

static const struct matmul_kernel *find_kernel(enum kernel_path path,
                                               enum matmul_precision precision) {
    static const struct matmul_kernel *const kernels[PATH_COUNT] = {
        [PATH_PORTABLE] = &matmul_portable, [PATH_AVX2] = &matmul_avx2,
        [PATH_AVX512] = &matmul_avx512,     [PATH_AVX512_BF16] = &matmul_avx512_bf16,
        [PATH_AMX] = &matmul_amx,
    };
    if (precision == MATMUL_F32 && path > PATH_AVX512)
        path = PATH_AVX512;
    return kernels[path];
}

static int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static int64_t element_bytes(const struct matmul_kernel *kernel) {
    return (int64_t)number_size(kernel->element);
}

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

size_t matmul_packed_bytes(enum kernel_path path, enum matmul_precision precision, int64_t rows,
                           int64_t columns) {
    const struct matmul_kernel *kernel = find_kernel(path, precision);
    return (size_t)(round_up(rows, kernel->vector) * round_up(columns, kernel->k_multiple) *
                    element_bytes(kernel));
}

/* Packed X from (m, k) on; m is the first of a tile of `width`. */
static char *packed_at(const struct matmul_kernel *kernel, const struct matmul_packed *packed,
                       int64_t m, int64_t k, int64_t width) {
    const int64_t depth = round_up(packed->columns, kernel->k_multiple);
    return (char *)packed->data + (m * depth + k * width) * element_bytes(kernel);
}

/* The width of the tile that begins at m. */
static int64_t tile_width(const struct matmul_kernel *kernel, int64_t rows, int64_t m) {
    return minimum(kernel->width, round_up(rows - m, kernel->vector));
}

struct packing {
    const struct matmul_kernel *kernel;
    const struct matmul_packed *packed;
    const float *x;
    int64_t stride;
    bool round;
    float *maxima;
};

/* Pieces are ranges of k, so that each maximum has one owner. */
static void pack_range(const struct packing *packing, int64_t k_begin, int64_t k_end) {
    const struct matmul_kernel *kernel = packing->kernel;
    const int64_t rows = packing->packed->rows;
    float *maxima = packing->maxima == NULL ? NULL : packing->maxima + k_begin;
    for (int64_t m = 0; m < rows; m += kernel->width) {
        const int64_t width = tile_width(kernel, rows, m);
        char *tile = packed_at(kernel, packing->packed, m, k_begin, width);
        for (int64_t i = 0; i < width; i += kernel->vector) {
            kernel->pack(tile + i * 4, width, packing->x + (m + i) * packing->stride + k_begin,
                         packing->stride, minimum(rows - m - i, kernel->vector), k_end - k_begin,
                         packing->round, maxima);
        }
    }
}

enum { PACK_K = 128 }; /* k of a piece, a multiple of every k_multiple */

static void pack_task(void *context, int64_t begin, int64_t end, int thread) {
    (void)thread;
    const struct packing *packing = context;
    pack_range(packing, begin * PACK_K, minimum(end * PACK_K, packing->packed->columns));
}

static struct packing begin_packing(enum kernel_path path, struct matmul_packed *packed,
                                    const float *x, int64_t rows, int64_t columns, int64_t stride,
                                    enum matmul_precision precision, float *maxima) {
    packed->rows = rows;
    packed->columns = columns;
    packed->precision = precision;
    packed->path = path;
    return (struct packing){
        .kernel = find_kernel(path, precision),
        .packed = packed,
        .x = x,
        .stride = stride,
        .round = precision == MATMUL_BF16,
        .maxima = maxima,
    };
}

void matmul_pack(const struct compute *compute, struct matmul_packed *packed, const float *x,
                 int64_t rows, int64_t columns, int64_t stride, enum matmul_precision precision,
                 float *maxima) {
    struct packing packing =
        begin_packing(compute->path, packed, x, rows, columns, stride, precision, maxima);
    team_for(compute->team, (columns + PACK_K - 1) / PACK_K, 1, pack_task, &packing);
}

void matmul_pack_serial(enum kernel_path path, struct matmul_packed *packed, const float *x,
                        int64_t rows, int64_t columns, int64_t stride,
                        enum matmul_precision precision, float *maxima) {
    const struct packing packing =
        begin_packing(path, packed, x, rows, columns, stride, precision, maxima);
    pack_range(&packing, 0, columns);
}

/* A thread's scratch: two panels of W, then the sums of a panel's rows over a block of m. */
enum { PANEL_BYTES = 128 * 1024, SUM_ROWS = 64 };

size_t matmul_scratch_bytes(void) {
    return 2 * PANEL_BYTES + SUM_ROWS * MATMUL_SUM_STRIDE * sizeof(float);
}

struct product {
    const struct matmul_kernel *kernel;
    float *y;
    int64_t y_stride;
    const struct matmul_packed *x;
    const struct matmul_weight *w;
    int64_t panel_rows; /* an item is a panel of W against a block of m */
    int64_t m_blocks;
    int parts;
    struct team *team;
};

/* A step of an item: W rows n .. n + rows - 1, `count` k of them, against X rows m .. m_end - 1. */
struct step {
    int64_t item, n, rows, m, m_end, k, count;
    int part;
    bool direct; /* W is read where it lies; else from a panel */
};

static struct step step_at(const struct product *product, int64_t item, int64_t k, int part) {
    const struct matmul_kernel *kernel = product->kernel;
    const int64_t n = item / product->m_blocks * product->panel_rows;
    const int64_t m = item % product->m_blocks * MATMUL_SUM_COLUMNS;
    struct step step = {
        .item = item,
        .n = n,
        .rows = minimum(product->panel_rows, product->w->rows - n),
        .m = m,
        .m_end = minimum(m + MATMUL_SUM_COLUMNS, product->x->rows),
        .k = k,
        .count = minimum(kernel->k_block, product->w->columns - k),
        .part = part,
    };
    step.direct = kernel->direct && product->w->type == kernel->element &&
                  step.rows % kernel->row_multiple == 0 && step.count % kernel->k_multiple == 0;
    return step;
}

static struct step step_after(const struct product *product, const struct step *step) {
    if (step->part + 1 < product->parts)
        return step_at(product, step->item, step->k, step->part + 1);
    const int64_t k = step->k + step->count;
    return k < product->w->columns ? step_at(product, step->item, k, 0)
                                   : step_at(product, step->item + 1, 0, 0);
}

static const char *step_weights(const struct product *product, const struct step *step) {
    return (const char *)product->w->data +
           (step->n * product->w->stride + step->k) * (int64_t)number_size(product->w->type);
}

/* Brings the next step's rows of W into a panel, a few after each tile of this step, so that the
 * processor copies (and converts) while it multiplies. Rows are fetched into the cache before. */
struct feed {
    const struct matmul_kernel *kernel;
    enum number_type type;
    enum matmul_part part;
    const char *source;
    char *panel;
    int64_t row_bytes, count, rows, fetched, loaded;
};

static struct feed feed_begin(const struct product *product, const struct step *step, char *panel) {
    const struct matmul_kernel *kernel = product->kernel;
    for (int64_t row = step->rows; row < round_up(step->rows, kernel->row_multiple); row++)
        memset(panel + row * kernel->panel_stride, 0, (size_t)kernel->panel_stride);
    return (struct feed){
        .kernel = kernel,
        .type = product->w->type,
        .part = (enum matmul_part)step->part,
        .source = step_weights(product, step),
        .panel = panel,
        .row_bytes = product->w->stride * (int64_t)number_size(product->w->type),
        .count = step->count,
        .rows = step->direct ? 0 : step->rows,
    };
}

static void feed_fetch(struct feed *feed, int64_t rows) {
    const int64_t bytes = feed->count * (int64_t)number_size(feed->type);
    const int64_t end = minimum(feed->rows, feed->loaded + rows);
    for (; feed->fetched < end; feed->fetched++)
        for (int64_t byte = 0; byte < bytes; byte += 64)
            __builtin_prefetch(feed->source + feed->fetched * feed->row_bytes + byte, 0, 2);
}

static void feed_load(struct feed *feed, int64_t rows) {
    const int64_t end = minimum(feed->rows, feed->loaded + rows);
    for (; feed->loaded < end; feed->loaded++)
        feed->kernel->load(feed->panel + feed->loaded * feed->kernel->panel_stride,
                           feed->source + feed->loaded * feed->row_bytes, feed->type, feed->count,
                           feed->part);
}

/* All tiles of a step. w: the step's rows; ahead: where the next step's lie, or NULL. */
static void multiply_step(const struct product *product, const struct step *step, const char *w,
                          int64_t w_stride, const char *ahead, float *sum, struct feed *feed) {
    const struct matmul_kernel *kernel = product->kernel;
    const int64_t tiles = (step->m_end - step->m + kernel->width - 1) / kernel->width *
                          ((step->rows + kernel->tile_rows[0] - 1) / kernel->tile_rows[0]);
    const int64_t feed_share = (feed->rows + tiles - 1) / tiles;
    const bool first = step->k == 0 && step->part == 0;
    feed_fetch(feed, 2 * feed_share);
    for (int64_t m = step->m; m < step->m_end; m += kernel->width) {
        const int64_t width = tile_width(kernel, product->x->rows, m);
        const int64_t vectors = width / kernel->vector;
        const char *x = packed_at(kernel, product->x, m, step->k, width);
        const char *fetched = ahead != NULL && m == step->m ? ahead : w;
        for (int64_t row = 0; row < step->rows; row += kernel->tile_rows[vectors - 1]) {
            kernel->multiply[vectors - 1](
                sum + row * MATMUL_SUM_STRIDE + (m - step->m), w + row * w_stride, w_stride, x,
                round_up(step->count, kernel->k_multiple), first, fetched + row * w_stride);
            feed_load(feed, feed_share);
            feed_fetch(feed, 2 * feed_share);
        }
    }
    feed_load(feed, feed->rows);
}

static void run_items(const struct product *product, int64_t begin, int64_t end, char *scratch) {
    const struct matmul_kernel *kernel = product->kernel;
    const int64_t row_bytes = product->w->stride * (int64_t)number_size(product->w->type);
    char *panel = scratch, *next_panel = scratch + PANEL_BYTES;
    float *sum = (float *)(void *)(scratch + 2 * PANEL_BYTES);
    if (kernel->begin != NULL)
        kernel->begin();
    struct step step = step_at(product, begin, 0, 0);
    struct feed feed = feed_begin(product, &step, panel);
    feed_load(&feed, feed.rows);
    while (step.item < end) {
        const struct step next = step_after(product, &step);
        feed = next.item < end ? feed_begin(product, &next, next_panel) : (struct feed){.rows = 0};
        const bool ahead = step.direct && next.direct && next.item < end;
        multiply_step(product, &step, step.direct ? step_weights(product, &step) : panel,
                      step.direct ? row_bytes : kernel->panel_stride,
                      ahead ? step_weights(product, &next) : NULL, sum, &feed);
        if (next.item != step.item)
            kernel->store(product->y + step.m * product->y_stride + step.n, product->y_stride, sum,
                          step.rows, step.m_end - step.m);
        char *done = panel;
        panel = next_panel;
        next_panel = done;
        step = next;
    }
    if (kernel->end != NULL)
        kernel->end();
}

static void run_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct product *product = context;
    run_items(product, begin, end, team_scratch(product->team, thread));
}

/* Pieces that each thread has on average: few, since a piece's first panel is not fed meanwhile. */
enum { PIECES = 4 };

/* Panels are as tall as the kernel likes, or less so that each thread has some. */
static struct product begin_product(float *y, int64_t y_stride, const struct matmul_packed *packed,
                                    const struct matmul_weight *weight, struct team *team) {
    const struct matmul_kernel *kernel = find_kernel(packed->path, packed->precision);
    const int64_t shares = team == NULL || team_size(team) == 1 ? 1 : PIECES * team_size(team);
    assert(weight->columns == packed->columns);
    assert(kernel->element == NUMBER_F32 || weight->type != NUMBER_F32);
    return (struct product){
        .kernel = kernel,
        .y = y,
        .y_stride = y_stride,
        .x = packed,
        .w = weight,
        .panel_rows = minimum(kernel->panel_rows,
                              round_up((weight->rows + shares - 1) / shares, kernel->row_multiple)),
        .m_blocks = (packed->rows + MATMUL_SUM_COLUMNS - 1) / MATMUL_SUM_COLUMNS,
        .parts = weight->type == NUMBER_F16 && kernel->element == NUMBER_BF16 ? 2 : 1,
        .team = team,
    };
}

static int64_t item_count(const struct product *product) {
    return (product->w->rows + product->panel_rows - 1) / product->panel_rows * product->m_blocks;
}

void matmul_run(const struct compute *compute, float *y, int64_t y_stride,
                const struct matmul_packed *packed, const struct matmul_weight *weight) {
    struct product product = begin_product(y, y_stride, packed, weight, compute->team);
    assert(team_scratch_bytes(compute->team) >= matmul_scratch_bytes());
    assert(packed->path == compute->path);
    const int64_t items = item_count(&product), pieces = PIECES * team_size(compute->team);
    team_for(compute->team, items, (items + pieces - 1) / pieces, run_task, &product);
}

void matmul_run_serial(float *y, int64_t y_stride, const struct matmul_packed *packed,
                       const struct matmul_weight *weight, void *scratch) {
    const struct product product = begin_product(y, y_stride, packed, weight, NULL);
    run_items(&product, 0, item_count(&product), scratch);
}
