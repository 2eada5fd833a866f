/* The Cholesky factor of a symmetric positive matrix, in doubles, in place: H = L . L^T.
 *
 * The lower triangle lies in square tiles, tile (I, J) with J <= I at cholesky_tile(): rows and
 * columns of CHOLESKY_TILE, row-major, CHOLESKY_STRIDE from row to row. The order of a matrix is a
 * multiple of CHOLESKY_TILE: what is smaller is padded with the identity. Above the diagonal the
 * factor's tiles have zeros.
 *
 * L[i][j] is one chain of fused multiply-adds from H[i][j] in ascending k, then one division: the
 * same bits on every path and for any number of threads, which is why no LAPACK does it. */
#ifndef FPTQ_KERNELS_CHOLESKY_H
#define FPTQ_KERNELS_CHOLESKY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kernels/team.h"

/* The stride is no power of two, for the caches' sake. */
enum { CHOLESKY_TILE = 128, CHOLESKY_STRIDE = 136 };
enum { CHOLESKY_TILE_SIZE = CHOLESKY_TILE * CHOLESKY_STRIDE };

static inline double *cholesky_tile(double *tiles, int64_t row, int64_t column) {
    return tiles + (row * (row + 1) / 2 + column) * CHOLESKY_TILE_SIZE;
}

/* Tiles in a row of a matrix of the order; bytes of the matrix, and of cholesky_factor's scratch.
 */
int64_t cholesky_tile_count(int64_t order);
size_t cholesky_bytes(int64_t order);
size_t cholesky_scratch_bytes(int64_t order);

/* tiles, scratch: 64-byte aligned. Returns false, the tiles then undefined, where the matrix is not
 * positive. */
bool cholesky_factor(const struct compute *compute, double *tiles, int64_t order, double *scratch);

#endif
