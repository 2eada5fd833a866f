#include "kernels/static_scale.h"

#include <stdlib.h>

#include "kernels/rows.h"

struct search {
    const struct row_functions *functions;
    const float *x;
    int64_t columns;
    float scales[STATIC_SCALE_STEPS];
    float *errors; /* (rows, STATIC_SCALE_STEPS) */
};

static void measure_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct search *search = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++)
        for (int i = 0; i < STATIC_SCALE_STEPS; i++)
            search->errors[row * STATIC_SCALE_STEPS + i] = search->functions->int8_error(
                search->x + row * search->columns, search->columns, search->scales[i]);
}

float static_scale_least_squares(const struct compute *compute, const float *x, int64_t rows,
                                 int64_t columns, float maximum) {
    static const double step = 0x1.ea4afa2a490dap-1; /* 2^(-1/16) */
    struct search search = {
        .functions = rows_of_path(compute->path),
        .x = x,
        .columns = columns,
        .errors = malloc((size_t)(rows * STATIC_SCALE_STEPS) * sizeof *search.errors),
    };
    if (!search.errors)
        return 0;
    double scale = (double)(maximum / 127.0f);
    for (int i = 0; i < STATIC_SCALE_STEPS; i++, scale *= step)
        search.scales[i] = (float)scale;
    team_for(compute->team, rows, 4, measure_rows, &search);
    double errors[STATIC_SCALE_STEPS] = {0};
    for (int64_t row = 0; row < rows; row++)
        for (int i = 0; i < STATIC_SCALE_STEPS; i++)
            errors[i] += (double)search.errors[row * STATIC_SCALE_STEPS + i];
    free(search.errors);
    int best = 0;
    for (int i = 1; i < STATIC_SCALE_STEPS; i++)
        best = errors[i] < errors[best] ? i : best;
    return search.scales[best];
}
