#include "pipeline/stage_quantized.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "pipeline/stored.h"

enum { PATH_BYTES = 300 };

/* One linear on its way from the checkpoint. */
struct loading {
    const struct quantized_model *quantized;
    const struct quantized_linear_kind *kind;
    struct stage_linear *linear;
    int64_t groups;
    enum number_type type; /* of 8-bit weights brought to floats */
};

static const char *dataset_path(const struct loading *loading, const char *name,
                                char path[PATH_BYTES]) {
    snprintf(path, PATH_BYTES, "%s/%s", loading->kind->group, name);
    return path;
}

/* Rows of the weight, for integer products. */
static void take_integer(void *context, int64_t row_begin, int64_t rows, const void *data) {
    const struct loading *loading = context;
    const struct stage_linear *linear = loading->linear;
    const int64_t first = row_begin * loading->groups;
    w4a8_weight_pack(&linear->integer, row_begin, row_begin + rows, data, linear->scales + first,
                     linear->zero_points ? linear->zero_points + first : NULL);
}

/* Rows of 4-bit levels, for products with floats. */
static void take_levels(void *context, int64_t row_begin, int64_t rows, const void *data) {
    const struct loading *loading = context;
    const int64_t columns = loading->kind->columns;
    memcpy((char *)loading->linear->owned + row_begin * columns / 2, data,
           (size_t)(rows * columns + 1) / 2);
}

/* Rows of 8-bit levels, brought to floats: level * scale. */
static void take_floats(void *context, int64_t row_begin, int64_t rows, const void *data) {
    const struct loading *loading = context;
    const struct quantized_linear_kind *kind = loading->kind;
    const int64_t size = kind->group_size ? kind->group_size : kind->columns;
    const int8_t *levels = data;
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < kind->columns; c++) {
            const int64_t row = row_begin + r;
            const float value = (float)levels[r * kind->columns + c] *
                                loading->linear->scales[row * loading->groups + c / size];
            number_narrow((char *)loading->linear->owned +
                              (size_t)(row * kind->columns + c) * number_size(loading->type),
                          &value, loading->type, 1);
        }
}

static enum status read_weight(struct loading *loading, size_t bytes,
                               checkpoint_rows_function *take, struct error *error) {
    char path[PATH_BYTES];
    struct stage_linear *linear = loading->linear;
    linear->owned = memory_allocate(bytes);
    if (!linear->owned)
        return error_set(error, STATUS_FAILED, "%s: no memory for %s (%zu bytes)",
                         loading->quantized->path, loading->kind->group, bytes);
    linear->integer.data = take == take_integer ? linear->owned : NULL;
    return checkpoint_read_rows(loading->quantized->file, dataset_path(loading, "weight", path),
                                take, loading, error);
}

/* The scales and zero points are in the packed layout then. */
static enum status load_integer(struct loading *loading, enum kernel_path path,
                                struct error *error) {
    const struct quantized_linear_kind *kind = loading->kind;
    struct stage_linear *linear = loading->linear;
    linear->integer = (struct w4a8_weight){.rows = kind->rows,
                                           .columns = kind->columns,
                                           .group_size = kind->group_size,
                                           .bits = kind->bits,
                                           .symmetric = kind->symmetric,
                                           .path = path};
    const enum status status =
        read_weight(loading, w4a8_weight_bytes(&linear->integer), take_integer, error);
    free(linear->scales);
    free(linear->zero_points);
    linear->scales = NULL;
    linear->zero_points = NULL;
    return status;
}

static enum status load_levels(struct loading *loading, struct error *error) {
    const struct quantized_linear_kind *kind = loading->kind;
    const enum status status =
        read_weight(loading, (size_t)(kind->rows * kind->columns + 1) / 2, take_levels, error);
    loading->linear->weight = (struct matmul_weight){.data = loading->linear->owned,
                                                     .rows = kind->rows,
                                                     .columns = kind->columns,
                                                     .stride = kind->columns,
                                                     .scales = loading->linear->scales,
                                                     .zero_points = loading->linear->zero_points,
                                                     .group_size = kind->group_size};
    return status;
}

static enum status load_floats(struct loading *loading, struct error *error) {
    const struct quantized_linear_kind *kind = loading->kind;
    const size_t bytes = (size_t)(kind->rows * kind->columns) * number_size(loading->type);
    const enum status status = read_weight(loading, bytes, take_floats, error);
    loading->linear->weight = (struct matmul_weight){.data = loading->linear->owned,
                                                     .type = loading->type,
                                                     .rows = kind->rows,
                                                     .columns = kind->columns,
                                                     .stride = kind->columns};
    return status;
}

/* A linear whose scale and weights are there; loading->linear is all zero. */
static enum status load_linear(struct loading *loading, enum kernel_path kernel_path,
                               struct error *error) {
    const struct quantized_linear_kind *kind = loading->kind;
    const struct quantized_model *quantized = loading->quantized;
    struct stage_linear *linear = loading->linear;
    char path[PATH_BYTES];
    enum status status = quantized_model_floats(
        quantized, dataset_path(loading, "weight_scale", path), kind->rows * loading->groups,
        loading->groups, &linear->scales, error);
    if (!status && !kind->symmetric)
        status = quantized_model_levels(quantized, dataset_path(loading, "weight_zero_point", path),
                                        kind->rows, loading->groups, &linear->zero_points, error);
    if (!status && kind->bias)
        status = quantized_model_floats(quantized, dataset_path(loading, "bias", path), kind->rows,
                                        0, &linear->bias, error);
    if (status)
        return status;
    if (kind->input != QUANTIZED_INPUT_NONE)
        return load_integer(loading, kernel_path, error);
    return kind->bits == 4 ? load_levels(loading, error) : load_floats(loading, error);
}

/* ---- Activations ---- */

/* What is done to a site's activations, from the first linear that reads it. */
static enum status load_site(const struct loading *loading, struct stage_layer *layer,
                             enum site site, struct error *error) {
    const struct quantized_linear_kind *kind = loading->kind;
    struct w4a8_quantization *input = &layer->inputs[site];
    float *scale = NULL, **vector = &layer->divisors[site];
    char path[PATH_BYTES];
    enum status status = STATUS_OK;
    input->dynamic = kind->input == QUANTIZED_INPUT_TOKEN;
    if (kind->input == QUANTIZED_INPUT_FIXED) {
        status = quantized_model_floats(
            loading->quantized, dataset_path(loading, "input_scale", path), 0, 0, &scale, error);
        input->scale = scale ? *scale : 0;
        free(scale);
        if (!status && !(input->scale >= 0x1p-126f && isfinite(1.0f / input->scale)))
            return error_set(error, STATUS_INPUT, "%s: %s is %g: no scale to divide by",
                             loading->quantized->path, path, (double)input->scale);
    }
    if (status || !kind->equalized || kind->folded)
        return status;
    status = quantized_model_floats(loading->quantized, dataset_path(loading, "equalization", path),
                                    kind->columns, 0, vector, error);
    if (status || kind->input == QUANTIZED_INPUT_NONE)
        return status;
    for (int64_t i = 0; i < kind->columns; i++)
        (*vector)[i] = 1.0f / (*vector)[i];
    layer->multipliers[site] = *vector;
    input->multiplier = *vector;
    *vector = NULL;
    return STATUS_OK;
}

/* Linears that read one site see the same numbers. */
static enum status check_site(const struct quantized_model *quantized,
                              const struct quantized_linear_kind *first,
                              const struct quantized_linear_kind *kind, struct error *error) {
    if (first->input == kind->input && first->equalized == kind->equalized &&
        first->folded == kind->folded)
        return STATUS_OK;
    return error_set(error, STATUS_INPUT,
                     "%s: %s and %s read the same activations, but differ in input_policy, "
                     "equalization or folded",
                     quantized->path, first->group, kind->group);
}

/* ---- The layer ---- */

static enum status load_norms(struct stage *stage, const struct quantized_model *quantized,
                              int layer, struct error *error) {
    const struct architecture *architecture = stage->model->architecture;
    struct stage_layer *loaded = &stage->layers[layer - stage->held_begin];
    const int64_t hidden = stage->model->shape.hidden;
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < NORM_COUNT; i++) {
        const char *name = architecture->norms[i].name;
        status = quantized_model_vector(quantized, layer, name, ".weight", hidden, true,
                                        &loaded->norms[i].weight, error);
        if (!status && architecture->norm_kind == NORM_LAYER)
            status = quantized_model_vector(quantized, layer, name, ".bias", hidden, true,
                                            &loaded->norms[i].bias, error);
    }
    return status;
}

enum status stage_load_quantized_layer(struct stage *stage, int layer, struct error *error) {
    const struct quantized_model *quantized = stage->quantized;
    const struct architecture *architecture = stage->model->architecture;
    struct stage_layer *loaded = &stage->layers[layer - stage->held_begin];
    struct quantized_linear_kind kinds[LINEARS_MAX];
    int readers[SITE_COUNT] = {-1, -1, -1, -1}; /* the first linear of each site */
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < architecture->linear_count; i++) {
        const struct linear_rule *rule = &architecture->linears[i];
        struct loading loading = {.quantized = quantized,
                                  .kind = &kinds[i],
                                  .linear = &loaded->linears[i],
                                  .type =
                                      stage->precision == PRECISION_F32 ? NUMBER_F32 : NUMBER_BF16};
        status = quantized_model_linear(quantized, layer, rule, &kinds[i], error);
        if (status)
            break;
        loading.groups = w4a8_group_count(kinds[i].columns, kinds[i].group_size);
        int *reader = &readers[rule->reads];
        if (*reader >= 0)
            status = check_site(quantized, &kinds[*reader], &kinds[i], error);
        else
            status = load_site(&loading, loaded, rule->reads, error);
        *reader = *reader >= 0 ? *reader : i;
        if (!status)
            status = load_linear(&loading, stage->compute->path, error);
        if (!status)
            stage->bytes_weights += loaded->linears[i].integer.data
                                        ? w4a8_weight_bytes(&loaded->linears[i].integer)
                                        : (size_t)(kinds[i].rows * kinds[i].columns + 1) / 2;
    }
    return status ? status : load_norms(stage, quantized, layer, error);
}

enum status stage_load_quantized_embedding(struct stage *stage, struct error *error) {
    const struct quantized_model *quantized = stage->quantized;
    const struct model_shape *shape = &stage->model->shape;
    const struct architecture *architecture = stage->model->architecture;
    enum status status =
        quantized_model_matrix(quantized, architecture->embedding, shape->vocabulary, shape->hidden,
                               true, &stage->embedding.type, &stage->embedding.data, error);
    const char *norm = architecture->embedding_norm;
    if (status || !norm)
        return status;
    status = quantized_model_vector(quantized, STORED_OUTSIDE, norm, ".weight", shape->hidden, true,
                                    &stage->embedding_norm.weight, error);
    if (!status && architecture->norm_kind == NORM_LAYER)
        status = quantized_model_vector(quantized, STORED_OUTSIDE, norm, ".bias", shape->hidden,
                                        true, &stage->embedding_norm.bias, error);
    return status;
}
