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

static bool is_mapped(const struct model *model, const struct tensor *tensor) {
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

/* Decoding in parallel: each piece reads rows as f32, multiplies their columns, and narrows them
 * (exactly, for f16 and f32 that nothing was multiplied into). */
struct decode_task {
    const struct model *model;
    const struct tensor *tensor;
    const float *multiplier; /* (columns), or NULL */
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
        for (int64_t i = 0; task->multiplier && i < task->columns; i++)
            wide[i] *= task->multiplier[i];
        if (task->type != NUMBER_F32)
            number_narrow(destination, wide, task->type, (size_t)task->columns);
    }
}

size_t weights_decoded_bytes(const struct model *model, const struct tensor *tensor,
                             enum run_precision precision) {
    const enum number_type type = weights_number_type(tensor, precision);
    return is_mapped(model, tensor) && type == weights_number_type(tensor, PRECISION_F32)
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
    struct decode_task task = {
        .model = model,
        .tensor = tensor,
        .columns = columns,
        .type = weights_number_type(tensor, precision),
        .destination = destination,
        .team = team,
    };
    team_for(team, tensor_rows(tensor), 16, decode_rows, &task);
    tensor_release(tensor);
    return STATUS_OK;
}

/* A vector as f32, malloc'ed; NULL where `tensor` is. */
static enum status load_vector(const struct model *model, const struct tensor *tensor,
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

/* Decoded to f32, with the columns multiplied (NULL: not), malloc'ed. */
static enum status decode_f32(const struct model *model, struct team *team,
                              const struct tensor *tensor, const float *multiplier, float **decoded,
                              struct error *error) {
    const size_t bytes = (size_t)(tensor_rows(tensor) * tensor_columns(tensor)) * sizeof **decoded;
    *decoded = memory_allocate(bytes);
    if (!*decoded)
        return error_set(error, STATUS_FAILED, "%s: no memory to rotate %s (%zu bytes)",
                         model_source_path(model->source), tensor->name, bytes);
    struct decode_task task = {
        .model = model,
        .tensor = tensor,
        .multiplier = multiplier,
        .columns = tensor_columns(tensor),
        .type = NUMBER_F32,
        .destination = (unsigned char *)*decoded,
        .team = team,
    };
    team_for(team, tensor_rows(tensor), 16, decode_rows, &task);
    tensor_release(tensor);
    return STATUS_OK;
}

static bool reads_stream(const struct linear_rule *rule) {
    return rule->in == DIMENSION_HIDDEN;
}

static bool writes_stream(const struct linear_rule *rule) {
    return rule->out == DIMENSION_HIDDEN;
}

static bool is_rotated(const struct model *model, const struct linear_rule *rule) {
    return model->rotation && (reads_stream(rule) || writes_stream(rule));
}

/* Q^T W, or W diag(norm) Q with the norm that the linear reads through. */
static enum status rotate_linear(const struct model *model, struct team *team, int layer,
                                 const struct linear_rule *rule, float **rotated,
                                 struct error *error) {
    const struct tensor *tensor = model_layer_tensor(model, layer, rule->name, ".weight");
    float *norm = NULL;
    enum status status = STATUS_OK;
    *rotated = NULL;
    if (reads_stream(rule)) {
        const char *name = architecture_site_norm(model->architecture, rule->reads)->name;
        status =
            load_vector(model, model_layer_tensor(model, layer, name, ".weight"), &norm, error);
    }
    if (!status)
        status = decode_f32(model, team, tensor, norm, rotated, error);
    free(norm);
    if (status)
        return status;
    if (reads_stream(rule))
        rotation_apply_rows(model->rotation, *rotated, tensor_rows(tensor));
    if (writes_stream(rule))
        rotation_apply_columns(model->rotation, *rotated, tensor_columns(tensor));
    return STATUS_OK;
}

static struct matmul_weight rotated_weight(const struct tensor *tensor, const float *data) {
    return (struct matmul_weight){.data = data,
                                  .type = NUMBER_F32,
                                  .rows = tensor_rows(tensor),
                                  .columns = tensor_columns(tensor),
                                  .stride = tensor_columns(tensor)};
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
    float *rotated = NULL;
    if (!is_rotated(model, rule))
        return weights_load_tensor(model, team, tensor, precision, weight, owned, error);
    const enum status status = rotate_linear(model, team, layer, rule, &rotated, error);
    *owned = rotated;
    *weight = rotated_weight(tensor, rotated);
    return status;
}

const struct tensor *weights_head_tensor(const struct model *model) {
    const struct architecture *architecture = model->architecture;
    return model_tensor(
        model, model->shape.tied_head ? architecture->embedding : architecture->head, ".weight");
}

enum status weights_load_head(const struct model *model, struct team *team,
                              enum run_precision precision, struct matmul_weight *weight,
                              void **owned, struct error *error) {
    const struct tensor *tensor = weights_head_tensor(model);
    struct weights_rotation change = {0};
    float *rotated = NULL;
    if (!model->rotation)
        return weights_load_tensor(model, team, tensor, precision, weight, owned, error);
    enum status status = weights_rotation_make(model, true, &change, error);
    if (!status)
        status = decode_f32(model, team, tensor, NULL, &rotated, error);
    if (!status)
        weights_rotate_rows(&change, rotated, tensor_rows(tensor));
    weights_rotation_free(&change);
    *owned = rotated;
    *weight = rotated_weight(tensor, rotated);
    return status;
}

void weights_prefetch_layer(const struct model *model, int layer) {
    for (int i = 0; i < model->architecture->linear_count; i++)
        tensor_prefetch(
            model_layer_tensor(model, layer, model->architecture->linears[i].name, ".weight"));
}

enum status weights_load_bias(const struct model *model, int layer, const struct linear_rule *rule,
                              float **bias, struct error *error) {
    const struct tensor *tensor = model_layer_tensor(model, layer, rule->name, ".bias");
    const enum status status = load_vector(model, tensor, bias, error);
    if (*bias && model->rotation && writes_stream(rule))
        rotation_apply_rows(model->rotation, *bias, 1);
    return status;
}

enum status weights_load_norm(const struct model *model, const struct tensor *tensor,
                              float **vector, struct error *error) {
    const enum status status = load_vector(model, tensor, vector, error);
    for (int64_t i = 0; *vector && model->rotation && i < tensor_columns(tensor); i++)
        (*vector)[i] = 1.0f;
    return status;
}

/* ---- Rotation ---- */

enum status weights_rotation_make(const struct model *model, bool head,
                                  struct weights_rotation *change, struct error *error) {
    const char *norm = model->architecture->final_norm;
    *change = (struct weights_rotation){.rotation = model->rotation};
    return model->rotation && head ? load_vector(model, model_tensor(model, norm, ".weight"),
                                                 &change->multiplier, error)
                                   : STATUS_OK;
}

void weights_rotation_free(struct weights_rotation *change) {
    free(change->multiplier);
    *change = (struct weights_rotation){0};
}

void weights_rotate_rows(const struct weights_rotation *change, float *rows, int64_t count) {
    if (!change->rotation)
        return;
    const int64_t columns = change->rotation->width;
    for (int64_t row = 0; change->multiplier && row < count; row++)
        for (int64_t i = 0; i < columns; i++)
            rows[row * columns + i] *= change->multiplier[i];
    rotation_apply_rows(change->rotation, rows, count);
}

enum status weights_open(const struct model *model, struct team *team, int layer,
                         const struct linear_rule *rule, struct weights_source *source,
                         struct error *error) {
    *source = (struct weights_source){
        .model = model,
        .tensor = model_layer_tensor(model, layer, rule->name, ".weight"),
    };
    return is_rotated(model, rule)
               ? rotate_linear(model, team, layer, rule, &source->rotated, error)
               : STATUS_OK;
}

void weights_close(struct weights_source *source) {
    free(source->rotated);
    source->rotated = NULL;
    tensor_release(source->tensor);
}

bool weights_are_mapped(const struct weights_source *source) {
    return source->rotated || is_mapped(source->model, source->tensor);
}

struct weights_rows weights_read_rows(const struct weights_source *source, int64_t row_begin,
                                      int64_t row_end, float *buffer) {
    const struct tensor *tensor = source->tensor;
    const int64_t columns = tensor_columns(tensor);
    if (source->rotated)
        return (struct weights_rows){source->rotated + row_begin * columns, NUMBER_F32, columns};
    if (is_mapped(source->model, tensor))
        return (struct weights_rows){tensor->data + (size_t)(row_begin * columns) *
                                                        tensor_type_bytes(tensor->type),
                                     weights_number_type(tensor, PRECISION_F32), columns};
    read_ordered(source->model, tensor, row_begin, row_end, buffer);
    return (struct weights_rows){buffer, NUMBER_F32, columns};
}

/* ---- Faults ---- */

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
