#include "kernels/divergence.h"

#include "kernels/math_functions.h"

struct rows {
    const struct row_functions *functions;
    float *difference, *sums;
    const float *a, *b;
    const struct log_likelihood *p;
    int64_t stride, count;
};

static void subtract_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct rows *rows = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        const float *a = rows->a + row * rows->stride, *b = rows->b + row * rows->stride;
        float *difference = rows->difference + row * rows->stride;
#pragma omp simd
        for (int64_t i = 0; i < rows->count; i++)
            difference[i] = a[i] - b[i];
    }
}

void divergence_subtract(const struct compute *compute, float *difference, const float *a,
                         const float *b, int64_t stride, int64_t tokens, int64_t count) {
    struct rows rows = {.difference = difference, .a = a, .b = b, .stride = stride, .count = count};
    team_for(compute->team, tokens, 4, subtract_rows, &rows);
}

static void add_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct rows *rows = context;
    (void)thread;
    for (int64_t row = begin; row < end; row++) {
        const int64_t at = row * rows->stride;
        const float sum = rows->functions->dot(rows->a + at, rows->difference + at, rows->count);
        rows->sums[row] = rows->sums[row] * rows->p[row].softmax.factor + sum;
    }
}

void divergence_add(const struct compute *compute, float *sums, const struct log_likelihood *p,
                    const float *a, const float *difference, int64_t stride, int64_t tokens,
                    int64_t count) {
    struct rows rows = {.functions = rows_of_path(compute->path),
                        .difference = (float *)difference,
                        .sums = sums,
                        .a = a,
                        .p = p,
                        .stride = stride,
                        .count = count};
    team_for(compute->team, tokens, 4, add_rows, &rows);
}

double divergence_value(float sum, const struct log_likelihood *p, const struct log_likelihood *q) {
    const double p_total = (double)p->softmax.total, q_total = (double)q->softmax.total;
    return (double)sum / p_total - ((double)p->softmax.largest - (double)q->softmax.largest) -
           math_log(p_total / q_total);
}
