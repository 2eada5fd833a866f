/* The definitions of quantize_row.h, included by quantize_PATH.c and compiled with that path's
 * instructions. No fused multiply-add and no reduction that the compiler may reorder, so the bits
 * are the same on all: sums and extremes run in 16 lanes, column c in lane c % 16. */
#include <math.h>

#include "kernels/quantize_row.h"

enum { LANES = 16 };

/* Adding and taking away 1.5 * 2^23 rounds to an integer, half to even, for |x| < 2^22. */
static inline float round_half_even(float x) {
    return (x + 12582912.0f) - 12582912.0f;
}

static inline float clamp(float x, float least, float most) {
    x = x < least ? least : x;
    return x > most ? most : x;
}

/* folded = data * row_multiplier * column_multiplier, for columns [begin, end). */
static inline void fold(const struct quantize_row *row, int64_t begin, int64_t end) {
    float *folded = row->folded;
    const float factor = row->row_multiplier;
    const uint16_t *halves = row->data;
    const float *floats = row->data;
    if (row->type == NUMBER_BF16)
#pragma omp simd
        for (int64_t c = begin; c < end; c++)
            folded[c] = number_from_bf16(halves[c]) * factor;
    else if (row->type == NUMBER_F16)
#pragma omp simd
        for (int64_t c = begin; c < end; c++)
            folded[c] = number_from_f16(halves[c]) * factor;
    else
#pragma omp simd
        for (int64_t c = begin; c < end; c++)
            folded[c] = floats[c] * factor;
    const float *multiplier = row->column_multiplier;
    if (multiplier)
#pragma omp simd
        for (int64_t c = begin; c < end; c++)
            folded[c] *= multiplier[c];
}

struct extremes {
    float least[LANES], most[LANES]; /* with 0 */
};

/* Extremes of the group, and its squares added to the row's lanes. */
static inline void measure(const float *w, int64_t begin, int64_t end, struct extremes *found,
                           float squares[LANES]) {
    float least[LANES] = {0}, most[LANES] = {0};
    int64_t c = begin;
    if (begin % LANES == 0)
        for (; c + LANES <= end; c += LANES)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++) {
                const float x = w[c + lane];
                least[lane] = x < least[lane] ? x : least[lane];
                most[lane] = x > most[lane] ? x : most[lane];
                squares[lane] += x * x;
            }
    for (; c < end; c++) {
        const int lane = (int)(c % LANES);
        least[lane] = w[c] < least[lane] ? w[c] : least[lane];
        most[lane] = w[c] > most[lane] ? w[c] : most[lane];
        squares[lane] += w[c] * w[c];
    }
    for (int lane = 0; lane < LANES; lane++) {
        found->least[lane] = least[lane];
        found->most[lane] = most[lane];
    }
}

/* Round up to the stored type: a scale rounded down would leave the extreme weight beyond half a
 * step. */
static inline float stored_scale(float scale, enum number_type type) {
    if (type == NUMBER_F32)
        return scale;
    uint16_t bits = number_to_f16(scale);
    if (number_from_f16(bits) < scale)
        bits++;
    return number_from_f16(bits);
}

struct grid {
    float scale, inverse, zero_point, least, most;
};

static inline struct grid make_grid(const struct extremes *found,
                                    const struct quantize_format *format) {
    float lo = 0, hi = 0;
    for (int lane = 0; lane < LANES; lane++) {
        lo = found->least[lane] < lo ? found->least[lane] : lo;
        hi = found->most[lane] > hi ? found->most[lane] : hi;
    }
    const float amax = hi > -lo ? hi : -lo;
    const float divisor = format->range == QUANTIZE_AMAX_7 ? 7.0f : 7.5f;
    float scale = format->symmetric ? amax / divisor : (hi - lo) / 15.0f;
    scale = scale > 0 ? stored_scale(scale, format->scale_type) : 1.0f;
    struct grid grid = {.scale = scale, .inverse = 1.0f / scale, .least = -8, .most = 7};
    if (!format->symmetric && lo < hi)
        grid.zero_point = clamp(round_half_even(-8.0f - lo / scale), -8, 7);
    if (format->symmetric && format->range == QUANTIZE_AMAX_7)
        grid.least = -7;
    return grid;
}

static inline float level_of(float w, const struct grid *grid) {
    const float steps = round_half_even(clamp(w * grid->inverse, -64, 64));
    return clamp(steps + grid->zero_point, grid->least, grid->most);
}

/* The group's levels, and its squared errors added to the row's lanes. */
static inline void round_group(const float *w, int8_t *levels, int64_t begin, int64_t end,
                               const struct grid *group_grid, float errors[LANES]) {
    const struct grid grid = *group_grid;
    int64_t c = begin;
    if (begin % LANES == 0)
        for (; c + LANES <= end; c += LANES)
#pragma omp simd
            for (int lane = 0; lane < LANES; lane++) {
                const float level = level_of(w[c + lane], &grid);
                const float error = w[c + lane] - (level - grid.zero_point) * grid.scale;
                errors[lane] += error * error;
                levels[c + lane] = (int8_t)(int)level;
            }
    for (; c < end; c++) {
        const float level = level_of(w[c], &grid);
        const float error = w[c] - (level - grid.zero_point) * grid.scale;
        errors[c % LANES] += error * error;
        levels[c] = (int8_t)(int)level;
    }
}

static bool quantize_row(struct quantize_row *row) {
    float errors[LANES] = {0}, squares[LANES] = {0};
    bool fits = true;
    for (int64_t begin = 0, group = 0; begin < row->columns; begin += row->group_size, group++) {
        const int64_t left = row->columns - begin;
        const int64_t end = begin + (left < row->group_size ? left : row->group_size);
        struct extremes found;
        fold(row, begin, end);
        measure(row->folded, begin, end, &found, squares);
        const struct grid grid = make_grid(&found, row->format);
        fits &= isfinite(grid.scale) != 0;
        round_group(row->folded, row->levels, begin, end, &grid, errors);
        row->scales[group] = grid.scale;
        if (row->zero_points)
            row->zero_points[group] = (int8_t)grid.zero_point;
    }
    row->sums[0] = row->sums[1] = 0;
    for (int lane = 0; lane < LANES; lane++) {
        row->sums[0] += (double)errors[lane];
        row->sums[1] += (double)squares[lane];
    }
    /* A weight that is not finite makes its square, and so the sum, not finite. */
    return fits && isfinite(row->sums[1]);
}

static void quantize_pack(uint8_t *packed, const int8_t *values, int64_t count) {
#pragma omp simd
    for (int64_t i = 0; i < count / 2; i++) {
        uint16_t pair;
        memcpy(&pair, values + 2 * i, sizeof pair);
        packed[i] = (uint8_t)(((pair & 0x0fu) << 4) | ((pair >> 8) & 0x0fu));
    }
    if (count % 2)
        packed[count / 2] = (uint8_t)((values[count - 1] & 0x0f) << 4);
}

#define QUANTIZE_FUNCTIONS                                                                         \
    { .row = quantize_row, .pack = quantize_pack }
