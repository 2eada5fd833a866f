#include "kernels/clip_mse.h"

#include <math.h>
#include <string.h>

#include "kernels/clip_mse_group.h"

static clip_mse_errors *errors_of(enum kernel_path path) {
    return path >= PATH_AVX512 ? clip_mse_errors_avx512
           : path == PATH_AVX2 ? clip_mse_errors_avx2
                               : clip_mse_errors_portable;
}

static int64_t whole_lanes(int64_t count) {
    return (count + CLIP_MSE_LANES - 1) / CLIP_MSE_LANES * CLIP_MSE_LANES;
}

/* A folded row, then one group of it, padded with zeros, which have no error. */
size_t clip_mse_scratch_bytes(int64_t columns) {
    return 2 * (size_t)whole_lanes(columns) * sizeof(float);
}

static float best_factor(clip_mse_errors *errors, const struct quantize_format *format,
                         const float *w, int64_t count) {
    float lo = 0, hi = 0, least = INFINITY, best = 1;
    for (int64_t i = 0; i < count; i++) {
        lo = w[i] < lo ? w[i] : lo;
        hi = w[i] > hi ? w[i] : hi;
    }
    float unit = 1;
    const bool seven = format->symmetric && format->range == QUANTIZE_AMAX_7;
    for (int step = 0; step < CLIP_MSE_STEPS; step++) {
        const float factor = 1 - (float)step / 100;
        const struct quantize_grid grid = quantize_grid(format, lo * factor, hi * factor);
        const float sum =
            errors(w, whole_lanes(count), 1 / grid.scale, grid.zero_point, seven ? -7.0f : -8.0f);
        unit = step == 0 ? grid.scale : unit;
        const float error = sum * clip_mse_power(grid.scale / unit);
        if (error < least) {
            least = error;
            best = factor;
        }
    }
    return best;
}

void clip_mse_search(enum kernel_path path, const struct quantize_format *format,
                     const struct quantize_source *source, int64_t row_begin, int64_t row_end,
                     float *shrink, float *scratch) {
    const int64_t columns = source->columns, groups = quantize_group_count(format, columns);
    const int64_t group_size = format->group_size ? format->group_size : columns;
    float *group = scratch + whole_lanes(columns);
    for (int64_t r = row_begin; r < row_end; r++) {
        quantize_fold_row(source, r, scratch);
        for (int64_t g = 0; g < groups; g++) {
            const int64_t begin = g * group_size;
            const int64_t count = columns - begin < group_size ? columns - begin : group_size;
            memset(group + count, 0, (size_t)(whole_lanes(count) - count) * sizeof *group);
            memcpy(group, scratch + begin, (size_t)count * sizeof *group);
            *shrink++ = best_factor(errors_of(path), format, group, count);
        }
    }
}
