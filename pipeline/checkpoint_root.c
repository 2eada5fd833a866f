#include "pipeline/checkpoint_root.h"

#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "io/checkpoint_prepare.h"
#include "pipeline/layer_part.h"
#include "pipeline/stored.h"

/* The merged file is made while the parts are there; scratch files are gone by then. The state
 * stays until the end. */
enum status checkpoint_root_prepare(const struct config *config, const struct plan *plan,
                                    struct error *error) {
    const int copies = config->output.layout == CHECKPOINT_SINGLE ? 2 : 1;
    const int64_t bytes = copies * plan->checkpoint_bytes;
    const int64_t most = bytes > plan->scratch_bytes ? bytes : plan->scratch_bytes;
    return checkpoint_prepare(config->output.checkpoint, most + plan->state_bytes, error);
}

static enum status create_part(const struct checkpoint_root *root, const char *name,
                               struct checkpoint_part **part, struct error *error) {
    return checkpoint_part_create(root->config->output.checkpoint, name,
                                  root->config->output.compression, part, error);
}

static enum status finish_part(struct checkpoint_part *part, enum status status,
                               struct error *error) {
    if (!status)
        return checkpoint_part_finish(part, error);
    checkpoint_part_abandon(part);
    return status;
}

/* config.json as it is for the checkpoint's tensors: rotation unties the head. */
static char *config_text(const struct model *model) {
    json_t *config = json_deep_copy(model_source_config(model->source));
    if (model->rotation && model->shape.tied_head)
        json_object_set_new(config, "tie_word_embeddings", json_false());
    char *text = json_dumps(config, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(config);
    return text;
}

static enum status write_texts(const struct checkpoint_root *root, struct checkpoint_part *part,
                               struct error *error) {
    char *config_json = config_text(root->model);
    char *config_toml = NULL, *tokenizer_json = NULL;
    size_t length = 0;
    enum status status = config_json ? config_canonical_text(root->config, &config_toml, error)
                                     : error_set(error, STATUS_FAILED, "no memory for config_json");
    if (!status)
        status = checkpoint_part_write_text(part, "/config_json", config_json, strlen(config_json),
                                            error);
    if (!status)
        status = checkpoint_part_write_text(part, "/config_toml", config_toml, strlen(config_toml),
                                            error);
    /* A model without a tokenizer can still be calibrated with random tokens. */
    if (!status &&
        !model_source_tokenizer_json(root->model->source, &tokenizer_json, &length, NULL))
        status = checkpoint_part_write_text(part, "/tokenizer_json", tokenizer_json, length, error);
    free(config_json);
    free(config_toml);
    free(tokenizer_json);
    return status;
}

static enum status write_root(const struct checkpoint_root *root, struct error *error) {
    struct checkpoint_part *part;
    enum status status = create_part(root, "root", &part, error);
    if (status)
        return status;
    const struct {
        const char *name, *value;
    } texts[] = {
        {"method", config_method_name(root->config)},
        {"model_type", root->model->shape.model_type},
        {"calibration_sha256", root->windows->digest},
        {"tokenizer_sha256", root->tokenizer_digest},
    };
    for (size_t i = 0; !status && i < sizeof texts / sizeof texts[0]; i++)
        status = checkpoint_part_attribute_text(part, "/", texts[i].name, texts[i].value, error);
    if (!status && root->model->rotation)
        status = checkpoint_part_attribute_text(part, "/", "rotation",
                                                config_rotation_name(root->config), error);
    if (!status)
        status = write_texts(root, part, error);
    return finish_part(part, status, error);
}

static enum status write_run(const struct checkpoint_root *root, struct error *error) {
    struct checkpoint_part *part;
    enum status status = create_part(root, "run", &part, error);
    if (status)
        return status;
    char host[256] = "", date[32];
    gethostname(host, sizeof host - 1);
    const time_t now = time(NULL);
    struct tm utc;
    strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    char *text = NULL;
    status = config_full_text(root->config, &text, error);
    if (!status)
        status = checkpoint_part_write_text(part, "/run/config_toml", text, strlen(text), error);
    free(text);
    const struct {
        const char *name, *value;
    } texts[] = {{"program", "fptq-pipeline " FPTQ_VERSION},
                 {"isa", kernel_path_name(root->path)},
                 {"host", host},
                 {"finished", date}};
    for (size_t i = 0; !status && i < sizeof texts / sizeof texts[0]; i++)
        status = checkpoint_part_attribute_text(part, "/run", texts[i].name, texts[i].value, error);
    const struct {
        const char *name;
        int64_t value;
    } integers[] = {{"ranks", root->plan->ranks},       {"hosts", root->plan->hosts},
                    {"threads", root->plan->threads},   {"stages", root->plan->stages},
                    {"replicas", root->plan->replicas}, {"documents", root->windows->documents}};
    for (size_t i = 0; !status && i < sizeof integers / sizeof integers[0]; i++)
        status = checkpoint_part_attribute_integer(part, "/run", integers[i].name,
                                                   integers[i].value, error);
    return finish_part(part, status, error);
}

/* The embedding, or the head. */
static enum status write_matrix(const struct checkpoint_root *root, struct checkpoint_part *part,
                                bool head, struct error *error) {
    const struct model *model = root->model;
    const struct architecture *architecture = model->architecture;
    struct weights_rotation change;
    char path[200];
    stored_path(model, STORED_OUTSIDE, head ? architecture->head : architecture->embedding,
                ".weight", path);
    enum status status = weights_rotation_make(model, head, &change, error);
    if (!status)
        status = stored_write_matrix(part,
                                     head ? weights_head_tensor(model)
                                          : model_tensor(model, architecture->embedding, ".weight"),
                                     path, &change, error);
    weights_rotation_free(&change);
    return status;
}

static enum status write_norm(const struct checkpoint_root *root, struct checkpoint_part *part,
                              const char *name, struct error *error) {
    static const char *const suffixes[] = {".weight", ".bias"};
    const int count = root->model->architecture->norm_kind == NORM_RMS ? 1 : 2;
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < count; i++) {
        const struct tensor *tensor = model_tensor(root->model, name, suffixes[i]);
        float *vector;
        char path[200];
        stored_path(root->model, STORED_OUTSIDE, name, suffixes[i], path);
        status = weights_load_norm(root->model, tensor, &vector, error);
        if (!status)
            status = stored_write_vector(part, tensor, path, vector, error);
        free(vector);
    }
    return status;
}

static enum status write_embedding(const struct checkpoint_root *root, struct error *error) {
    const struct architecture *architecture = root->model->architecture;
    struct checkpoint_part *part;
    if (checkpoint_part_exists(root->config->output.checkpoint, "embedding"))
        return STATUS_OK; /* of an interrupted run */
    enum status status = create_part(root, "embedding", &part, error);
    if (status)
        return status;
    status = write_matrix(root, part, false, error);
    if (!status && architecture->embedding_norm)
        status = write_norm(root, part, architecture->embedding_norm, error);
    return finish_part(part, status, error);
}

static enum status write_head(const struct checkpoint_root *root, struct error *error) {
    const struct architecture *architecture = root->model->architecture;
    struct checkpoint_part *part;
    if (checkpoint_part_exists(root->config->output.checkpoint, "head"))
        return STATUS_OK; /* of an interrupted run */
    enum status status = create_part(root, "head", &part, error);
    if (status)
        return status;
    status = write_norm(root, part, architecture->final_norm, error);
    if (!status && (!root->model->shape.tied_head || root->model->rotation))
        status = write_matrix(root, part, true, error);
    return finish_part(part, status, error);
}

enum status checkpoint_root_write(const struct checkpoint_root *root, const struct mesh *mesh,
                                  struct error *error) {
    enum status status = STATUS_OK;
    if (mesh->rank == 0 && !(status = write_root(root, error)))
        status = write_run(root, error);
    if (!status && mesh->replica == 0 && mesh->stage == 0)
        status = write_embedding(root, error);
    if (!status && mesh->replica == 0 && mesh->stage == mesh->stages - 1)
        status = write_head(root, error);
    return status;
}

enum status checkpoint_root_assemble(const struct checkpoint_root *root, const struct watch *watch,
                                     struct error *error) {
    static const char *const others[] = {"root", "embedding", "head", "run"};
    enum { OTHERS = sizeof others / sizeof others[0] };
    const int layers = root->model->shape.layers;
    char(*names)[32] = malloc((size_t)(layers + OTHERS) * sizeof *names);
    const char **parts = malloc((size_t)(layers + OTHERS) * sizeof *parts);
    enum status status = STATUS_OK;
    if (!names || !parts) {
        status = error_set(error, STATUS_FAILED, "no memory to assemble the checkpoint");
    } else {
        for (int i = 0; i < layers; i++)
            layer_part_name(i, names[i]);
        for (int i = 0; i < OTHERS; i++)
            memcpy(names[layers + i], others[i], strlen(others[i]) + 1);
        for (int i = 0; i < layers + OTHERS; i++)
            parts[i] = names[i];
        status = checkpoint_assemble(root->config->output.checkpoint, parts, layers + OTHERS,
                                     root->config->output.layout, watch, error);
    }
    free(names);
    free(parts);
    return status;
}
