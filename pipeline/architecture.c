#include "pipeline/architecture.h"

#include <stdio.h>
#include <string.h>

static const struct architecture *const architectures[] = {&architecture_bloom, &architecture_llama,
                                                           &architecture_starcoder2};
enum { ARCHITECTURE_COUNT = sizeof architectures / sizeof architectures[0] };

const char *site_name(enum site site) {
    static const char *const names[SITE_COUNT] = {"attention_input", "attention_output",
                                                  "mlp_input", "mlp_hidden"};
    return names[site];
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

/* A name as the file has it. */
static const char *name_in_file(const struct model *model, const char *name) {
    const char *prefix = model->architecture->optional_prefix;
    const size_t length = model->bare_names ? strlen(prefix) : 0;
    return length && !strncmp(name, prefix, length) ? name + length : name;
}

const struct tensor *model_tensor(const struct model *model, const char *name, const char *suffix) {
    char full[200];
    snprintf(full, sizeof full, "%s%s", name_in_file(model, name), suffix);
    return model_source_find(model->source, full);
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

const struct tensor *model_layer_tensor(const struct model *model, int layer, const char *name,
                                        const char *suffix) {
    char full[200];
    model_layer_name(model, layer, name, suffix, full, sizeof full);
    return model_tensor(model, full, "");
}

static void shape_text(int rank, const int64_t *shape, char *text, size_t size) {
    size_t used = 0;
    text[0] = 0;
    for (int i = 0; i < rank && used + 24 < size; i++)
        used += (size_t)snprintf(text + used, size - used, "%s%lld", i ? ", " : "",
                                 (long long)shape[i]);
}

/* Tensor `name` + `suffix` is there and has the shape; rows 0: a vector. */
static enum status check_shape(const struct model *model, const char *name, const char *suffix,
                               int64_t rows, int64_t columns, bool required, struct error *error) {
    char full[200];
    snprintf(full, sizeof full, "%s%s", name_in_file(model, name), suffix);
    const struct tensor *tensor = model_source_find(model->source, full);
    if (!tensor && !required)
        return STATUS_OK;
    const enum status status = model_source_require(model->source, full, &tensor, error);
    if (status)
        return status;
    const int rank = rows ? 2 : 1;
    const int64_t shape[2] = {rows ? rows : columns, columns};
    if (tensor->rank == rank && !memcmp(tensor->shape, shape, (size_t)rank * sizeof shape[0]))
        return STATUS_OK;
    char found[128], expected[64];
    shape_text(tensor->rank, tensor->shape, found, sizeof found);
    shape_text(rank, shape, expected, sizeof expected);
    return error_set(error, STATUS_INPUT, "%s: tensor %s has shape [%s], expected [%s]",
                     tensor->file, full, found, expected);
}

static enum status check_norm(const struct model *model, const char *name, struct error *error) {
    const int64_t hidden = model->shape.hidden;
    const enum status status = check_shape(model, name, ".weight", 0, hidden, true, error);
    if (status || model->architecture->norm_kind == NORM_RMS)
        return status;
    return check_shape(model, name, ".bias", 0, hidden, true, error);
}

static enum status check_layer(const struct model *model, int layer, struct error *error) {
    const struct architecture *architecture = model->architecture;
    char name[200];
    enum status status;
    for (int i = 0; i < architecture->linear_count; i++) {
        const struct linear_rule *linear = &architecture->linears[i];
        const int64_t out = model_dimension(&model->shape, linear->out);
        const int64_t in = model_dimension(&model->shape, linear->in);
        model_layer_name(model, layer, linear->name, "", name, sizeof name);
        if ((status = check_shape(model, name, ".weight", out, in, true, error)) ||
            (status = check_shape(model, name, ".bias", 0, out, false, error)))
            return status;
    }
    for (int i = 0; i < NORM_COUNT; i++) {
        model_layer_name(model, layer, architecture->norms[i].name, "", name, sizeof name);
        if ((status = check_norm(model, name, error)))
            return status;
    }
    return STATUS_OK;
}

static enum status check_tensors(struct model *model, struct error *error) {
    const struct architecture *architecture = model->architecture;
    const struct model_shape *shape = &model->shape;
    enum status status = check_shape(model, architecture->embedding, ".weight", shape->vocabulary,
                                     shape->hidden, true, error);
    if (!status && architecture->embedding_norm)
        status = check_norm(model, architecture->embedding_norm, error);
    if (!status)
        status = check_norm(model, architecture->final_norm, error);
    if (!status)
        status = check_shape(model, architecture->head, ".weight", shape->vocabulary, shape->hidden,
                             !shape->tied_head, error);
    for (int layer = 0; !status && layer < shape->layers; layer++)
        status = check_layer(model, layer, error);
    return status;
}

/* Files of one model have the optional prefix everywhere or nowhere: the embedding tells. */
static bool has_bare_names(const struct model *model) {
    const struct architecture *architecture = model->architecture;
    if (!architecture->optional_prefix || model_tensor(model, architecture->embedding, ".weight"))
        return false;
    struct model bare = *model;
    bare.bare_names = true;
    return model_tensor(&bare, architecture->embedding, ".weight");
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
    if (!status) {
        model->bare_names = has_bare_names(model);
        status = check_tensors(model, error);
    }
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
    case DIMENSION_FUSED:
        return (int64_t)(shape->heads + 2 * shape->kv_heads) * shape->head_dim;
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

int64_t model_widest_site(const struct model *model) {
    int64_t widest = 0;
    for (int site = 0; site < SITE_COUNT; site++) {
        const int64_t channels = model_site_channels(model, (enum site)site);
        widest = channels > widest ? channels : widest;
    }
    return widest;
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

int64_t model_role_columns(const struct model *model, enum linear_role role) {
    static const enum dimension parts[] = {DIMENSION_QUERY, DIMENSION_KEY_VALUE,
                                           DIMENSION_KEY_VALUE};
    const struct architecture *architecture = model->architecture;
    for (int i = 0; i < architecture->linear_count; i++) {
        const struct linear_rule *rule = &architecture->linears[i];
        if (rule->role == role)
            return model_dimension(&model->shape, rule->out);
        if (rule->role == ROLE_QUERY_KEY_VALUE && role <= ROLE_VALUE)
            return model_dimension(&model->shape, parts[role]);
    }
    return 0;
}

int64_t model_row_channel(const struct model *model, const struct linear_rule *rule, int64_t row) {
    const int64_t head_dim = model->shape.head_dim;
    if (rule->role == ROLE_QUERY_KEY_VALUE)
        return row / head_dim % 3 == 2 ? row / (3 * head_dim) * head_dim + row % head_dim : -1;
    const int64_t group = model_site_channels(model, (enum site)rule->row_fold) /
                          model_dimension(&model->shape, rule->out);
    return group == 1 ? row : row / head_dim * group * head_dim + row % head_dim;
}

int64_t model_linear_weights(const struct model *model, int index) {
    const struct linear_rule *rule = &model->architecture->linears[index];
    return model_dimension(&model->shape, rule->out) * model_dimension(&model->shape, rule->in);
}

int64_t model_layer_weights(const struct model *model) {
    int64_t weights = 0;
    for (int i = 0; i < model->architecture->linear_count; i++)
        weights += model_linear_weights(model, i);
    return weights;
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

bool architecture_can_rotate(const struct architecture *architecture) {
    return architecture->norm_kind == NORM_RMS && !architecture->embedding_norm;
}
