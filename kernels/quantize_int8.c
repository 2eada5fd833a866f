#include "kernels/quantize_int8.h"

#include <math.h>

/* Sums run in LANES chains, so that they are vectorised and their order is fixed. */
enum { LANES = 16, LEVELS = 127 };

static double sum_lanes(const double lanes[LANES]) {
    double sum = 0;
    for (int lane = 0; lane < LANES; lane++)
        sum += lanes[lane];
    return sum;
}

/* The largest |w|, and the sum of squares: not finite where a weight or its square is not. */
static float measure(const float *w, int64_t columns, double *squares) {
    float largest[LANES] = {0};
    double sums[LANES] = {0};
    int64_t begin = 0;
    for (; begin + LANES <= columns; begin += LANES) {
#pragma omp simd
        for (int lane = 0; lane < LANES; lane++) {
            const float magnitude = fabsf(w[begin + lane]);
            largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
            sums[lane] += (double)(magnitude * magnitude);
        }
    }
    for (int lane = 0; begin < columns; begin++, lane++) {
        const float magnitude = fabsf(w[begin]);
        largest[lane] = magnitude > largest[lane] ? magnitude : largest[lane];
        sums[lane] += (double)(magnitude * magnitude);
    }
    *squares = sum_lanes(sums);
    for (int lane = 1; lane < LANES; lane++)
        largest[0] = largest[lane] > largest[0] ? largest[lane] : largest[0];
    return largest[0];
}

static float make_scale(float largest, enum number_type type) {
    if (largest == 0)
        return 1;
    const float scale = largest / LEVELS, least = type == NUMBER_F16 ? 0x1p-24f : 0x1p-126f;
    const float rounded = type == NUMBER_F16 ? number_up_to_f16(scale) : scale;
    return rounded > least ? rounded : least;
}

/* Levels of `count` weights; squared errors added to sums, lane by lane. */
static inline void round_lanes(const float *w, int count, float scale, int8_t *levels,
                               double sums[LANES]) {
    const float inverse = 1 / scale;
#pragma omp simd
    for (int lane = 0; lane < count; lane++) {
        const float level = rintf(w[lane] * inverse);
        const float least = level < -LEVELS ? -LEVELS : level;
        const float clamped = least > LEVELS ? LEVELS : least;
        const float error = w[lane] - clamped * scale;
        levels[lane] = (int8_t)clamped;
        sums[lane] += (double)(error * error);
    }
}

int64_t quantize_rows_int8(const struct quantize_source *source, enum number_type scale_type,
                           int64_t row_begin, int64_t row_end, int8_t *levels, float *scales,
                           double *squared_error, double *squared_weight, float *scratch) {
    const int64_t columns = source->columns;
    for (int64_t r = row_begin; r < row_end; r++, levels += columns) {
        double squares, sums[LANES] = {0};
        quantize_fold_row(source, r, scratch);
        const float scale = make_scale(measure(scratch, columns, &squares), scale_type);
        if (!isfinite(squares) || !isfinite(scale))
            return r;
        int64_t c = 0;
        for (; c + LANES <= columns; c += LANES)
            round_lanes(scratch + c, LANES, scale, levels + c, sums);
        round_lanes(scratch + c, (int)(columns - c), scale, levels + c, sums);
        scales[r - row_begin] = scale;
        if (squared_error)
            squared_error[r - row_begin] = sum_lanes(sums);
        if (squared_weight)
            squared_weight[r - row_begin] = squares;
    }
    return -1;
}
