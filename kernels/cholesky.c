#include "kernels/cholesky.h"

#include <math.h>

#include "kernels/cholesky_kernel.h"

enum { TILE = CHOLESKY_TILE, STRIDE = CHOLESKY_STRIDE, ROWS = 32 /* of a piece of work */ };

int64_t cholesky_tile_count(int64_t order) {
    return (order + TILE - 1) / TILE;
}

size_t cholesky_bytes(int64_t order) {
    const int64_t count = cholesky_tile_count(order);
    return (size_t)(count * (count + 1) / 2 * CHOLESKY_TILE_SIZE) * sizeof(double);
}

/* A row of tiles. */
size_t cholesky_scratch_bytes(int64_t order) {
    return (size_t)(cholesky_tile_count(order) * CHOLESKY_TILE_SIZE) * sizeof(double);
}

/* Column `column` of tiles is computed from those before it. */
struct step {
    const struct cholesky_functions *functions;
    double *tiles, *transposed; /* (column + 1) tiles of row `column`, each transposed */
    int64_t column;
};

static void transpose_tile(double *transposed, const double *tile) {
    for (int64_t i = 0; i < TILE; i += 8)
        for (int64_t j = 0; j < TILE; j++)
            for (int64_t n = i; n < i + 8; n++)
                transposed[j * STRIDE + n] = tile[n * STRIDE + j];
}

static void transpose_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct step *step = context;
    (void)thread;
    for (int64_t k = begin; k < end; k++)
        transpose_tile(step->transposed + k * CHOLESKY_TILE_SIZE,
                       cholesky_tile(step->tiles, step->column, k));
}

/* Pieces of ROWS rows, from the first row of the diagonal's tile on. */
static double *piece_at(const struct step *step, int64_t piece, int64_t column) {
    const int64_t row = step->column + piece / (TILE / ROWS);
    return cholesky_tile(step->tiles, row, column) + piece % (TILE / ROWS) * ROWS * STRIDE;
}

static void subtract_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct step *step = context;
    (void)thread;
    for (int64_t piece = begin; piece < end; piece++)
        for (int64_t k = 0; k < step->column; k++)
            step->functions->subtract(piece_at(step, piece, step->column), STRIDE,
                                      piece_at(step, piece, k), STRIDE,
                                      step->transposed + k * CHOLESKY_TILE_SIZE, ROWS, TILE, TILE);
}

static void solve_task(void *context, int64_t begin, int64_t end, int thread) {
    const struct step *step = context;
    (void)thread;
    for (int64_t piece = begin; piece < end; piece++)
        step->functions->solve(piece_at(step, piece + TILE / ROWS, step->column),
                               step->transposed + step->column * CHOLESKY_TILE_SIZE, ROWS);
}

/* A tile on the diagonal. The rows below row k are solved one column at a time. */
static bool factor_tile(double *tile) {
    for (int k = 0; k < TILE; k++) {
        double *row = tile + k * STRIDE;
        for (int j = 0; j < k; j++) {
            const double *other = tile + j * STRIDE;
            for (int i = 0; i < j; i++)
                row[j] = fma(-row[i], other[i], row[j]);
            row[j] /= other[j];
        }
        for (int i = 0; i < k; i++)
            row[k] = fma(-row[i], row[i], row[k]);
        if (!(row[k] > 0) || !isfinite(row[k]))
            return false;
        row[k] = sqrt(row[k]);
        for (int j = k + 1; j < TILE; j++)
            row[j] = 0;
    }
    return true;
}

bool cholesky_factor(const struct compute *compute, double *tiles, int64_t order, double *scratch) {
    const int64_t count = cholesky_tile_count(order);
    struct step step = {cholesky_of_path(compute->path), tiles, scratch, 0};
    for (int64_t column = 0; column < count; column++) {
        const int64_t pieces = (count - column) * (TILE / ROWS);
        double *diagonal = cholesky_tile(tiles, column, column);
        step.column = column;
        team_for(compute->team, column, 1, transpose_task, &step);
        team_for(compute->team, column ? pieces : 0, 1, subtract_task, &step);
        if (!factor_tile(diagonal))
            return false;
        transpose_tile(step.transposed + column * CHOLESKY_TILE_SIZE, diagonal);
        team_for(compute->team, pieces - TILE / ROWS, 1, solve_task, &step);
    }
    return true;
}
