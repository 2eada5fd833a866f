#include "kernels/gptq.h"

#include <math.h>
#include <stdlib.h>

#include "kernels/cholesky_kernel.h"

enum { TILE = CHOLESKY_TILE, STRIDE = CHOLESKY_STRIDE, STRIP = CHOLESKY_STRIP };

static size_t aligned(size_t bytes) {
    return (bytes + 63) & ~(size_t)63;
}

static int64_t padded_columns(int64_t columns) {
    return cholesky_tile_count(columns) * TILE;
}

/* ---- The factor ---- */

/* In the factor's memory: the tiles, the Cholesky's scratch, the diagonal, the order. */
size_t gptq_factor_bytes(int64_t columns) {
    const size_t padded = (size_t)padded_columns(columns);
    return cholesky_bytes(columns) + cholesky_scratch_bytes(columns) +
           aligned((size_t)columns * sizeof(double)) + aligned(padded * sizeof(int32_t));
}

struct fill {
    const struct gptq_hessian *hessian;
    const struct gptq_factor *factor;
    double added; /* to the diagonal */
};

static double scale_of(const struct gptq_hessian *hessian, int64_t column) {
    return hessian->scale ? (double)hessian->scale[column] : 1;
}

/* H between two columns, scaled. */
static double hessian_at(const struct gptq_hessian *hessian, int64_t i, int64_t j) {
    const int64_t row = i < j ? i : j, column = i < j ? j : i;
    return (double)hessian->sums[gptq_packed_at(hessian->columns, row, column)] /
           (scale_of(hessian, row) * scale_of(hessian, column));
}

/* Row `row` of a tile that begins at column `begin`. */
static void fill_row(const struct fill *fill, int64_t row, int64_t begin, double *values) {
    const struct gptq_factor *factor = fill->factor;
    const int32_t i = factor->order[row];
    const bool live = i >= 0 && factor->diagonal[i] > 0;
    for (int64_t column = begin; column < begin + TILE; column++) {
        const int32_t j = factor->order[column];
        const bool alive = live && j >= 0 && factor->diagonal[j] > 0;
        double value = alive ? hessian_at(fill->hessian, i, j) : 0;
        if (row == column)
            value = live ? value + fill->added : 1;
        values[column - begin] = value;
    }
}

static void fill_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct fill *fill = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        for (int64_t column = 0; column <= row / TILE; column++)
            fill_row(fill, row, column * TILE,
                     cholesky_tile(fill->factor->tiles, row / TILE, column) + row % TILE * STRIDE);
}

struct place {
    double diagonal;
    int32_t column;
};

/* Least first; of equal ones, the later column first. */
static int compare_places(const void *left, const void *right) {
    const struct place *a = left, *b = right;
    if (a->diagonal != b->diagonal)
        return a->diagonal < b->diagonal ? -1 : 1;
    return b->column - a->column;
}

/* order: the last is rounded first. `places` (columns): scratch. */
static void put_in_order(struct gptq_factor *factor, struct place *places) {
    const int64_t columns = factor->columns, padding = factor->padded - columns;
    for (int64_t i = 0; i < columns; i++)
        places[i] = (struct place){factor->diagonal[columns - 1 - i], (int32_t)(columns - 1 - i)};
    if (factor->act_order)
        qsort(places, (size_t)columns, sizeof *places, compare_places);
    for (int64_t i = 0; i < factor->padded; i++)
        factor->order[i] = i < padding ? -1 : places[i - padding].column;
}

/* Sets the diagonal; returns the mean of what is not dead. */
static double take_diagonal(const struct gptq_hessian *hessian, struct gptq_factor *factor) {
    double sum = 0;
    factor->dead = 0;
    for (int64_t i = 0; i < hessian->columns; i++) {
        factor->diagonal[i] = hessian_at(hessian, i, i);
        sum += factor->diagonal[i];
        factor->dead += !(factor->diagonal[i] > 0);
    }
    return factor->dead < hessian->columns ? sum / (double)(hessian->columns - factor->dead) : 1;
}

bool gptq_factor_create(const struct compute *compute, const struct gptq_hessian *hessian,
                        bool act_order, double damping, void *memory, struct gptq_factor *factor) {
    const int64_t columns = hessian->columns;
    unsigned char *at = memory;
    *factor = (struct gptq_factor){
        .columns = columns, .padded = padded_columns(columns), .act_order = act_order};
    factor->tiles = (double *)(void *)at;
    double *scratch = (double *)(void *)(at += cholesky_bytes(columns));
    factor->diagonal = (double *)(void *)(at += cholesky_scratch_bytes(columns));
    factor->order = (int32_t *)(void *)(at + aligned((size_t)columns * sizeof(double)));
    const double mean = take_diagonal(hessian, factor);
    put_in_order(factor, (struct place *)(void *)scratch);
    enum { TRIALS = 12 };
    for (int trial = 0; trial < TRIALS; trial++) {
        const struct fill fill = {hessian, factor, mean * damping};
        factor->damping = damping;
        team_for(compute->team, factor->padded, STRIP, fill_rows, (void *)&fill);
        if (cholesky_factor(compute, factor->tiles, columns, scratch))
            return true;
        damping = damping > 1e-6 ? 10 * damping : 1e-5;
    }
    return false;
}

/* ---- Rows ---- */

/* A batch of rows; arrays of columns are in the factor's order. */
struct batch {
    const struct cholesky_functions *functions;
    enum kernel_path path;
    const struct gptq_factor *factor;
    const struct quantize_format *format;
    const struct gptq_rows *result;
    int64_t rows, group_size, group_count;
    const float *shrink; /* (rows, groups), or NULL (kernels/quantize.h) */
    double *errors;      /* (rows, padded): quantized - original */
    double *sums, *copy; /* (rows, STRIDE) of the tile at hand */
    float *weights;      /* (rows, padded) */
    int8_t *levels;      /* (rows, padded) */
    int32_t *groups;     /* (padded) */
    float *plain;        /* (rows, columns) folded, in their own order; or (rows, TILE) predicted */
    uint8_t *packed;     /* (rows, columns) levels that are not wanted */
    void *quantize_scratch;
};

static void *take(unsigned char **at, size_t bytes) {
    void *memory = *at;
    *at += aligned(bytes);
    return memory;
}

/* Lay the arrays out from `memory` (NULL: only count). */
static size_t lay_out(struct batch *batch, int64_t columns, unsigned char *memory) {
    const size_t wide = GPTQ_ROWS * (size_t)padded_columns(columns);
    unsigned char *at = memory;
    batch->errors = take(&at, wide * sizeof(double));
    batch->sums = take(&at, (size_t)GPTQ_ROWS * STRIDE * sizeof(double));
    batch->copy = take(&at, (size_t)GPTQ_ROWS * STRIDE * sizeof(double));
    batch->weights = take(&at, wide * sizeof(float));
    batch->levels = take(&at, wide);
    batch->groups = take(&at, (size_t)padded_columns(columns) * sizeof(int32_t));
    batch->plain = take(&at, wide * sizeof(float));
    batch->packed = take(&at, wide / 2);
    batch->quantize_scratch = take(&at, quantize_scratch_bytes(padded_columns(columns)));
    return (size_t)(at - memory);
}

size_t gptq_scratch_bytes(int64_t columns) {
    struct batch batch;
    static unsigned char nowhere[1];
    return lay_out(&batch, columns, nowhere);
}

/* Folded weights; dead columns are zero. */
static void fold_rows(const struct batch *batch, const struct quantize_source *source,
                      int64_t row_begin) {
    const int64_t columns = batch->factor->columns;
    for (int64_t row = 0; row < batch->rows; row++) {
        float *plain = batch->plain + row * columns;
        const size_t begin = (size_t)((row_begin + row) * source->stride);
        number_widen(plain, (const unsigned char *)source->data + begin * number_size(source->type),
                     source->type, (size_t)columns);
        for (int64_t i = 0; source->row_multiplier && i < columns; i++)
            plain[i] *= source->row_multiplier[row_begin + row];
        for (int64_t i = 0; source->column_multiplier && i < columns; i++)
            plain[i] *= source->column_multiplier[i];
        for (int64_t i = 0; batch->factor->dead && i < columns; i++)
            if (!(batch->factor->diagonal[i] > 0) && isfinite(plain[i]))
                plain[i] = 0;
    }
}

static void gather(const struct batch *batch) {
    const struct gptq_factor *factor = batch->factor;
    for (int64_t i = 0; i < factor->padded; i++)
        batch->groups[i] =
            factor->order[i] < 0 ? -1 : (int32_t)(factor->order[i] / batch->group_size);
    for (int64_t row = 0; row < batch->rows; row++)
        for (int64_t i = 0; i < factor->padded; i++) {
            const int32_t column = factor->order[i];
            const int64_t at = row * factor->padded + i;
            batch->weights[at] = column < 0 ? 0 : batch->plain[row * factor->columns + column];
            batch->errors[at] = 0;
        }
}

/* The levels go back to the columns' own order; errors are summed in it. */
static void scatter(const struct batch *batch) {
    const struct gptq_factor *factor = batch->factor;
    for (int64_t row = 0; row < batch->rows; row++) {
        double error = 0, weight = 0;
        for (int64_t i = factor->padded - 1; i >= factor->padded - factor->columns; i--) {
            const int64_t at = row * factor->padded + i;
            batch->result->levels[row * factor->columns + factor->order[i]] = batch->levels[at];
            error += batch->errors[at] * batch->errors[at];
            weight += (double)batch->weights[at] * (double)batch->weights[at];
        }
        batch->result->squared_error[row] = error;
        batch->result->squared_weight[row] = weight;
    }
}

/* Columns `begin` .. of a tile, down from `end`: strip by strip, the rest of the tile after each.
 */
static void walk_strips(const struct batch *batch, int64_t tile, int64_t begin, int64_t end,
                        double *sums, bool round) {
    const double *diagonal = cholesky_tile(batch->factor->tiles, tile, tile);
    for (int64_t at = end - STRIP; at >= begin; at -= STRIP) {
        const int64_t column = tile * TILE + at;
        const struct gptq_strip strip = {
            .rows = batch->rows,
            .factor = diagonal + at * STRIDE + at,
            .sums = sums + at,
            .errors = batch->errors + column,
            .weights = batch->weights + column,
            .stride = batch->factor->padded,
            .groups = batch->groups + column,
            .levels = round ? batch->levels + column : NULL,
            .scales = batch->result->scales,
            .zero_points = batch->result->zero_points,
            .group_count = batch->group_count,
            .objective = batch->result->objective,
            .predicted = batch->plain + (end - STRIP - at),
        };
        batch->functions->walk(&strip);
        batch->functions->subtract(sums, STRIDE, batch->errors + column, batch->factor->padded,
                                   diagonal + at * STRIDE, batch->rows, STRIP, at);
    }
}

/* The grid of the group that begins (from above) at column `end` of a tile, from its weights as
 * they would be unrounded. Returns the first row that has none, or -1. */
static int64_t predict_grid(const struct batch *batch, int64_t tile, int64_t end) {
    const int64_t first = tile * TILE + end - 1, group = batch->groups[first];
    const int64_t left = batch->factor->columns - group * batch->group_size;
    for (int64_t i = 0; i < batch->rows * STRIDE; i++)
        batch->copy[i] = batch->sums[i];
    walk_strips(batch, tile, end - batch->group_size, end, batch->copy, false);
    float shrink[GPTQ_ROWS];
    for (int64_t row = 0; batch->shrink && row < batch->rows; row++)
        shrink[row] = batch->shrink[row * batch->group_count + group];
    const struct quantize_source source = {
        .data = batch->plain,
        .type = NUMBER_F32,
        .shrink = batch->shrink ? shrink : NULL,
        .columns = left < batch->group_size ? left : batch->group_size,
        .stride = TILE,
    };
    struct quantize_format format = *batch->format;
    format.group_size = 0;
    float scales[GPTQ_ROWS];
    int8_t zero_points[GPTQ_ROWS];
    const int64_t bad = quantize_rows_int4(
        batch->path, &format, &source, 0, batch->rows, batch->packed, scales,
        format.symmetric ? NULL : zero_points, NULL, NULL, batch->quantize_scratch);
    for (int64_t row = 0; row < batch->rows; row++) {
        batch->result->scales[row * batch->group_count + group] = scales[row];
        if (!format.symmetric)
            batch->result->zero_points[row * batch->group_count + group] = zero_points[row];
    }
    return bad;
}

/* The tiles from the last to the first. */
static int64_t round_batch(const struct batch *batch, bool predicts) {
    const int64_t padded = batch->factor->padded, tiles = padded / TILE;
    for (int64_t tile = tiles - 1; tile >= 0; tile--) {
        for (int64_t i = 0; i < batch->rows * STRIDE; i++)
            batch->sums[i] = 0;
        for (int64_t before = tiles - 1; before > tile; before--)
            batch->functions->subtract(batch->sums, STRIDE, batch->errors + before * TILE, padded,
                                       cholesky_tile(batch->factor->tiles, before, tile),
                                       batch->rows, TILE, TILE);
        const int64_t step = predicts ? batch->group_size : TILE;
        for (int64_t end = TILE; end > 0; end -= step) {
            if (batch->groups[tile * TILE + end - 1] < 0)
                break;
            const int64_t bad = predicts ? predict_grid(batch, tile, end) : -1;
            if (bad >= 0)
                return bad;
            walk_strips(batch, tile, end - step, end, batch->sums, true);
        }
    }
    return -1;
}

int64_t gptq_quantize_rows(enum kernel_path path, const struct gptq_factor *factor,
                           const struct quantize_format *format,
                           const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                           const struct gptq_rows *rows, void *scratch) {
    struct batch batch = {
        .functions = cholesky_of_path(path),
        .path = path,
        .factor = factor,
        .format = format,
        .result = rows,
        .rows = row_end - row_begin,
        .group_size = format->group_size ? format->group_size : factor->columns,
        .group_count = quantize_group_count(format, factor->columns),
    };
    if (source->shrink)
        batch.shrink = source->shrink + row_begin * batch.group_count;
    lay_out(&batch, factor->columns, scratch);
    fold_rows(&batch, source, row_begin);
    const struct quantize_source folded = {
        .data = batch.plain,
        .type = NUMBER_F32,
        .columns = factor->columns,
        .stride = factor->columns,
        .shrink = batch.shrink,
    };
    int64_t bad =
        quantize_rows_int4(path, format, &folded, 0, batch.rows, batch.packed, rows->scales,
                           rows->zero_points, NULL, NULL, batch.quantize_scratch);
    if (bad >= 0)
        return row_begin + bad;
    for (int64_t row = 0; row < batch.rows; row++)
        rows->objective[row] = 0;
    gather(&batch);
    const bool whole =
        batch.group_size <= TILE && TILE % batch.group_size == 0 && batch.group_size % STRIP == 0;
    bad = round_batch(&batch, whole && !factor->act_order);
    if (bad >= 0)
        return row_begin + bad;
    scatter(&batch);
    return -1;
}
