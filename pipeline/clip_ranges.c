#include "pipeline/clip_ranges.h"

#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/clip_mse.h"
#include "kernels/clip_output.h"
#include "pipeline/weights.h"

enum { BATCH_ROWS = 16 };

struct clip_task {
    const struct compute *compute;
    struct weights_source source;
    struct quantize_format format;
    enum clip_rule rule;
    struct clip_output_sample sample; /* CLIP_OUTPUT */
    const float *column_multiplier, *row_multiplier;
    int64_t columns;
    float *shrink; /* (rows, groups) */
    _Atomic bool out_of_memory;
};

static size_t scratch_bytes(const struct clip_task *task) {
    const size_t bytes = task->rule == CLIP_OUTPUT
                             ? clip_output_workspace(task->compute->path, &task->sample)
                             : clip_mse_scratch_bytes(task->columns);
    return (bytes + 63) & ~(size_t)63;
}

/* Rows 0 .. rows - 1 of source; what cannot be quantized is found by who quantizes it. */
static void search(const struct clip_task *task, const struct quantize_source *source, int64_t rows,
                   float *shrink, void *scratch) {
    const enum kernel_path path = task->compute->path;
    if (task->rule == CLIP_MSE) {
        clip_mse_search(path, &task->format, source, 0, rows, shrink, scratch);
        return;
    }
    for (int64_t i = 0; i < rows * quantize_group_count(&task->format, task->columns); i++)
        shrink[i] = 1;
    clip_output_search(path, &task->format, source, 0, rows, &task->sample, shrink, scratch);
}

static void search_rows(void *context, int64_t begin, int64_t end, int thread) {
    struct clip_task *task = context;
    const int64_t columns = task->columns;
    const bool mapped = weights_are_mapped(&task->source);
    (void)thread;
    void *scratch = aligned_alloc(64, scratch_bytes(task));
    float *buffer = mapped ? NULL : malloc((size_t)((end - begin) * columns) * sizeof *buffer);
    if (!scratch || (!buffer && !mapped)) {
        atomic_store(&task->out_of_memory, true);
    } else {
        const struct weights_rows rows = weights_read_rows(&task->source, begin, end, buffer);
        const struct quantize_source source = {
            .data = rows.data,
            .type = rows.type,
            .columns = columns,
            .stride = rows.stride,
            .column_multiplier = task->column_multiplier,
            .row_multiplier = task->row_multiplier ? task->row_multiplier + begin : NULL,
        };
        search(task, &source, end - begin,
               task->shrink + begin * quantize_group_count(&task->format, columns), scratch);
    }
    free(buffer);
    free(scratch);
}

/* Divide each row of x (rows, columns) by its length. */
static void normalize_rows(float *x, int64_t rows, int64_t columns) {
    for (int64_t row = 0; row < rows; row++, x += columns) {
        double sum = 0;
        for (int64_t c = 0; c < columns; c++)
            sum += (double)x[c] * (double)x[c];
        const float factor = sum > 0 ? (float)(1 / sqrt(sum)) : 1;
        for (int64_t c = 0; c < columns; c++)
            x[c] *= factor;
    }
}

/* The sample as the folded weights meet it, divided by the scale of the site; all tokens alike. */
static bool prepare_sample(struct clip_task *task, const struct site_sample *sample, int layer,
                           enum site site, const float *scale) {
    if (task->rule != CLIP_OUTPUT)
        return true;
    float *x = malloc((size_t)(sample->tokens * task->columns) * sizeof *x);
    if (!x)
        return false;
    site_sample_rows(sample, layer, site, scale, x);
    normalize_rows(x, sample->tokens, task->columns);
    const bool prepared = clip_output_prepare(task->compute, x, sample->tokens, task->columns,
                                              task->format.group_size, &task->sample);
    free(x);
    return prepared;
}

enum status clip_ranges(const struct model *model, const struct config *config,
                        const struct compute *compute, const struct site_sample *sample, int layer,
                        int index, const struct fold_layer *fold, float **shrink,
                        struct error *error) {
    *shrink = NULL;
    if (config->quantization.clip == CLIP_NONE)
        return STATUS_OK;
    const struct linear_rule *rule = &model->architecture->linears[index];
    const int64_t rows = model_dimension(&model->shape, rule->out);
    struct clip_task task = {
        .compute = compute,
        .format = config_weight_format(config),
        .rule = config->quantization.clip,
        .column_multiplier = fold_column_multiplier(fold, rule),
        .row_multiplier = fold->row_multipliers[index],
        .columns = model_dimension(&model->shape, rule->in),
    };
    const int64_t groups = quantize_group_count(&task.format, task.columns);
    const enum status status = weights_open(model, compute->team, layer, rule, &task.source, error);
    task.shrink = malloc((size_t)(rows * groups) * sizeof *task.shrink);
    const bool prepared = !status && task.shrink &&
                          prepare_sample(&task, sample, layer, rule->reads, task.column_multiplier);
    if (prepared)
        team_for(compute->team, rows, BATCH_ROWS, search_rows, &task);
    clip_output_release(&task.sample);
    weights_close(&task.source);
    if (prepared && !task.out_of_memory) {
        *shrink = task.shrink;
        return STATUS_OK;
    }
    free(task.shrink);
    return status ? status
                  : error_set(error, STATUS_FAILED, "no memory to clip layer %d, %s", layer,
                              rule->name);
}
