#include "pipeline/saved_ranges.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "io/digest.h"
#include "pipeline/log.h"
#include "pipeline/stored.h"
#include "pipeline/weights.h"

static const char dataset_name[] = "/input_absmax";

/* ---- Of the right model ---- */

static enum status other_model(const struct saved_ranges *saved, const char *what,
                               struct error *error) {
    return error_set(error, STATUS_INPUT, "%s: a checkpoint of another model: %s is not that of %s",
                     saved->checkpoint.path, what,
                     model_source_path(saved->checkpoint.model->source));
}

/* No fold changes it, and training does: models of one shape are told apart by it. */
static enum status check_final_norm(const struct saved_ranges *saved, struct error *error) {
    const struct model *model = saved->checkpoint.model;
    const char *name = model->architecture->final_norm;
    const int64_t hidden = model->shape.hidden;
    const size_t count = (size_t)hidden;
    const struct tensor *tensor = model_tensor(model, name, ".weight");
    float *own = NULL, *stored = NULL;
    void *narrow = malloc(count * sizeof(float));
    enum status status = weights_load_norm(model, tensor, &own, error);
    if (!status)
        status = quantized_model_vector(&saved->checkpoint, STORED_OUTSIDE, name, ".weight", hidden,
                                        true, &stored, error);
    if (!status && !narrow)
        status = error_set(error, STATUS_FAILED, "no memory for %s", name);
    if (!status) {
        const enum number_type type = stored_type(tensor, own, hidden);
        number_narrow(narrow, own, type, count);
        number_widen(own, narrow, type, count);
        if (memcmp(own, stored, count * sizeof *own) != 0)
            status = other_model(saved, name, error);
    }
    free(own);
    free(stored);
    free(narrow);
    return status;
}

/* A model may have none, and ranges of random tokens need none. */
static enum status check_tokenizer(const struct saved_ranges *saved, struct error *error) {
    char *json = NULL, sum[65];
    size_t length = 0;
    if (!*saved->tokenizer_digest ||
        model_source_tokenizer_json(saved->checkpoint.model->source, &json, &length, NULL))
        return STATUS_OK;
    digest_bytes(json, length, sum);
    free(json);
    return strcmp(sum, saved->tokenizer_digest) ? other_model(saved, "its tokenizer", error)
                                                : STATUS_OK;
}

/* The output takes the place of what was there before. */
static enum status check_output(const struct saved_ranges *saved, const struct config *config,
                                struct error *error) {
    struct stat from, to;
    if (stat(saved->checkpoint.path, &from) || stat(config->output.checkpoint, &to) ||
        from.st_dev != to.st_dev || from.st_ino != to.st_ino)
        return STATUS_OK;
    return error_set(error, STATUS_INPUT,
                     "%s: calibration.ranges is the checkpoint that is to be written: give "
                     "output.checkpoint another name",
                     saved->checkpoint.path);
}

/* Of a rotated model the ranges are others. */
static enum status check_rotation(const struct saved_ranges *saved, struct error *error) {
    if (saved->content.quantization.rotation == ROTATION_NONE)
        return STATUS_OK;
    return error_set(error, STATUS_INPUT,
                     "%s: its ranges are those of the rotated model (quantization.rotation), not "
                     "the model's own",
                     saved->checkpoint.path);
}

static enum status check(const struct saved_ranges *saved, const struct config *config,
                         struct error *error) {
    enum status status = check_output(saved, config, error);
    if (!status)
        status = check_rotation(saved, error);
    if (!status)
        status = quantized_model_check(&saved->checkpoint, error);
    if (!status)
        status = check_final_norm(saved, error);
    return status ? status : check_tokenizer(saved, error);
}

/* ---- The calibration that it had ---- */

static enum status read_digest(const struct saved_ranges *saved, const char *name, char digest[65],
                               struct error *error) {
    char *text = NULL;
    const enum status status =
        checkpoint_attribute_text(saved->checkpoint.file, "/", name, &text, error);
    if (!status)
        snprintf(digest, 65, "%s", text);
    free(text);
    return status;
}

static enum status read_content(struct saved_ranges *saved, struct error *error) {
    static const char path[] = "/config_toml";
    struct checkpoint_dataset dataset;
    enum status status = checkpoint_describe(saved->checkpoint.file, path, &dataset, error);
    if (status)
        return status;
    char *text = malloc(dataset.bytes + 1);
    if (!text)
        return error_set(error, STATUS_FAILED, "%s: no memory for %s", saved->checkpoint.path,
                         path);
    status =
        dataset.type == CHECKPOINT_TEXT
            ? checkpoint_read(saved->checkpoint.file, path, text, error)
            : error_set(error, STATUS_INPUT, "%s: %s is no text", saved->checkpoint.path, path);
    struct error fault;
    if (!status && config_parse_content(&saved->content, text, dataset.bytes, path + 1, &fault))
        status = error_set(error, STATUS_INPUT, "%s: %s", saved->checkpoint.path, fault.message);
    free(text);
    return status;
}

/* Of the lines that the manifest has for the ranges. */
static void digest_ranges(struct saved_ranges *saved) {
    const struct checkpoint *file = saved->checkpoint.file;
    struct digest *digest = digest_create();
    for (size_t i = 0; digest && i < checkpoint_line_count(file); i++) {
        const char *path = checkpoint_line_path(file, i), *sum = checkpoint_line_sum(file, i);
        const size_t length = strlen(path), suffix = sizeof dataset_name - 1;
        if (length < suffix || strcmp(path + length - suffix, dataset_name) != 0)
            continue;
        digest_update(digest, path, length);
        digest_update(digest, sum, strlen(sum));
    }
    if (digest)
        digest_finish(digest, saved->digest);
}

static enum status take_up(struct saved_ranges *saved, const struct config *config,
                           struct error *error) {
    enum status status = read_content(saved, error);
    if (!status)
        status = read_digest(saved, "calibration_sha256", saved->windows.digest, error);
    if (!status)
        status = read_digest(saved, "tokenizer_sha256", saved->tokenizer_digest, error);
    if (status)
        return status;
    digest_ranges(saved);
    saved->config = *config;
    saved->config.calibration = saved->content.calibration;
    saved->config.calibration.chunk_tokens = config->calibration.chunk_tokens;
    saved->config.calibration.ranges = config->calibration.ranges;
    saved->config.run.precision = saved->content.run.precision;
    return STATUS_OK;
}

enum status saved_ranges_open(const struct mesh *mesh, const struct model *model,
                              const struct config *config, struct saved_ranges *saved,
                              struct error *error) {
    const char *path = config->calibration.ranges;
    *saved = (struct saved_ranges){0};
    enum status status =
        mesh_agree(mesh, mesh->rank ? STATUS_OK : quantized_model_verify(path, error), error);
    if (status)
        return status;
    status = quantized_model_open(path, model, &saved->checkpoint, error);
    if (!status)
        status = take_up(saved, config, error);
    status = mesh_agree(mesh, status, error);
    if (!status)
        status = mesh_agree(mesh, mesh->rank ? STATUS_OK : check(saved, config, error), error);
    if (!status)
        log_info("ranges of %s: %lld windows of %lld tokens", path,
                 (long long)saved->content.calibration.samples,
                 (long long)saved->content.calibration.sequence_length);
    return status;
}

void saved_ranges_close(struct saved_ranges *saved) {
    quantized_model_close(&saved->checkpoint);
    config_free(&saved->content);
    *saved = (struct saved_ranges){0};
}

/* ---- The ranges ---- */

static enum status check_values(const struct saved_ranges *saved, const char *path,
                                const float *values, int64_t count, struct error *error) {
    for (int64_t i = 0; i < count; i++)
        if (!(values[i] >= 0 && isfinite(values[i])))
            return error_set(error, STATUS_INPUT, "%s: %s: channel %lld is %g, which is no range",
                             saved->checkpoint.path, path, (long long)i, (double)values[i]);
    return STATUS_OK;
}

/* range: (channels) of the site that the linear reads; taken where no linear before reads it
 * (*first NULL), else compared. */
static enum status read_range(const struct saved_ranges *saved, int layer,
                              const struct linear_rule *rule, float *range,
                              const struct linear_rule **first, struct error *error) {
    const struct model *model = saved->checkpoint.model;
    const int64_t channels = model_site_channels(model, rule->reads);
    char path[200];
    float *values = NULL;
    stored_path(model, layer, rule->name, dataset_name, path);
    enum status status =
        quantized_model_floats(&saved->checkpoint, path, channels, 0, &values, error);
    if (!status)
        status = check_values(saved, path, values, channels, error);
    if (!status && *first && memcmp(range, values, (size_t)channels * sizeof *range) != 0)
        status = error_set(error, STATUS_INPUT,
                           "%s: layer %d: %s and %s read the same activations, but differ in "
                           "input_absmax",
                           saved->checkpoint.path, layer, (*first)->name, rule->name);
    if (!status)
        memcpy(range, values, (size_t)channels * sizeof *range);
    *first = *first ? *first : rule;
    free(values);
    return status;
}

enum status saved_ranges_read(const struct saved_ranges *saved, int layer_begin, int layer_end,
                              float *maxima, struct error *error) {
    const struct model *model = saved->checkpoint.model;
    const struct architecture *architecture = model->architecture;
    enum status status = STATUS_OK;
    for (int layer = layer_begin; !status && layer < layer_end; layer++) {
        const struct linear_rule *first[SITE_COUNT] = {NULL};
        float *ranges = maxima + (layer - layer_begin) * model_layer_channels(model);
        for (int i = 0; !status && i < architecture->linear_count; i++) {
            const struct linear_rule *rule = &architecture->linears[i];
            status = read_range(saved, layer, rule, ranges + model_site_offset(model, rule->reads),
                                &first[rule->reads], error);
        }
    }
    return status;
}
