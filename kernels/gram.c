#include "kernels/gram.h"

#include <math.h>
#include <stdatomic.h>

#include "kernels/gptq.h"

/* Channels in a block of the product: less where there are few, so that all threads have some. */
enum {
    MOST_ROWS = 256,
    FEW_ROWS = 64,
    MANY_CHANNELS = 1024,
    COLUMNS = 256,
    PUT_CHANNELS = 64,
    AHEAD_ROWS = 3
};

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static size_t element_bytes(enum matmul_precision precision) {
    return precision == MATMUL_F32 ? sizeof(float) : sizeof(uint16_t);
}

size_t gram_block_bytes(enum matmul_precision precision, int64_t channels) {
    return (size_t)(channels * GRAM_BLOCK) * element_bytes(precision);
}

struct putting {
    void *block;
    enum matmul_precision precision;
    const float *x;
    int64_t begin, tokens, channels;
};

static void put_channels(void *context, int64_t first, int64_t last, int thread) {
    const struct putting *put = context;
    const int64_t end = smaller(last * PUT_CHANNELS, put->channels);
    (void)thread;
    for (int64_t t = 0; t < put->tokens; t += 16)
        for (int64_t channel = first * PUT_CHANNELS; channel < end; channel++) {
            const int64_t count = smaller(16, put->tokens - t);
            const int64_t at = channel * GRAM_BLOCK + put->begin + t;
            const float *x = put->x + t * put->channels + channel;
            for (int64_t i = 0; i < count; i++)
                if (put->precision == MATMUL_F32)
                    ((float *)put->block)[at + i] = x[i * put->channels];
                else
                    ((uint16_t *)put->block)[at + i] = number_to_bf16(x[i * put->channels]);
        }
}

void gram_put(const struct compute *compute, void *block, enum matmul_precision precision,
              const float *x, int64_t begin, int64_t tokens, int64_t channels) {
    struct putting put = {block, precision, x, begin, tokens, channels};
    team_for(compute->team, (channels + PUT_CHANNELS - 1) / PUT_CHANNELS, 1, put_channels, &put);
}

/* A thread's work space: rows as f32, packed, and their products. */
struct space {
    size_t wide, packed, products;
};

static struct space space_of(enum kernel_path path, enum matmul_precision precision) {
    return (struct space){
        .wide = precision == MATMUL_F32 ? 0 : MOST_ROWS * GRAM_BLOCK * sizeof(float),
        .packed = (matmul_packed_bytes(path, precision, MOST_ROWS, GRAM_BLOCK) + 63) & ~(size_t)63,
        .products = MOST_ROWS * COLUMNS * sizeof(float),
    };
}

static size_t space_bytes(const struct space *space) {
    return space->wide + space->packed + space->products;
}

size_t gram_work_bytes(const struct compute *compute, enum matmul_precision precision) {
    const struct space space = space_of(compute->path, precision);
    return (size_t)team_size(compute->team) * space_bytes(&space);
}

struct adding {
    const struct compute *compute;
    int64_t *sums;
    const unsigned char *block;
    enum matmul_precision precision;
    int64_t tokens, channels, rows;
    double unit; /* 2^exponent */
    struct space space;
    unsigned char *work;
    _Atomic bool too_large;
};

/* Added to a number below 2^51, it leaves the nearest integer (half to even) in the low bits. */
#define ROUNDER 0x1.8p52

/* sums (count) += products (count), rounded. */
static void add_row(int64_t *sums, const float *products, int64_t count, double unit) {
    int64_t zero;
    const double rounder = ROUNDER;
    memcpy(&zero, &rounder, sizeof zero);
#pragma omp simd
    for (int64_t i = 0; i < count; i++) {
        union {
            double number;
            int64_t bits;
        } rounded = {.number = (double)products[i] * unit + rounder};
        sums[i] += rounded.bits - zero;
    }
}

/* Each row of the triangle is in other pages: what is wanted soon is asked for. */
static void fetch_row(const struct adding *adding, int64_t row, int64_t column, int64_t columns) {
    if (row >= adding->channels || column < row)
        return;
    const int64_t *sums = adding->sums + gptq_packed_at(adding->channels, row, column);
    for (int64_t i = 0; i < columns; i += 8)
        __builtin_prefetch(sums + i, 1);
}

/* The triangle's part in rows row .. row + rows - 1 and columns column .. column + columns - 1.
 * No product is larger than the squares on the diagonal. */
static void add_products(struct adding *adding, const float *products, int64_t row, int64_t rows,
                         int64_t column, int64_t columns) {
    for (int64_t i = row; i < row + rows; i++) {
        const int64_t begin = column < i ? i : column;
        const float *from = products + (i - row) * COLUMNS + (begin - column);
        int64_t *to = adding->sums + gptq_packed_at(adding->channels, i, begin);
        if (begin >= column + columns)
            continue;
        fetch_row(adding, i + AHEAD_ROWS, column, columns);
        if (begin == i && !(fabs((double)*from * adding->unit) < 0x1p50)) {
            atomic_store(&adding->too_large, true);
            return;
        }
        add_row(to, from, column + columns - begin, adding->unit);
        if (begin == i && *to >= INT64_C(1) << 61)
            atomic_store(&adding->too_large, true);
    }
}

static void add_rows(struct adding *adding, int64_t row, unsigned char *work, void *scratch) {
    const size_t size = element_bytes(adding->precision);
    const int64_t rows = smaller(adding->rows, adding->channels - row);
    const unsigned char *block = adding->block + (size_t)(row * GRAM_BLOCK) * size;
    const float *wide = (const float *)(const void *)block;
    float *products = (float *)(void *)(work + adding->space.wide + adding->space.packed);
    struct matmul_packed packed = {.data = work + adding->space.wide};
    if (adding->precision != MATMUL_F32) {
        number_widen((float *)(void *)work, block, NUMBER_BF16, (size_t)(rows * GRAM_BLOCK));
        wide = (const float *)(const void *)work;
    }
    matmul_pack_serial(adding->compute->path, &packed, wide, rows, adding->tokens, GRAM_BLOCK,
                       adding->precision, NULL);
    for (int64_t column = row; column < adding->channels; column += COLUMNS) {
        const struct matmul_weight weight = {
            .data = adding->block + (size_t)(column * GRAM_BLOCK) * size,
            .type = adding->precision == MATMUL_F32 ? NUMBER_F32 : NUMBER_BF16,
            .rows = smaller(COLUMNS, adding->channels - column),
            .columns = adding->tokens,
            .stride = GRAM_BLOCK,
        };
        matmul_run_serial(products, COLUMNS, &packed, &weight, scratch);
        add_products(adding, products, row, rows, column, weight.rows);
    }
}

static void add_task(void *context, int64_t begin, int64_t end, int thread) {
    struct adding *adding = context;
    unsigned char *work = adding->work + (size_t)thread * space_bytes(&adding->space);
    for (int64_t i = begin; i < end; i++)
        add_rows(adding, i * adding->rows, work, team_scratch(adding->compute->team, thread));
}

bool gram_add(const struct compute *compute, int64_t *sums, const void *block,
              enum matmul_precision precision, int64_t tokens, int64_t channels, int exponent,
              void *work) {
    struct adding adding = {
        .compute = compute,
        .sums = sums,
        .block = block,
        .precision = precision,
        .tokens = tokens,
        .channels = channels,
        .rows = channels >= MANY_CHANNELS ? MOST_ROWS : FEW_ROWS,
        .unit = ldexp(1, exponent),
        .space = space_of(compute->path, precision),
        .work = work,
    };
    team_for(compute->team, (channels + adding.rows - 1) / adding.rows, 1, add_task, &adding);
    return !adding.too_large;
}
