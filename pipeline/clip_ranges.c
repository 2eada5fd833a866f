#include "pipeline/clip_ranges.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "kernels/clip_mse.h"
#include "pipeline/weights.h"

enum { BATCH_ROWS = 16 };

struct clip_task {
    const struct model *model;
    const struct compute *compute;
    const struct tensor *tensor;
    struct quantize_format format;
    const float *column_multiplier, *row_multiplier;
    int64_t columns;
    float *shrink; /* (rows, groups) */
    _Atomic bool out_of_memory;
};

static void search_rows(void *context, int64_t begin, int64_t end, int thread) {
    struct clip_task *task = context;
    const int64_t columns = task->columns;
    const bool mapped = weights_are_mapped(task->model, task->tensor);
    (void)thread;
    float *scratch = aligned_alloc(64, (clip_mse_scratch_bytes(columns) + 63) & ~(size_t)63);
    float *buffer = mapped ? NULL : malloc((size_t)((end - begin) * columns) * sizeof *buffer);
    if (!scratch || (!buffer && !mapped)) {
        atomic_store(&task->out_of_memory, true);
    } else {
        const struct weights_rows rows =
            weights_read_rows(task->model, task->tensor, begin, end, buffer);
        const struct quantize_source source = {
            .data = rows.data,
            .type = rows.type,
            .columns = columns,
            .stride = rows.stride,
            .column_multiplier = task->column_multiplier,
            .row_multiplier = task->row_multiplier ? task->row_multiplier + begin : NULL,
        };
        clip_mse_search(task->compute->path, &task->format, &source, 0, end - begin,
                        task->shrink + begin * quantize_group_count(&task->format, columns),
                        scratch);
    }
    free(buffer);
    free(scratch);
}

enum status clip_ranges(const struct model *model, const struct config *config,
                        const struct compute *compute, int layer, int index,
                        const struct fold_layer *fold, float **shrink, struct error *error) {
    *shrink = NULL;
    if (config->quantization.clip == CLIP_NONE)
        return STATUS_OK;
    const struct linear_rule *rule = &model->architecture->linears[index];
    const int64_t rows = model_dimension(&model->shape, rule->out);
    struct clip_task task = {
        .model = model,
        .compute = compute,
        .tensor = model_layer_tensor(model, layer, rule->name, ".weight"),
        .format = config_weight_format(config),
        .column_multiplier = fold_column_multiplier(fold, rule),
        .row_multiplier = fold->row_multipliers[index],
        .columns = model_dimension(&model->shape, rule->in),
    };
    const int64_t groups = quantize_group_count(&task.format, task.columns);
    task.shrink = malloc((size_t)(rows * groups) * sizeof *task.shrink);
    if (task.shrink)
        team_for(compute->team, rows, BATCH_ROWS, search_rows, &task);
    if (task.shrink && !task.out_of_memory) {
        *shrink = task.shrink;
        return STATUS_OK;
    }
    free(task.shrink);
    return error_set(error, STATUS_FAILED, "no memory to clip layer %d, %s", layer, rule->name);
}
