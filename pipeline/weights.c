#include "pipeline/weights.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "kernels/memory.h"

enum number_type weights_number_type(const struct tensor *tensor, enum run_precision precision) {
    switch (tensor->type) {
    case TENSOR_F32:
        return precision == PRECISION_BF16 ? NUMBER_BF16 : NUMBER_F32;
    case TENSOR_F16:
        return NUMBER_F16;
    case TENSOR_BF16:
        return NUMBER_BF16;
    default:
        return precision == PRECISION_F32 ? NUMBER_F32 : NUMBER_BF16;
    }
}

bool weights_are_mapped(const struct model *model, const struct tensor *tensor) {
    return !model_source_rows_permuted(model->source, tensor) &&
           !tensor_type_is_block(tensor->type) &&
           (uintptr_t)tensor->data % tensor_type_bytes(tensor->type) == 0;
}

/* Rows in the model's order, each where the file has it. */
static void read_ordered(const struct model *model, const struct tensor *tensor, int64_t row_begin,
                         int64_t row_end, float *destination) {
    const int64_t columns = tensor_columns(tensor);
    if (!model_source_rows_permuted(model->source, tensor)) {
        tensor_read_f32(tensor, row_begin, row_end, destination);
        return;
    }
    for (int64_t row = row_begin; row < row_end; row++) {
        const int64_t from = model_source_file_row(model->source, tensor, row);
        tensor_read_f32(tensor, from, from + 1, destination + (row - row_begin) * columns);
    }
}

struct weights_rows weights_read_rows(const struct model *model, const struct tensor *tensor,
                                      int64_t row_begin, int64_t row_end, float *buffer) {
    const int64_t columns = tensor_columns(tensor);
    if (weights_are_mapped(model, tensor))
        return (struct weights_rows){tensor->data + (size_t)(row_begin * columns) *
                                                        tensor_type_bytes(tensor->type),
                                     weights_number_type(tensor, PRECISION_F32), columns};
    read_ordered(model, tensor, row_begin, row_end, buffer);
    return (struct weights_rows){buffer, NUMBER_F32, columns};
}

/* Decoding in parallel: each piece reads rows as f32 and narrows them (exactly, for f16 and f32).
 */
struct decode_task {
    const struct model *model;
    const struct tensor *tensor;
    int64_t columns;
    enum number_type type;
    unsigned char *destination;
    struct team *team;
};

static void decode_rows(void *context, int64_t begin, int64_t end, int thread) {
    const struct decode_task *task = context;
    float *row_buffer = team_scratch(task->team, thread);
    const size_t row_bytes = (size_t)task->columns * number_size(task->type);
    for (int64_t row = begin; row < end; row++) {
        unsigned char *destination = task->destination + (size_t)row * row_bytes;
        float *wide = task->type == NUMBER_F32 ? (float *)(void *)destination : row_buffer;
        read_ordered(task->model, task->tensor, row, row + 1, wide);
        if (task->type != NUMBER_F32)
            number_narrow(destination, wide, task->type, (size_t)task->columns);
    }
}

size_t weights_decoded_bytes(const struct model *model, const struct tensor *tensor,
                             enum run_precision precision) {
    const enum number_type type = weights_number_type(tensor, precision);
    return weights_are_mapped(model, tensor) && type == weights_number_type(tensor, PRECISION_F32)
               ? 0
               : (size_t)(tensor_rows(tensor) * tensor_columns(tensor)) * number_size(type);
}

enum status weights_decode(const struct model *model, struct team *team,
                           const struct tensor *tensor, enum run_precision precision,
                           void *destination, struct error *error) {
    const int64_t columns = tensor_columns(tensor);
    if ((size_t)columns * sizeof(float) > team_scratch_bytes(team))
        return error_set(error, STATUS_FAILED,
                         "%s: tensor %s has rows of %lld weights, more than the work space holds",
                         model_source_path(model->source), tensor->name, (long long)columns);
    struct decode_task task = {model,       tensor, columns, weights_number_type(tensor, precision),
                               destination, team};
    team_for(team, tensor_rows(tensor), 16, decode_rows, &task);
    tensor_release(tensor);
    return STATUS_OK;
}

enum status weights_load_tensor(const struct model *model, struct team *team,
                                const struct tensor *tensor, enum run_precision precision,
                                struct matmul_weight *weight, void **owned, struct error *error) {
    const int64_t columns = tensor_columns(tensor);
    const size_t bytes = weights_decoded_bytes(model, tensor, precision);
    *owned = NULL;
    *weight = (struct matmul_weight){.data = tensor->data,
                                     .type = weights_number_type(tensor, precision),
                                     .rows = tensor_rows(tensor),
                                     .columns = columns,
                                     .stride = columns};
    if (!bytes)
        return STATUS_OK;
    *owned = memory_allocate(bytes);
    if (!*owned)
        return error_set(error, STATUS_FAILED, "%s: no memory to decode %s (%zu bytes)",
                         model_source_path(model->source), tensor->name, bytes);
    weight->data = *owned;
    return weights_decode(model, team, tensor, precision, *owned, error);
}

enum status weights_load(const struct model *model, struct team *team, int layer,
                         const struct linear_rule *rule, enum run_precision precision,
                         struct matmul_weight *weight, void **owned, struct error *error) {
    const struct tensor *tensor = model_layer_tensor(model, layer, rule->name, ".weight");
    return weights_load_tensor(model, team, tensor, precision, weight, owned, error);
}

void weights_prefetch_layer(const struct model *model, int layer) {
    for (int i = 0; i < model->architecture->linear_count; i++)
        tensor_prefetch(
            model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight"));
}

enum status weights_load_vector(const struct model *model, const struct tensor *tensor,
                                float **vector, struct error *error) {
    *vector = NULL;
    if (!tensor)
        return STATUS_OK;
    const int64_t count = tensor_columns(tensor);
    float *in_file = malloc((size_t)count * sizeof(float));
    float *ordered = malloc((size_t)count * sizeof(float));
    if (!in_file || !ordered) {
        free(in_file);
        free(ordered);
        return error_set(error, STATUS_FAILED, "no memory for %s", tensor->name);
    }
    tensor_read_f32(tensor, 0, 1, in_file);
    for (int64_t i = 0; i < count; i++)
        ordered[i] = in_file[model_source_file_row(model->source, tensor, i)];
    free(in_file);
    *vector = ordered;
    return STATUS_OK;
}

static bool tensor_find_nonfinite(const struct tensor *tensor, char *text, size_t size) {
    const int64_t rows = tensor_rows(tensor), columns = tensor_columns(tensor);
    float *buffer = malloc((size_t)columns * sizeof(float));
    for (int64_t row = 0; buffer && row < rows; row++) {
        tensor_read_f32(tensor, row, row + 1, buffer);
        for (int64_t column = 0; column < columns; column++)
            if (!isfinite(buffer[column])) {
                snprintf(text, size, "%s: tensor %s has %s in row %lld, column %lld", tensor->file,
                         tensor->name, isnan(buffer[column]) ? "NaN" : "an infinity",
                         (long long)row, (long long)column);
                free(buffer);
                return true;
            }
    }
    free(buffer);
    return false;
}

bool weights_find_nonfinite(const struct model *model, int layer, char *text, size_t size) {
    const struct architecture *architecture = model->architecture;
    static const char *const suffixes[] = {".weight", ".bias"};
    for (int s = 0; s < 2; s++) {
        const char *names[LINEARS_MAX + NORM_COUNT];
        int count = 0;
        for (int i = 0; i < architecture->linear_count; i++)
            names[count++] = architecture->linears[i].name;
        for (int i = 0; i < NORM_COUNT; i++)
            names[count++] = architecture->norms[i].name;
        for (int i = 0; i < count; i++) {
            const struct tensor *tensor = model_layer_tensor(model, layer, names[i], suffixes[s]);
            if (tensor && tensor_find_nonfinite(tensor, text, size))
                return true;
        }
        const struct tensor *outer =
            layer == 0 && architecture->embedding_norm
                ? model_tensor(model, architecture->embedding_norm, suffixes[s])
                : NULL;
        if (outer && tensor_find_nonfinite(outer, text, size))
            return true;
    }
    return false;
}
