#include "pipeline/weight_maxima.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/weights.h"

struct column_task {
    struct weights_source source;
    int64_t columns;
    float *maxima; /* (threads, columns) */
    _Atomic bool out_of_memory;
};

static void take_rows(void *context, int64_t begin, int64_t end, int thread) {
    struct column_task *task = context;
    const int64_t columns = task->columns;
    float *maxima = task->maxima + thread * columns;
    float *row = malloc((size_t)columns * sizeof *row), *buffer = NULL;
    if (!weights_are_mapped(&task->source))
        buffer = malloc((size_t)columns * sizeof *buffer);
    if (!row || (!buffer && !weights_are_mapped(&task->source))) {
        atomic_store(&task->out_of_memory, true);
        end = begin;
    }
    for (int64_t r = begin; r < end; r++) {
        const struct weights_rows rows = weights_read_rows(&task->source, r, r + 1, buffer);
        number_widen(row, rows.data, rows.type, (size_t)columns);
#pragma omp simd
        for (int64_t c = 0; c < columns; c++) {
            const float magnitude = fabsf(row[c]);
            maxima[c] = magnitude > maxima[c] ? magnitude : maxima[c];
        }
    }
    free(row);
    free(buffer);
}

static enum status add_linear(const struct model *model, struct team *team, int layer,
                              const struct linear_rule *rule, float *maxima, struct error *error) {
    struct column_task task = {.columns = model_dimension(&model->shape, rule->in)};
    const enum status status = weights_open(model, team, layer, rule, &task.source, error);
    const int threads = team_size(team);
    task.maxima = calloc((size_t)(threads * task.columns), sizeof *task.maxima);
    if (!status && task.maxima)
        team_for(team, model_dimension(&model->shape, rule->out), 64, take_rows, &task);
    weights_close(&task.source);
    const bool failed = !task.maxima || task.out_of_memory;
    for (int64_t i = 0; !failed && i < threads * task.columns; i++) {
        float *maximum = &maxima[i % task.columns];
        *maximum = task.maxima[i] > *maximum ? task.maxima[i] : *maximum;
    }
    free(task.maxima);
    return status   ? status
           : failed ? error_set(error, STATUS_FAILED, "no memory to look at layer %d, %s", layer,
                                rule->name)
                    : STATUS_OK;
}

enum status weight_maxima(const struct model *model, struct team *team, int layer, float *maxima,
                          struct error *error) {
    memset(maxima, 0, (size_t)model_layer_channels(model) * sizeof *maxima);
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        status = add_linear(model, team, layer, rule,
                            maxima + model_site_offset(model, rule->reads), error);
    }
    return status;
}
