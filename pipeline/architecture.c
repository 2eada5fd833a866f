#include "pipeline/architecture.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static const struct architecture *const architectures[] = {&architecture_llama};
enum { ARCHITECTURE_COUNT = sizeof architectures / sizeof architectures[0] };

const char *site_name(enum site site) {
    static const char *const names[SITE_COUNT] = {"attention_input", "attention_output",
                                                  "mlp_input", "mlp_hidden"};
    return names[site];
}

enum status config_integer(const json_t *config, const char *origin, const char *key, int64_t least,
                           int64_t most, int64_t *value, struct error *error) {
    const json_t *item = json_object_get(config, key);
    if (!json_is_integer(item))
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is missing or no integer", origin, key);
    *value = json_integer_value(item);
    if (*value < least || *value > most)
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is %lld, expected %lld to %lld", origin,
                         key, (long long)*value, (long long)least, (long long)most);
    return STATUS_OK;
}

enum status config_number(const json_t *config, const char *origin, const char *key, double *value,
                          struct error *error) {
    const json_t *item = json_object_get(config, key);
    if (!json_is_number(item))
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is missing or no number", origin, key);
    *value = json_number_value(item);
    if (!(*value > 0) || !isfinite(*value))
        return error_set(error, STATUS_INPUT, "%s: \"%s\" is %g, expected a positive number",
                         origin, key, *value);
    return STATUS_OK;
}

static void list_model_types(char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < ARCHITECTURE_COUNT; i++)
        for (const char *const *type = architectures[i]->model_types; *type; type++) {
            const int wrote = snprintf(text + used, size - used, "%s%s", used ? ", " : "", *type);
            if (wrote < 0 || (size_t)wrote >= size - used)
                return;
            used += (size_t)wrote;
        }
}

enum status architecture_find(const json_t *config, const char *origin,
                              const struct architecture **architecture, struct error *error) {
    const char *model_type = json_string_value(json_object_get(config, "model_type"));
    char known[200];
    for (int i = 0; model_type && i < ARCHITECTURE_COUNT; i++)
        for (const char *const *type = architectures[i]->model_types; *type; type++)
            if (!strcmp(*type, model_type)) {
                *architecture = architectures[i];
                return STATUS_OK;
            }
    list_model_types(known, sizeof known);
    return error_set(error, STATUS_INPUT, "%s: model_type \"%s\" is not supported (supported: %s)",
                     origin, model_type ? model_type : "(none)", known);
}

static enum status check_shape(const struct model *model, const char *name, int rank, int64_t rows,
                               int64_t columns, bool required, struct error *error) {
    const struct tensor *tensor = model_source_find(model->source, name);
    if (!tensor && !required)
        return STATUS_OK;
    const enum status status = model_source_require(model->source, name, &tensor, error);
    if (status)
        return status;
    if (tensor->rank != rank || tensor_columns(tensor) != columns ||
        (rank == 2 && tensor_rows(tensor) != rows)) {
        char found[64] = "";
        size_t used = 0;
        for (int i = 0; i < tensor->rank && used + 24 < sizeof found; i++)
            used += (size_t)snprintf(found + used, sizeof found - used, "%s%lld", i ? ", " : "",
                                     (long long)tensor->shape[i]);
        char expected[64];
        if (rank == 2)
            snprintf(expected, sizeof expected, "%lld, %lld", (long long)rows, (long long)columns);
        else
            snprintf(expected, sizeof expected, "%lld", (long long)columns);
        return error_set(error, STATUS_INPUT, "%s: tensor %s has shape [%s], expected [%s]",
                         tensor->file, name, found, expected);
    }
    return STATUS_OK;
}

void model_layer_name(const struct model *model, int layer, const char *name, const char *suffix,
                      char *text, size_t size) {
    char prefix[64];
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wformat-nonliteral"
    snprintf(prefix, sizeof prefix, model->architecture->layer_prefix, layer);
#pragma GCC diagnostic pop
    snprintf(text, size, "%s%s%s", prefix, name, suffix);
}

static enum status check_layer(const struct model *model, int layer, struct error *error) {
    const struct architecture *architecture = model->architecture;
    char name[200];
    enum status status;
    for (int i = 0; i < architecture->linear_count; i++) {
        const struct linear_rule *linear = &architecture->linears[i];
        const int64_t out = model_dimension(&model->shape, linear->out);
        model_layer_name(model, layer, linear->name, ".weight", name, sizeof name);
        if ((status = check_shape(model, name, 2, out, model_dimension(&model->shape, linear->in),
                                  true, error)))
            return status;
        model_layer_name(model, layer, linear->name, ".bias", name, sizeof name);
        if ((status = check_shape(model, name, 1, 1, out, false, error)))
            return status;
    }
    for (int i = 0; i < NORM_COUNT; i++) {
        model_layer_name(model, layer, architecture->norms[i].name, ".weight", name, sizeof name);
        if ((status = check_shape(model, name, 1, 1, model->shape.hidden, true, error)))
            return status;
    }
    return STATUS_OK;
}

static enum status check_tensors(struct model *model, struct error *error) {
    const struct architecture *architecture = model->architecture;
    struct model_shape *shape = &model->shape;
    enum status status = check_shape(model, architecture->embedding, 2, shape->vocabulary,
                                     shape->hidden, true, error);
    if (!status)
        status = check_shape(model, architecture->final_norm, 1, 1, shape->hidden, true, error);
    if (!status)
        status = check_shape(model, architecture->head, 2, shape->vocabulary, shape->hidden,
                             !shape->tied_head, error);
    for (int layer = 0; !status && layer < shape->layers; layer++)
        status = check_layer(model, layer, error);
    return status;
}

enum status model_open(const char *path, struct model *model, struct error *error) {
    memset(model, 0, sizeof *model);
    enum status status = model_source_open(path, &model->source, error);
    if (status)
        return status;
    const json_t *config = model_source_config(model->source);
    status = architecture_find(config, path, &model->architecture, error);
    if (!status) {
        snprintf(model->shape.model_type, sizeof model->shape.model_type, "%s",
                 json_string_value(json_object_get(config, "model_type")));
        status = model->architecture->read_config(config, path, &model->shape, error);
    }
    if (!status)
        status = check_tensors(model, error);
    if (status)
        model_close(model);
    return status;
}

void model_close(struct model *model) {
    if (model->source)
        model_source_close(model->source);
    memset(model, 0, sizeof *model);
}

int64_t model_dimension(const struct model_shape *shape, enum dimension dimension) {
    switch (dimension) {
    case DIMENSION_HIDDEN:
        return shape->hidden;
    case DIMENSION_INTERMEDIATE:
        return shape->intermediate;
    case DIMENSION_QUERY:
        return (int64_t)shape->heads * shape->head_dim;
    case DIMENSION_KEY_VALUE:
        return (int64_t)shape->kv_heads * shape->head_dim;
    }
    return 0;
}

int64_t model_site_channels(const struct model *model, enum site site) {
    const struct architecture *architecture = model->architecture;
    for (int i = 0; i < architecture->linear_count; i++)
        if (architecture->linears[i].reads == site)
            return model_dimension(&model->shape, architecture->linears[i].in);
    return 0;
}

int64_t model_site_offset(const struct model *model, enum site site) {
    int64_t offset = 0;
    for (int before = 0; before < (int)site; before++)
        offset += model_site_channels(model, (enum site)before);
    return offset;
}

int64_t model_layer_channels(const struct model *model) {
    return model_site_offset(model, SITE_COUNT);
}

int64_t model_layer_weights(const struct model *model) {
    const struct architecture *architecture = model->architecture;
    int64_t weights = 0;
    for (int i = 0; i < architecture->linear_count; i++)
        weights += model_dimension(&model->shape, architecture->linears[i].out) *
                   model_dimension(&model->shape, architecture->linears[i].in);
    return weights;
}

const struct tensor *model_layer_tensor(const struct model *model, int layer, const char *name,
                                        const char *suffix) {
    char full[200];
    model_layer_name(model, layer, name, suffix, full, sizeof full);
    return model_source_find(model->source, full);
}

const struct norm_rule *architecture_site_norm(const struct architecture *architecture,
                                               enum site site) {
    for (int i = 0; i < NORM_COUNT; i++)
        if (architecture->norms[i].feeds == site)
            return &architecture->norms[i];
    return NULL;
}

const struct linear_rule *architecture_site_producer(const struct architecture *architecture,
                                                     enum site site) {
    for (int i = 0; i < architecture->linear_count; i++)
        if (architecture->linears[i].row_fold == (int)site)
            return &architecture->linears[i];
    return NULL;
}
