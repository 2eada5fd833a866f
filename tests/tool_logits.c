/* Writes what the pipeline computes, for comparison with other programs:
 *
 *   tool_logits MODEL IDS OUT [key=value ...]
 *
 * IDS: raw int32 token ids. OUT.logits: raw f32 (tokens, vocabulary); OUT.maxima: raw f32 (layers,
 * channels of all sites in the order attention_input, attention_output, mlp_input, mlp_hidden).
 * Keys: precision=auto|f32, isa=PATH, threads=N, chunk=N, and fold=V0,V1 (v0, v1): calibrate on the
 * tokens, fold every scale into an f32 copy of the model, and compute the logits of that one. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "pipeline/fold.h"
#include "pipeline/stage.h"

struct request {
    enum run_precision precision;
    enum kernel_path path;
    int threads;
    int64_t chunk;
    float v0, v1;
    bool fold;
};

static int fail(const struct error *error) {
    fprintf(stderr, "tool_logits: %s\n", error->message);
    return (int)error->status;
}

static int32_t *read_ids(const char *path, int64_t *count) {
    FILE *file = fopen(path, "rb");
    if (!file)
        return NULL;
    fseek(file, 0, SEEK_END);
    *count = ftell(file) / (long)sizeof(int32_t);
    rewind(file);
    int32_t *ids = malloc((size_t)*count * sizeof *ids);
    if (ids && fread(ids, sizeof *ids, (size_t)*count, file) != (size_t)*count) {
        free(ids);
        ids = NULL;
    }
    fclose(file);
    return ids;
}

static int write_floats(const char *out, const char *suffix, const float *values, size_t count) {
    char path[1000];
    snprintf(path, sizeof path, "%s.%s", out, suffix);
    FILE *file = fopen(path, "wb");
    if (!file || fwrite(values, sizeof *values, count, file) != count || fclose(file)) {
        fprintf(stderr, "tool_logits: cannot write %s\n", path);
        return 1;
    }
    return 0;
}

static bool parse_request(int count, char **arguments, struct request *request) {
    for (int i = 0; i < count; i++) {
        const char *value = strchr(arguments[i], '=');
        if (!value)
            return false;
        value++;
        if (!strncmp(arguments[i], "precision=", 10))
            request->precision = !strcmp(value, "f32") ? PRECISION_F32 : PRECISION_AUTO;
        else if (!strncmp(arguments[i], "isa=", 4) && !kernel_path_parse(value, &request->path))
            return false;
        else if (!strncmp(arguments[i], "threads=", 8))
            request->threads = atoi(value);
        else if (!strncmp(arguments[i], "chunk=", 6))
            request->chunk = atoi(value);
        else if (!strncmp(arguments[i], "fold=", 5))
            request->fold = sscanf(value, "%f,%f", &request->v0, &request->v1) == 2;
    }
    return true;
}

static enum status forward(struct stage *stage, const int32_t *ids, int64_t tokens, float *hidden,
                           float *maxima, struct error *error) {
    const int64_t width = stage->model->shape.hidden;
    for (int64_t at = 0; at < tokens; at += stage->chunk_tokens) {
        const int64_t left = tokens - at;
        const int64_t count = left < stage->chunk_tokens ? left : stage->chunk_tokens;
        const enum status status = stage_embed(stage, ids + at, count, hidden + at * width, error);
        if (status)
            return status;
        const struct stage_observer observer = {.maxima = maxima};
        stage_forward(stage, hidden + at * width, at, count, &observer, NULL);
    }
    return STATUS_OK;
}

static enum status fold_stage(struct stage *stage, const struct request *request,
                              const float *maxima, struct error *error) {
    const struct config config = {.quantization = {.method = METHOD_FPTQ,
                                                   .v0 = request->v0,
                                                   .v1 = request->v1,
                                                   .equalization = EQUALIZE_LOG2}};
    for (int layer = 0; layer < stage->layer_end; layer++) {
        struct fold_layer fold;
        const struct fold_basis basis = {.model = stage->model,
                                         .config = &config,
                                         .maxima =
                                             maxima + layer * model_layer_channels(stage->model)};
        enum status status = fold_layer_decide(&basis, &fold, error);
        if (!status)
            status = stage_fold_layer(stage, layer, &fold, error);
        fold_layer_free(&fold);
        if (status)
            return status;
    }
    return STATUS_OK;
}

static int run(const char *path, const int32_t *ids, int64_t tokens, const char *out,
               const struct request *request) {
    struct error error = {0};
    struct model model;
    if (model_open(path, &model, &error))
        return fail(&error);
    const int64_t chunk = request->chunk && request->chunk < tokens ? request->chunk : tokens;
    struct compute compute = {
        request->path, team_create(request->threads, stage_scratch_bytes(&model, chunk, tokens))};
    struct stage stage;
    if (stage_load(&model, NULL, &compute, 0, model.shape.layers, chunk, tokens, request->precision,
                   &stage, &error))
        return fail(&error);
    const size_t ranges = (size_t)(model.shape.layers * model_layer_channels(&model));
    const size_t logit_count = (size_t)(tokens * model.shape.vocabulary);
    float *hidden = malloc((size_t)(tokens * model.shape.hidden) * sizeof *hidden);
    float *maxima = calloc(ranges, sizeof *maxima);
    float *logits = malloc(logit_count * sizeof *logits);
    enum status status = forward(&stage, ids, tokens, hidden, maxima, &error);
    if (!status && request->fold) {
        status = fold_stage(&stage, request, maxima, &error);
        memset(maxima, 0, ranges * sizeof *maxima);
        if (!status)
            status = forward(&stage, ids, tokens, hidden, maxima, &error);
    }
    if (!status)
        status = stage_logits(&model, &compute, request->precision, hidden, tokens, logits, &error);
    if (status)
        fail(&error);
    else if (write_floats(out, "logits", logits, logit_count) ||
             write_floats(out, "maxima", maxima, ranges))
        status = STATUS_FAILED;
    free(hidden);
    free(maxima);
    free(logits);
    stage_free(&stage);
    team_destroy(compute.team);
    model_close(&model);
    return (int)status;
}

int main(int count, char **arguments) {
    struct request request = {.path = kernel_path_best(), .threads = 1};
    int64_t tokens = 0;
    if (count < 4 || !parse_request(count - 4, arguments + 4, &request)) {
        fprintf(stderr,
                "usage: tool_logits MODEL IDS OUT [precision= isa= threads= chunk= fold=V0,V1]\n");
        return STATUS_USAGE;
    }
    int32_t *ids = read_ids(arguments[2], &tokens);
    if (!ids || !tokens) {
        fprintf(stderr, "tool_logits: cannot read token ids from %s\n", arguments[2]);
        return STATUS_INPUT;
    }
    const int status = run(arguments[1], ids, tokens, arguments[3], &request);
    free(ids);
    return status;
}
