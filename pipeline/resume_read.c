#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "io/checkpoint_prepare.h"
#include "io/state.h"
#include "pipeline/fingerprint.h"
#include "pipeline/log.h"
#include "pipeline/resume.h"

static enum status make_fingerprint(const struct resume_run *run, char **text,
                                    struct error *error) {
    static const char *const compressions[] = {"none", "zstd"};
    *text = NULL;
    char *toml;
    enum status status = config_canonical_text(run->config, &toml, error);
    if (status)
        return status;
    size_t size;
    FILE *out = open_memstream(text, &size);
    if (out) {
        fingerprint_add_settings(out, toml, NULL);
        fprintf(out, "output.compression = \"%s\"\n",
                compressions[run->config->output.compression]);
        status = fingerprint_add_model(out, run->model->source, run->path, error);
        fprintf(out, "the text's tokens = %s\n", run->windows->digest);
        fprintf(out, "the ranges = %s\n", run->ranges ? run->ranges : "calibrated");
        fprintf(out, "version = %s, state 3\n", FPTQ_VERSION);
    }
    free(toml);
    if (!out || fclose(out) != 0)
        return error_set(error, STATUS_FAILED, "no memory for the fingerprint");
    return status;
}

/* ---- The ranges ---- */

struct ranges_sum {
    const struct resume_run *run;
    struct resume_found *found;
    uint8_t *windows; /* (layers, bitmap) that each layer has */
};

/* False when it does not fit the model and the text. */
static bool add_ranges(const struct ranges_sum *sum, const unsigned char *data, size_t bytes) {
    const int layers = sum->run->model->shape.layers;
    const int64_t channels = model_layer_channels(sum->run->model);
    const size_t bitmap = resume_bitmap_bytes(sum->run->windows->samples);
    struct resume_ranges head;
    if (bytes < sizeof head)
        return false;
    memcpy(&head, data, sizeof head);
    if (head.layer_begin < 0 || head.layer_end > layers || head.layer_begin > head.layer_end ||
        head.channels != channels || head.samples != sum->run->windows->samples ||
        head.sample_tokens != sum->run->sample->tokens)
        return false;
    const int64_t count = (head.layer_end - head.layer_begin) * channels;
    const int64_t values = count * head.sample_tokens;
    if (bytes !=
        sizeof head + bitmap + (size_t)count * sizeof(float) + (size_t)values * sizeof(uint16_t))
        return false;
    const uint8_t *windows = data + sizeof head;
    for (int layer = head.layer_begin; layer < head.layer_end; layer++)
        for (size_t i = 0; i < bitmap; i++)
            sum->windows[(size_t)layer * bitmap + i] |= windows[i];
    const float *from = (const float *)(const void *)(windows + bitmap);
    float *to = sum->found->maxima + head.layer_begin * channels;
    for (int64_t i = 0; i < count; i++)
        to[i] = from[i] > to[i] ? from[i] : to[i];
    if (values)
        site_sample_join(site_sample_layer(&sum->found->sample, head.layer_begin),
                         (const uint16_t *)(const void *)(from + count), values);
    return true;
}

static enum status read_ranges(const struct ranges_sum *sum, const char *owner,
                               struct error *error) {
    const char *output = sum->run->config->output.checkpoint;
    char(*names)[STATE_NAME];
    int count;
    enum status status = state_list(output, "ranges-", &names, &count, error);
    for (int i = 0; !status && i < count; i++) {
        void *data;
        size_t bytes;
        struct error fault = {0};
        const int generation = atoi(names[i] + strlen("ranges-"));
        if (generation > sum->found->generation)
            sum->found->generation = generation;
        if (state_read(output, names[i], owner, &data, &bytes, &fault))
            log_warning("%s: left out, its windows are computed again", fault.message);
        else if (data && !add_ranges(sum, data, bytes))
            log_warning("%s: does not fit; left out", names[i]);
        free(data);
    }
    free(names);
    if (status)
        return status;
    const size_t bitmap = resume_bitmap_bytes(sum->run->windows->samples);
    memcpy(sum->found->done, sum->windows, bitmap);
    for (int layer = 1; layer < sum->run->model->shape.layers; layer++)
        for (size_t i = 0; i < bitmap; i++)
            sum->found->done[i] &= sum->windows[(size_t)layer * bitmap + i];
    return STATUS_OK;
}

/* ---- The finished layers ---- */

static void find_finished(const struct resume_run *run, const char *owner,
                          struct resume_found *found) {
    const char *output = run->config->output.checkpoint;
    for (int layer = 0; layer < run->model->shape.layers; layer++) {
        char name[STATE_NAME];
        void *data;
        size_t bytes;
        const size_t expected = SITE_COUNT * sizeof *found->results;
        layer_part_name(layer, name);
        if (state_read(output, name, owner, &data, &bytes, NULL) || !data)
            continue;
        if (bytes == expected && checkpoint_part_exists(output, name)) {
            memcpy(found->results + layer * SITE_COUNT, data, expected);
            found->finished[layer] = true;
        }
        free(data);
    }
}

static enum status read_state(const struct resume_run *run, const char *owner,
                              struct resume_found *found, struct error *error) {
    const size_t layers = (size_t)run->model->shape.layers;
    const struct ranges_sum sum = {run, found,
                                   calloc(layers, resume_bitmap_bytes(run->windows->samples) + 1)};
    enum status status = sum.windows ? read_ranges(&sum, owner, error)
                                     : error_set(error, STATUS_FAILED, "no memory for the state");
    free(sum.windows);
    if (!status)
        find_finished(run, owner, found);
    return status;
}

static enum status allocate(const struct resume_run *run, struct resume_found *found,
                            struct error *error) {
    const size_t layers = (size_t)run->model->shape.layers;
    found->done = calloc(1, resume_bitmap_bytes(run->windows->samples) + 1);
    found->maxima = calloc(layers * (size_t)model_layer_channels(run->model), sizeof(float));
    found->finished = calloc(layers, sizeof *found->finished);
    found->results = calloc(layers * SITE_COUNT, sizeof *found->results);
    if (!found->done || !found->maxima || !found->finished || !found->results)
        return error_set(error, STATUS_FAILED, "no memory for the state");
    return site_sample_create(&found->sample, run->model, run->config, 0, run->model->shape.layers,
                              error);
}

void resume_found_free(struct resume_found *found) {
    free(found->done);
    free(found->maxima);
    free(found->finished);
    free(found->results);
    site_sample_free(&found->sample);
    *found = (struct resume_found){0};
}

enum status resume_read(const struct resume_run *run, char owner[65], struct resume_found *found,
                        struct error *error) {
    const char *output = run->config->output.checkpoint;
    char *fingerprint;
    enum status status = make_fingerprint(run, &fingerprint, error);
    if (!status)
        status = allocate(run, found, error);
    if (!status && !run->restart)
        status = fingerprint_compare(output, fingerprint, &found->anything, error);
    int removed = 0;
    if (!status)
        status = checkpoint_clear(output, found->anything, &removed, error);
    if (!status && removed)
        log_detail("%s: removed %d file(s) of an earlier run from its parts", output, removed);
    if (!status)
        status = fingerprint_take(output, fingerprint, found->anything, owner, error);
    if (!status && found->anything)
        status = read_state(run, owner, found, error);
    free(fingerprint);
    return status;
}
