#include "pipeline/quantize_gptq.h"

#include <stdatomic.h>
#include <stdlib.h>

#include "pipeline/weights.h"

void quantize_gptq_free(struct quantize_gptq *gptq) {
    free(gptq->memory);
    *gptq = (struct quantize_gptq){0};
}

enum status quantize_gptq_factor(struct quantize_gptq *gptq, const struct config *config,
                                 const struct compute *compute, const struct hessians *hessians,
                                 int layer, enum site site, const struct fold_layer *fold,
                                 struct error *error) {
    if (gptq->memory && gptq->layer == layer && gptq->site == (int)site)
        return STATUS_OK;
    quantize_gptq_free(gptq);
    const struct config_quantization *options = &config->quantization;
    const struct gptq_hessian hessian = {
        .sums = hessians_sums(hessians, layer, site),
        .columns = model_site_channels(hessians->model, site),
        .scale = fold->sites[site].scale,
    };
    const size_t bytes = gptq_factor_bytes(hessian.columns);
    gptq->layer = layer;
    gptq->site = (int)site;
    gptq->memory = aligned_alloc(64, bytes);
    if (!gptq->memory)
        return error_set(error, STATUS_FAILED,
                         "no memory for the factor of a Hessian (%zu bytes; layer %d, %s)", bytes,
                         layer, site_name(site));
    if (gptq_factor_create(compute, &hessian, options->act_order, (double)options->damping,
                           gptq->memory, &gptq->factor))
        return STATUS_OK;
    return error_set(error, STATUS_FAILED,
                     "layer %d, site %s: the Hessian has no Cholesky factor, whatever the damping",
                     layer, site_name(site));
}

/* Rows in batches, then their levels as nibbles, chunk by chunk. */
struct task {
    const struct quantize_gptq *gptq;
    const struct model *model;
    const struct compute *compute;
    struct weights_source source;
    const struct quantize_format *format;
    const float *column_multiplier, *row_multiplier, *shrink;
    struct quantized_linear *linear;
    int64_t batch_rows;
    int8_t *levels;      /* (rows, columns) */
    _Atomic int64_t bad; /* the first row that cannot be quantized, or INT64_MAX */
    _Atomic bool out_of_memory;
};

static void note_bad_row(struct task *task, int64_t row) {
    int64_t known = atomic_load(&task->bad);
    while (row < known && !atomic_compare_exchange_weak(&task->bad, &known, row))
        ;
}

static void round_batch(struct task *task, int64_t begin, int64_t end, float *buffer,
                        void *scratch) {
    const struct quantized_linear *linear = task->linear;
    const struct weights_rows weights = weights_read_rows(&task->source, begin, end, buffer);
    const int64_t first = begin * linear->groups;
    const struct quantize_source source = {
        .data = weights.data,
        .type = weights.type,
        .columns = linear->columns,
        .stride = weights.stride,
        .column_multiplier = task->column_multiplier,
        .row_multiplier = task->row_multiplier ? task->row_multiplier + begin : NULL,
        .shrink = task->shrink ? task->shrink + first : NULL,
    };
    double objective[GPTQ_ROWS];
    const struct gptq_rows rows = {
        .levels = task->levels + begin * linear->columns,
        .scales = linear->scales + first,
        .zero_points = linear->zero_points ? linear->zero_points + first : NULL,
        .squared_error = linear->errors + begin,
        .squared_weight = linear->errors + linear->rows + begin,
        .objective = objective,
    };
    const int64_t bad = gptq_quantize_rows(task->compute->path, &task->gptq->factor, task->format,
                                           &source, 0, end - begin, &rows, scratch);
    if (bad >= 0)
        note_bad_row(task, begin + bad);
}

static void round_batches(void *context, int64_t begin, int64_t end, int thread) {
    struct task *task = context;
    const struct quantized_linear *linear = task->linear;
    const bool mapped = weights_are_mapped(&task->source);
    (void)thread;
    void *scratch = aligned_alloc(64, gptq_scratch_bytes(linear->columns));
    float *buffer =
        mapped ? NULL : malloc((size_t)(task->batch_rows * linear->columns) * sizeof *buffer);
    if (!scratch || (!buffer && !mapped))
        atomic_store(&task->out_of_memory, true);
    for (int64_t batch = begin; !task->out_of_memory && batch < end; batch++) {
        const int64_t row = batch * task->batch_rows, left = linear->rows - row;
        round_batch(task, row, row + (left < task->batch_rows ? left : task->batch_rows), buffer,
                    scratch);
    }
    free(buffer);
    free(scratch);
}

static void pack_chunks(void *context, int64_t begin, int64_t end, int thread) {
    const struct task *task = context;
    const struct quantized_linear *linear = task->linear;
    (void)thread;
    for (int64_t chunk = begin; chunk < end; chunk++) {
        const int64_t row = chunk * linear->chunk_rows, left = linear->rows - row;
        const int64_t rows = left < linear->chunk_rows ? left : linear->chunk_rows;
        quantize_pack_nibbles(linear->packed + (size_t)chunk * linear->chunk_bytes,
                              task->levels + row * linear->columns, rows * linear->columns);
    }
}

static enum status fault_of(const struct task *task, int layer, const char *name,
                            struct error *error) {
    char cause[400];
    if (task->out_of_memory || !task->levels)
        return error_set(error, STATUS_FAILED, "no memory to quantize layer %d, %s", layer, name);
    if (task->bad == INT64_MAX)
        return STATUS_OK;
    if (weights_find_nonfinite(task->model, layer, cause, sizeof cause))
        return error_set(error, STATUS_INPUT, "%s", cause);
    return error_set(error, STATUS_INPUT,
                     "%s: layer %d, %s: row %lld overflows when its scale is folded in",
                     model_source_path(task->model->source), layer, name, (long long)task->bad);
}

enum status quantize_gptq_compute(const struct quantize_gptq *gptq, const struct model *model,
                                  const struct compute *compute, int layer, int index,
                                  const struct fold_layer *fold,
                                  const struct quantize_format *format, const float *shrink,
                                  struct quantized_linear *linear, struct error *error) {
    const struct linear_rule *rule = &model->architecture->linears[index];
    struct task task = {
        .gptq = gptq,
        .model = model,
        .compute = compute,
        .format = format,
        .column_multiplier = fold_column_multiplier(fold, rule),
        .row_multiplier = fold->row_multipliers[index],
        .shrink = shrink,
        .linear = linear,
        .levels = malloc((size_t)(linear->rows * linear->columns)),
        .bad = INT64_MAX,
    };
    /* Some batches for each thread; what a batch is changes no bit. */
    const int64_t share =
        (linear->rows + 4 * team_size(compute->team) - 1) / (4 * team_size(compute->team));
    task.batch_rows = share < GPTQ_ROWS ? (share + 5) / 6 * 6 : GPTQ_ROWS;
    enum status status = weights_open(model, compute->team, layer, rule, &task.source, error);
    if (!status && task.levels)
        team_for(compute->team, (linear->rows + task.batch_rows - 1) / task.batch_rows, 1,
                 round_batches, &task);
    weights_close(&task.source);
    linear->damping = gptq->factor.damping;
    if (!status)
        status = fault_of(&task, layer, rule->name, error);
    if (!status)
        team_for(compute->team, linear->chunks, 1, pack_chunks, &task);
    free(task.levels);
    return status;
}
