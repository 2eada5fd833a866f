#include "kernels/matmul.h"

#include <assert.h>
#include <string.h>

#include "kernels/matmul_kernel.h"

static const struct matmul_kernel *find_kernel(enum kernel_path path,
                                               enum matmul_precision precision) {
    static const struct matmul_kernel *const kernels[PATH_COUNT] = {
        [PATH_PORTABLE] = &matmul_portable,
        [PATH_AVX2] = &matmul_avx2,
        [PATH_AVX512] = &matmul_avx512,
        [PATH_AVX512_BF16] = &matmul_avx512_bf16,
        [PATH_AMX] = &matmul_avx512_bf16,
    };
    if (precision == MATMUL_F32 && path > PATH_AVX512)
        path = PATH_AVX512;
    return kernels[path];
}

static int64_t round_up(int64_t value, int64_t multiple) {
    return (value + multiple - 1) / multiple * multiple;
}

static int64_t minimum(int64_t a, int64_t b) {
    return a < b ? a : b;
}

size_t matmul_packed_bytes(enum kernel_path path, enum matmul_precision precision, int64_t rows,
                           int64_t columns) {
    const struct matmul_kernel *kernel = find_kernel(path, precision);
    return (size_t)(round_up(rows, kernel->vector) * round_up(columns, kernel->k_multiple) *
                    kernel->element);
}

/* Packed X from (m, k) on; m is the first of a tile of `width`. */
static char *packed_at(const struct matmul_kernel *kernel, const struct matmul_packed *packed,
                       int64_t m, int64_t k, int64_t width) {
    const int64_t depth = round_up(packed->columns, kernel->k_multiple);
    return (char *)packed->data + (m * depth + k * width) * kernel->element;
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
            kernel->pack(tile + i * 4, width,
                         packing->x + (m + i) * packing->stride + k_begin, packing->stride,
                         minimum(rows - m - i, kernel->vector), k_end - k_begin, packing->round,
                         maxima);
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

/* A thread's scratch: a panel of W, then the sums of its rows over a block of m. */
enum { PANEL_BYTES = 128 * 1024, SUM_ROWS = 96 };

size_t matmul_scratch_bytes(void) {
    return PANEL_BYTES + SUM_ROWS * MATMUL_SUM_STRIDE * sizeof(float);
}

struct product {
    const struct matmul_kernel *kernel;
    float *y;
    int64_t y_stride;
    const struct matmul_packed *x;
    const struct matmul_weight *w;
    int64_t panel_rows;
    int64_t m_blocks;
    struct team *team;
};

/* Rows of W whose next block is fetched into the cache while this one is multiplied. */
struct ahead {
    const char *next;
    int64_t stride, bytes, rows, rows_a_call;
};

static void fetch_ahead(struct ahead *ahead) {
    const int64_t rows = minimum(ahead->rows, ahead->rows_a_call);
    for (int64_t row = 0; row < rows; row++) {
        for (int64_t byte = 0; byte < ahead->bytes; byte += 64)
            __builtin_prefetch(ahead->next + byte, 0, 2);
        ahead->next += ahead->stride;
    }
    ahead->rows -= rows;
}

/* One panel of W, `count` k of it, against all tiles of X from m_begin to m_end. */
static void multiply_panel(const struct product *product, const char *panel, float *sum,
                           int64_t rows, int64_t m_begin, int64_t m_end, int64_t k, int64_t count,
                           bool first, struct ahead *ahead) {
    const struct matmul_kernel *kernel = product->kernel;
    for (int64_t m = m_begin; m < m_end; m += kernel->width) {
        const int64_t width = tile_width(kernel, product->x->rows, m);
        const int64_t vectors = width / kernel->vector;
        const int64_t tile_rows = kernel->tile_rows[vectors - 1];
        const char *x = packed_at(kernel, product->x, m, k, width);
        for (int64_t row = 0; row < rows; row += tile_rows) {
            kernel->multiply[vectors - 1](sum + row * MATMUL_SUM_STRIDE + (m - m_begin),
                                          panel + row * kernel->panel_stride, x, count, first);
            fetch_ahead(ahead);
        }
    }
}

/* y[m_begin .. m_end - 1, n_begin .. n_end - 1] */
static void run_block(const struct product *product, int64_t n_begin, int64_t n_end,
                      int64_t m_begin, int64_t m_end, char *scratch) {
    const struct matmul_kernel *kernel = product->kernel;
    const struct matmul_weight *w = product->w;
    const int64_t size = (int64_t)number_size(w->type), row_bytes = w->stride * size;
    const int parts = w->type == NUMBER_F16 && kernel->element == 2 ? 2 : 1;
    const int64_t rows = n_end - n_begin, depth = w->columns;
    const int64_t calls = (rows + kernel->tile_rows[0] - 1) / kernel->tile_rows[0] *
                          ((m_end - m_begin + kernel->width - 1) / kernel->width) * parts;
    const char *block = (const char *)w->data + n_begin * row_bytes;
    char *panel = scratch;
    float *sum = (float *)(void *)(scratch + PANEL_BYTES);
    for (int64_t k = 0; k < depth; k += kernel->k_block, block += kernel->k_block * size) {
        const int64_t count = minimum(kernel->k_block, depth - k);
        struct ahead ahead = {
            .next = block + kernel->k_block * size,
            .stride = row_bytes,
            .bytes = minimum(kernel->k_block, depth - k - count) * size,
            .rows = rows,
            .rows_a_call = (rows + calls - 1) / calls,
        };
        for (int64_t row = rows; row < round_up(rows, kernel->row_multiple); row++)
            memset(panel + row * kernel->panel_stride, 0, (size_t)kernel->panel_stride);
        for (int part = 0; part < parts; part++) {
            for (int64_t row = 0; row < rows; row++)
                kernel->load(panel + row * kernel->panel_stride, block + row * row_bytes, w->type,
                             count, (enum matmul_part)part);
            multiply_panel(product, panel, sum, rows, m_begin, m_end, k,
                           round_up(count, kernel->k_multiple), k == 0 && part == 0, &ahead);
        }
    }
    kernel->store(product->y + m_begin * product->y_stride + n_begin, product->y_stride, sum, rows,
                  m_end - m_begin);
}

static void run_items(const struct product *product, int64_t begin, int64_t end, void *scratch) {
    const struct matmul_kernel *kernel = product->kernel;
    if (kernel->begin != NULL)
        kernel->begin();
    for (int64_t item = begin; item < end; item++) {
        const int64_t n = item / product->m_blocks * product->panel_rows;
        const int64_t m = item % product->m_blocks * MATMUL_SUM_COLUMNS;
        run_block(product, n, minimum(n + product->panel_rows, product->w->rows), m,
                  minimum(m + MATMUL_SUM_COLUMNS, product->x->rows), scratch);
    }
    if (kernel->end != NULL)
        kernel->end();
}

static void run_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct product *product = context;
    run_items(product, begin, end, team_scratch(product->team, thread));
}

/* Panels are as tall as the kernel likes, or less so that each thread has some. */
static struct product begin_product(float *y, int64_t y_stride, const struct matmul_packed *packed,
                                    const struct matmul_weight *weight, struct team *team) {
    const struct matmul_kernel *kernel = find_kernel(packed->path, packed->precision);
    const int64_t shares = team == NULL || team_size(team) == 1 ? 1 : 4 * team_size(team);
    assert(weight->columns == packed->columns);
    assert(kernel->element == 4 || weight->type != NUMBER_F32);
    return (struct product){
        .kernel = kernel,
        .y = y,
        .y_stride = y_stride,
        .x = packed,
        .w = weight,
        .panel_rows = minimum(kernel->panel_rows, round_up((weight->rows + shares - 1) / shares,
                                                           kernel->row_multiple)),
        .m_blocks = (packed->rows + MATMUL_SUM_COLUMNS - 1) / MATMUL_SUM_COLUMNS,
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
    team_for(compute->team, item_count(&product), 1, run_task, &product);
}

void matmul_run_serial(float *y, int64_t y_stride, const struct matmul_packed *packed,
                       const struct matmul_weight *weight, void *scratch) {
    const struct product product = begin_product(y, y_stride, packed, weight, NULL);
    run_items(&product, 0, item_count(&product), scratch);
}
