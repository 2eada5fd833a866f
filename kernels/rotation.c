#include "kernels/rotation.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/math_functions.h"
#include "kernels/memory.h"
#include "kernels/rows.h"

/* ---- The small matrix ---- */

/* Beyond it, a Hadamard matrix would take longer than it is better. */
enum { LARGEST_PALEY = 256 };

static bool is_prime(int64_t number) {
    for (int64_t divisor = 2; divisor * divisor <= number; divisor++)
        if (number % divisor == 0)
            return false;
    return number > 1;
}

/* The Legendre symbol of `number` modulo a prime: 0, 1 for squares, else -1. */
static int quadratic_character(int64_t number, int64_t prime) {
    const int64_t residue = (number % prime + prime) % prime;
    if (residue == 0)
        return 0;
    for (int64_t root = 1; root <= prime / 2; root++)
        if (root * root % prime == residue)
            return 1;
    return -1;
}

/* Paley 1933, the first construction: order q + 1 for a prime q = 3 modulo 4. The second: order
 * 2 (q + 1) for a prime q = 1 modulo 4. 0: neither has the order. */
static int paley_construction(int64_t order) {
    if (order % 4 == 0 && is_prime(order - 1))
        return 1;
    return order % 4 == 0 && is_prime(order / 2 - 1) && (order / 2 - 1) % 4 == 1 ? 2 : 0;
}

/* Element of the matrix that both are made of, (q + 1, q + 1): the quadratic characters of
 * differences, bordered by ones and, in the first column, `corner`; 0 on the diagonal. */
static int paley_core(int64_t row, int64_t column, int64_t prime, int corner) {
    if (row == 0 || column == 0)
        return row == column ? 0 : row == 0 ? 1 : corner;
    return quadratic_character(row - column, prime);
}

static int paley_element(int construction, int64_t order, int64_t row, int64_t column) {
    static const int around[2][2] = {{1, 1}, {1, -1}}, diagonal[2][2] = {{1, -1}, {-1, -1}};
    if (construction == 1)
        return (row == column) + paley_core(row, column, order - 1, -1);
    const int core = paley_core(row / 2, column / 2, order / 2 - 1, 1);
    return core ? core * around[row % 2][column % 2] : diagonal[row % 2][column % 2];
}

/* The least order of a Hadamard matrix by Paley that leaves a power of two, or the odd part. */
static int64_t choose_order(int64_t width) {
    int64_t odd = width;
    while (odd % 2 == 0)
        odd /= 2;
    if (odd == 1)
        return 1;
    for (int64_t order = 4 * odd; order <= LARGEST_PALEY && width % order == 0; order *= 2)
        if (paley_construction(order))
            return order;
    return odd;
}

static void fill_matrix(struct rotation *rotation) {
    const int64_t order = rotation->order;
    const int construction = paley_construction(order);
    const double length = sqrt((double)order);
    for (int64_t i = 0; i < order; i++)
        for (int64_t j = 0; j < order; j++) {
            /* i * j modulo the order keeps the angle small. */
            const double angle = 4 * MATH_PI_2 * (double)(i * j % order) / (double)order;
            const double value = construction ? paley_element(construction, order, j, i)
                                              : math_cos(angle) + math_sin(angle);
            rotation->matrix[i * order + j] = (float)(value / length);
        }
}

/* splitmix64 (Steele, Lea and Flood 2014), a bit of each number. */
static void fill_signs(struct rotation *rotation, uint64_t seed) {
    const int64_t power = rotation->width / rotation->order; /* of 2 */
    const float length = (float)(1 / sqrt((double)power));
    for (int64_t i = 0; i < rotation->width; i++) {
        uint64_t z = seed += UINT64_C(0x9e3779b97f4a7c15);
        z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
        z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
        rotation->signs[i] = (z ^ z >> 31) >> 63 ? -length : length;
    }
}

/* ---- The transform ---- */

/* As many vectors at once, interleaved: [element][lane]. */
enum { LANES = ROWS_LANES };

static size_t scratch_floats(const struct rotation *rotation) {
    return (size_t)(rotation->width + rotation->order) * LANES;
}

bool rotation_create(const struct compute *compute, int64_t width, uint64_t seed,
                     struct rotation *rotation) {
    *rotation = (struct rotation){
        .compute = compute,
        .width = width,
        .order = choose_order(width),
    };
    const size_t order = (size_t)rotation->order;
    rotation->signs = malloc((size_t)width * sizeof(float));
    rotation->matrix = order > 1 ? malloc(order * order * sizeof(float)) : NULL;
    rotation->scratch = memory_allocate((size_t)team_size(compute->team) *
                                        scratch_floats(rotation) * sizeof(float));
    if (!rotation->signs || !rotation->scratch || (order > 1 && !rotation->matrix)) {
        rotation_free(rotation);
        return false;
    }
    fill_signs(rotation, seed);
    if (rotation->matrix)
        fill_matrix(rotation);
    return true;
}

void rotation_free(struct rotation *rotation) {
    free(rotation->signs);
    free(rotation->matrix);
    free(rotation->scratch);
    *rotation = (struct rotation){0};
}

struct vectors {
    const struct rotation *rotation;
    const struct row_functions *rows;
    float *x;
    int64_t count;
    int64_t along, across; /* from an element of a vector to the next; from a vector to the next */
};

/* x of LANES vectors, [element][lane]. */
static void transform(const struct vectors *vectors, float *x, float *spare) {
    const struct rotation *rotation = vectors->rotation;
    const int64_t order = rotation->order, blocks = rotation->width / order;
    vectors->rows->hadamard(x, blocks, order * LANES);
    for (int64_t block = 0; rotation->matrix && block < blocks; block++) {
        float *at = x + block * order * LANES;
        vectors->rows->mix_lanes(spare, at, rotation->matrix, order);
        memcpy(at, spare, (size_t)order * LANES * sizeof *at);
    }
}

static void rotate_group(void *context, int64_t begin, int64_t end, int thread) {
    const struct vectors *vectors = context;
    const struct rotation *rotation = vectors->rotation;
    float *buffer = rotation->scratch + (size_t)thread * scratch_floats(rotation);
    for (int64_t group = begin; group < end; group++) {
        const int64_t left = vectors->count - group * LANES;
        const int64_t lanes = left < LANES ? left : LANES;
        float *x = vectors->x + group * LANES * vectors->across;
        for (int64_t i = 0; i < rotation->width; i++)
            for (int64_t lane = 0; lane < LANES; lane++)
                buffer[i * LANES + lane] =
                    lane < lanes
                        ? x[i * vectors->along + lane * vectors->across] * rotation->signs[i]
                        : 0.0f;
        transform(vectors, buffer, buffer + rotation->width * LANES);
        for (int64_t i = 0; i < rotation->width; i++)
            for (int64_t lane = 0; lane < lanes; lane++)
                x[i * vectors->along + lane * vectors->across] = buffer[i * LANES + lane];
    }
}

static void rotate(const struct rotation *rotation, float *x, int64_t count, int64_t along,
                   int64_t across) {
    struct vectors vectors = {.rotation = rotation,
                              .rows = rows_of_path(rotation->compute->path),
                              .x = x,
                              .count = count,
                              .along = along,
                              .across = across};
    team_for(rotation->compute->team, (count + LANES - 1) / LANES, 1, rotate_group, &vectors);
}

void rotation_apply_rows(const struct rotation *rotation, float *x, int64_t rows) {
    rotate(rotation, x, rows, 1, rotation->width);
}

void rotation_apply_columns(const struct rotation *rotation, float *x, int64_t columns) {
    rotate(rotation, x, columns, columns, 1);
}
