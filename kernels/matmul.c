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

/* Pieces of work that each thread has on average: few, since long reads are fast, and nothing
 * fetches a piece's first weights ahead. */
enum { PIECES = 4 };

struct packing {
    const struct matmul_kernel *kernel;
    const struct matmul_packed *packed;
    const float *x;
    int64_t stride;
    bool round;
    float *maxima;
};

/* Pieces are ranges of k, so that each maximum has one owner. */
enum { PACK_K = 64 /* a multiple of every k_multiple */ };

static void pack_range(const struct packing *packing, int64_t k_begin, int64_t k_end) {
    const struct matmul_kernel *kernel = packing->kernel;
    const int64_t rows = packing->packed->rows;
    float *maxima = packing->maxima == NULL ? NULL : packing->maxima + k_begin;
    const int64_t column_bytes = kernel->tiled ? kernel->k_multiple * element_bytes(kernel) : 4;
    for (int64_t m = 0; m < rows; m += kernel->width) {
        const int64_t width = tile_width(kernel, rows, m);
        char *tile = packed_at(kernel, packing->packed, m, k_begin, width);
        for (int64_t i = 0; i < width; i += kernel->vector) {
            kernel->pack(tile + i * column_bytes, width,
                         packing->x + (m + i) * packing->stride + k_begin, packing->stride,
                         minimum(rows - m - i, kernel->vector), k_end - k_begin, packing->round,
                         maxima);
        }
    }
}

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
    const int64_t items = (columns + PACK_K - 1) / PACK_K,
                  pieces = PIECES * team_size(compute->team);
    team_for(compute->team, items, (items + pieces - 1) / pieces, pack_task, &packing);
}

void matmul_pack_serial(enum kernel_path path, struct matmul_packed *packed, const float *x,
                        int64_t rows, int64_t columns, int64_t stride,
                        enum matmul_precision precision, float *maxima) {
    const struct packing packing =
        begin_packing(path, packed, x, rows, columns, stride, precision, maxima);
    pack_range(&packing, 0, columns);
}

/* A thread's scratch: two panels of W, then the sums of a block. */
size_t matmul_scratch_bytes(void) {
    return 2 * MATMUL_PANEL_BYTES + (size_t)MATMUL_BLOCK_ROWS * MATMUL_SUM_STRIDE * sizeof(float);
}

struct product {
    const struct matmul_kernel *kernel;
    float *y;
    int64_t y_stride;
    const struct matmul_packed *x;
    const struct matmul_weight *w;
    int64_t w_size, row_bytes; /* of an element of W (0: 4-bit levels), from row to row */
    int64_t block_rows;        /* of W */
    int64_t fetch_rows;        /* that a tile has fetched at most */
    bool near;                 /* X stays in the cache */
    int64_t m_blocks;
    int parts;
    bool far; /* see store of matmul_kernel */
    struct team *team;
};

/* y[m .. m_end - 1, n .. n_end - 1], whose sums are kept at once */
struct block {
    int64_t n, n_end, m, m_end;
};

static struct block block_at(const struct product *product, int64_t item) {
    const int64_t n = item / product->m_blocks * product->block_rows;
    const int64_t m = item % product->m_blocks * MATMUL_SUM_COLUMNS;
    return (struct block){.n = n,
                          .n_end = minimum(n + product->block_rows, product->w->rows),
                          .m = m,
                          .m_end = minimum(m + MATMUL_SUM_COLUMNS, product->x->rows)};
}

/* A step of a block: a panel of W, rows n .. n + rows - 1 and k .. k + count - 1 of it. For each k
 * all panels, so that X's part stays in the cache. */
struct step {
    int64_t item, n, rows, k, count;
    int part;
    bool direct; /* W is read where it lies */
};

static struct step step_at(const struct product *product, int64_t item, int64_t n, int64_t k,
                           int part) {
    const struct matmul_kernel *kernel = product->kernel;
    const struct block block = block_at(product, item);
    struct step step = {
        .item = item,
        .n = n,
        .rows = minimum(kernel->panel_rows, block.n_end - n),
        .k = k,
        .count = minimum(kernel->k_block, product->w->columns - k),
        .part = part,
    };
    step.direct = kernel->direct && product->w->scales == NULL &&
                  product->w->type == kernel->element && step.rows == kernel->panel_rows &&
                  step.count % kernel->k_multiple == 0;
    return step;
}

static struct step step_after(const struct product *product, const struct step *step) {
    const struct block block = block_at(product, step->item);
    const int64_t n = step->n + step->rows, k = step->k + step->count;
    if (step->part + 1 < product->parts)
        return step_at(product, step->item, step->n, step->k, step->part + 1);
    if (n < block.n_end)
        return step_at(product, step->item, n, step->k, 0);
    if (k < product->w->columns)
        return step_at(product, step->item, block.n, k, 0);
    return step_at(product, step->item + 1, block_at(product, step->item + 1).n, 0, 0);
}

/* 4-bit weights: nearby, for fetching alone. */
static const char *step_weights(const struct product *product, const struct step *step) {
    if (product->w->scales != NULL)
        return (const char *)product->w->data + (step->n * product->w->stride + step->k) / 2;
    return (const char *)product->w->data +
           (step->n * product->w->stride + step->k) * product->w_size;
}

/* Bring rows begin .. end - 1 of a step's weights into a panel; for those that there are none of
 * its last row, since nothing reads their sums. */
static void load_rows(const struct product *product, const struct step *step, char *panel,
                      int64_t begin, int64_t end) {
    const struct matmul_kernel *kernel = product->kernel;
    const char *w = step_weights(product, step);
    for (int64_t i = begin; i < end; i++) {
        char *panel_row = panel + i * kernel->panel_stride;
        const int64_t row = minimum(i, step->rows - 1);
        if (product->w->scales != NULL) {
            _Alignas(64) char values[MATMUL_K_BLOCK * sizeof(float)];
            matmul_dequantize(values, kernel->element, product->x->precision == MATMUL_BF16,
                              product->w, step->n + row, step->k, step->count);
            kernel->load(panel_row, values, kernel->element, step->count, MATMUL_HIGH);
        } else
            kernel->load(panel_row, w + row * product->row_bytes, product->w->type, step->count,
                         (enum matmul_part)step->part);
    }
}

/* Micro-kernel calls of a step. */
static int64_t count_tiles(const struct product *product, int64_t m, int64_t m_end) {
    const struct matmul_kernel *kernel = product->kernel;
    int64_t count = 0;
    for (; m < m_end; m += kernel->width)
        count += kernel->panel_rows /
                 kernel->tile_rows[tile_width(kernel, product->x->rows, m) / kernel->vector - 1];
    return count;
}

/* A thread's working memory. */
struct buffers {
    char *panel, *next_panel;
    float *sum;
};

/* The sums of the tile of a step's rows from `row` on and of m. */
static float *sums_at(const struct matmul_kernel *kernel, const struct block *block, float *sum,
                      int64_t n, int64_t m) {
    if (!kernel->tiled)
        return sum + (n - block->n) * MATMUL_SUM_STRIDE + (m - block->m);
    const int64_t tile =
        (n - block->n) / kernel->panel_rows * (MATMUL_SUM_COLUMNS / kernel->width) +
        (m - block->m) / kernel->width;
    return sum + tile * kernel->panel_rows * kernel->width;
}

/* The part that a panel has fetched of the X that its tile of columns needs for the next k, of this
 * block or the next one; NULL: none. */
static const char *ahead_of_x(const struct product *product, const struct step *step, int64_t n,
                              int64_t m, int64_t width) {
    const struct matmul_kernel *kernel = product->kernel;
    const int64_t after = step->k + step->count, k = after < product->x->columns ? after : 0;
    const int64_t count = minimum(kernel->k_block, product->x->columns - k);
    const int64_t part = (step->n - n) / kernel->panel_rows * kernel->k_block * MATMUL_AHEAD_X;
    if (!kernel->tiled || product->near || part >= count * width * element_bytes(kernel))
        return NULL;
    return packed_at(kernel, product->x, m, k, width) + part;
}

/* Whether the step's rows have all their products when it is done. */
static bool is_last_of_rows(const struct product *product, const struct step *step) {
    return step->k + step->count == product->w->columns && step->part + 1 == product->parts;
}

/* All tiles of a step. Meanwhile the next step's weights are brought in: each tile deals with a
 * share of their rows. The micro-kernel fetches the first of these into the cache, and when the
 * next tile is done they are copied (or converted) into next_panel, unless they are read where they
 * lie. */
static void multiply_step(const struct product *product, const struct step *step,
                          const struct step *next, const struct buffers *buffers) {
    const struct matmul_kernel *kernel = product->kernel;
    const struct block block = block_at(product, step->item);
    const int64_t tiles = count_tiles(product, block.m, block.m_end);
    assert(tiles > 0);
    const int64_t share = minimum((kernel->panel_rows + tiles - 1) / tiles, product->fetch_rows);
    const char *next_w = step_weights(product, next);
    int64_t fetched = 0, loaded = 0;
    bool direct = step->direct;
    struct matmul_tile tile = {
        .count = round_up(step->count, kernel->k_multiple),
        .first = step->k == 0 && step->part == 0,
        .ahead_size = product->w_size,
    };
    for (int64_t m = block.m; m < block.m_end; m += kernel->width) {
        const int64_t width = tile_width(kernel, product->x->rows, m);
        const int64_t vectors = width / kernel->vector;
        const char *w = direct ? step_weights(product, step) : buffers->panel;
        tile.x = packed_at(kernel, product->x, m, step->k, width);
        tile.ahead_x = ahead_of_x(product, step, block.n, m, width);
        tile.direct = direct;
        tile.w_stride = direct ? product->row_bytes : kernel->panel_stride;
        tile.keep = direct && m + width < block.m_end ? buffers->panel : NULL;
        for (int64_t row = 0; row < step->rows; row += kernel->tile_rows[vectors - 1]) {
            const int64_t fetch_end = minimum(fetched + share, next->rows);
            tile.sum = sums_at(kernel, &block, buffers->sum, step->n + row, m);
            tile.w = w + row * tile.w_stride;
            tile.ahead_count = fetch_end - fetched;
            for (int64_t i = 0; i < kernel->ahead_rows; i++)
                tile.ahead[i] =
                    fetched + i < fetch_end ? next_w + (fetched + i) * product->row_bytes : tile.w;
            kernel->multiply[vectors - 1](&tile);
            if (!next->direct)
                load_rows(product, next, buffers->next_panel, loaded, fetched);
            loaded = fetched;
            fetched = fetch_end;
        }
        direct = direct && !kernel->tiled;
        if (kernel->tiled && is_last_of_rows(product, step))
            kernel->store(product->y + m * product->y_stride + step->n, product->y_stride, tile.sum,
                          step->rows, minimum(width, block.m_end - m), product->far);
    }
    if (!next->direct && next->rows > 0)
        load_rows(product, next, buffers->next_panel, loaded, kernel->panel_rows);
}

static void run_items(const struct product *product, int64_t begin, int64_t end, char *scratch) {
    const struct matmul_kernel *kernel = product->kernel;
    struct buffers buffers = {
        .panel = scratch,
        .next_panel = scratch + MATMUL_PANEL_BYTES,
        .sum = (float *)(void *)(scratch + 2 * MATMUL_PANEL_BYTES),
    };
    struct step step = step_at(product, begin, block_at(product, begin).n, 0, 0);
    if (kernel->begin != NULL)
        kernel->begin();
    if (!step.direct)
        load_rows(product, &step, buffers.panel, 0, kernel->panel_rows);
    while (step.item < end) {
        struct step next = step_after(product, &step);
        if (next.item == end)
            next.rows = 0;
        multiply_step(product, &step, &next, &buffers);
        if (next.item != step.item && !kernel->tiled) {
            const struct block block = block_at(product, step.item);
            kernel->store(product->y + block.m * product->y_stride + block.n, product->y_stride,
                          buffers.sum, block.n_end - block.n, block.m_end - block.m, product->far);
        }
        if (!next.direct) { /* a panel that is written over and over stays in the nearest cache */
            char *used = buffers.panel;
            buffers.panel = buffers.next_panel;
            buffers.next_panel = used;
        }
        step = next;
    }
    if (kernel->end != NULL)
        kernel->end();
}

static void run_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct product *product = context;
    run_items(product, begin, end, team_scratch(product->team, thread));
}

/* Of the X that each block reads. */
static int64_t block_bytes(const struct matmul_kernel *kernel, const struct matmul_packed *packed) {
    const int64_t columns = minimum(round_up(packed->rows, kernel->vector), MATMUL_SUM_COLUMNS);
    return columns * packed->columns * element_bytes(kernel);
}

/* Blocks are as tall as the kernel likes, or less so that each thread has some. Each reads all of
 * X: where X stays in the cache anyway, W is best read from end to end, a panel after another;
 * where X comes from far, it had better come seldom. */
static int64_t choose_block_rows(const struct matmul_kernel *kernel, int64_t bytes, int64_t rows,
                                 int64_t shares) {
    int64_t block_rows = kernel->block_rows;
    if (bytes <= kernel->near_bytes)
        block_rows = kernel->panel_rows;
    else if (bytes > MATMUL_FAR_X_BYTES && kernel->far_block_rows)
        block_rows = kernel->far_block_rows;
    return minimum(block_rows, round_up((rows + shares - 1) / shares, kernel->panel_rows));
}

static struct product begin_product(float *y, int64_t y_stride, const struct matmul_packed *packed,
                                    const struct matmul_weight *weight, struct team *team) {
    const struct matmul_kernel *kernel = find_kernel(packed->path, packed->precision);
    const int64_t shares = team == NULL || team_size(team) == 1 ? 1 : PIECES * team_size(team);
    assert(weight->columns == packed->columns);
    const bool is_int4 = weight->scales != NULL;
    const int64_t bytes = block_bytes(kernel, packed);
    const bool near = bytes <= kernel->near_bytes;
    const int64_t size = is_int4 ? 0 : (int64_t)number_size(weight->type);
    assert(is_int4 || kernel->element == NUMBER_F32 || weight->type != NUMBER_F32);
    assert(kernel->k_block <= MATMUL_K_BLOCK);
    return (struct product){
        .kernel = kernel,
        .y = y,
        .y_stride = y_stride,
        .x = packed,
        .w = weight,
        .w_size = size,
        .row_bytes = is_int4 ? weight->stride / 2 : weight->stride * size,
        .block_rows = choose_block_rows(kernel, bytes, weight->rows, shares),
        .fetch_rows = near || kernel->fetch_rows == 0 ? kernel->panel_rows : kernel->fetch_rows,
        .m_blocks = (packed->rows + MATMUL_SUM_COLUMNS - 1) / MATMUL_SUM_COLUMNS,
        .parts = !is_int4 && weight->type == NUMBER_F16 && kernel->element == NUMBER_BF16 ? 2 : 1,
        .near = near,
        .far = packed->rows * weight->rows * (int64_t)sizeof *y >= MATMUL_FAR_BYTES,
        .team = team,
    };
}

static int64_t item_count(const struct product *product) {
    return (product->w->rows + product->block_rows - 1) / product->block_rows * product->m_blocks;
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
