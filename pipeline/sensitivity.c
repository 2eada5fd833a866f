#include "pipeline/sensitivity.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/memory.h"
#include "pipeline/timing.h"

/* What undoes a layer's folds. */
struct sensitivity_layer {
    float *scales[SITE_COUNT];      /* (channels) s of a site that a linear before it divides by */
    float *row_scales[LINEARS_MAX]; /* (out) s that is folded into a linear's rows, or NULL */
};

static int stage_layers(const struct stage *stage) {
    return stage->layer_end - stage->layer_begin;
}

/* ---- Folds ---- */

/* s of each site that is folded into a linear's rows. */
static enum status load_scales(const struct sensitivity *sensitivity, int layer,
                               struct sensitivity_layer *loaded, struct error *error) {
    const struct architecture *architecture = sensitivity->model->architecture;
    const struct quantized_model *quantized = sensitivity->quantized->quantized;
    enum status status = STATUS_OK;
    for (int i = 0; !status && i < architecture->linear_count; i++) {
        const struct linear_rule *rule = &architecture->linears[i];
        struct quantized_linear_kind kind;
        if (loaded->scales[rule->reads] || architecture_site_norm(architecture, rule->reads))
            continue;
        status = quantized_model_linear(quantized, layer, rule, &kind, error);
        if (status || !kind.equalized || !kind.folded)
            continue;
        char path[300];
        snprintf(path, sizeof path, "%s/equalization", kind.group);
        status = quantized_model_floats(quantized, path, kind.columns, 0,
                                        &loaded->scales[rule->reads], error);
    }
    return status;
}

static enum status make_row_scales(const struct model *model, struct sensitivity_layer *layer,
                                   struct error *error) {
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        const float *scale = rule->row_fold == SITE_NONE ? NULL : layer->scales[rule->row_fold];
        if (!scale)
            continue;
        const int64_t out = model_dimension(&model->shape, rule->out);
        layer->row_scales[i] = malloc((size_t)out * sizeof(float));
        if (!layer->row_scales[i])
            return error_set(error, STATUS_FAILED, "no memory for the scales of %s", rule->name);
        for (int64_t row = 0; row < out; row++) {
            const int64_t channel = model_row_channel(model, rule, row);
            layer->row_scales[i][row] = channel < 0 ? 1.0f : scale[channel];
        }
    }
    return STATUS_OK;
}

/* ---- Memory ---- */

int64_t sensitivity_bytes(const struct model *model, int layers, int64_t windows,
                          int64_t chunk_tokens) {
    return layers * (windows * LINEARS_MAX * (int64_t)sizeof(struct sensitivity_sums) +
                     2 * 4 * model_layer_channels(model)) +
           chunk_tokens * (4 * model_widest_site(model) + (int64_t)sizeof(struct sensitivity_sums));
}

enum status sensitivity_create(struct sensitivity *sensitivity, struct stage *full,
                               struct stage *quantized, int64_t windows, struct error *error) {
    const struct model *model = full->model;
    *sensitivity = (struct sensitivity){
        .model = model, .full = full, .quantized = quantized, .windows = windows};
    const int layers = stage_layers(full);
    if (!layers)
        return STATUS_OK;
    const size_t tokens = (size_t)full->chunk_tokens;
    sensitivity->sums =
        calloc((size_t)layers * (size_t)windows * LINEARS_MAX, sizeof *sensitivity->sums);
    sensitivity->layers = calloc((size_t)layers, sizeof *sensitivity->layers);
    sensitivity->inputs =
        memory_allocate(tokens * (size_t)model_widest_site(model) * sizeof(float));
    sensitivity->tokens = malloc(tokens * sizeof *sensitivity->tokens);
    enum status status = STATUS_OK;
    if (!sensitivity->sums || !sensitivity->layers || !sensitivity->inputs || !sensitivity->tokens)
        status = error_set(error, STATUS_FAILED, "no memory for evaluation.sensitivity");
    for (int i = 0; !status && i < layers; i++) {
        status = load_scales(sensitivity, full->layer_begin + i, &sensitivity->layers[i], error);
        if (!status)
            status = make_row_scales(model, &sensitivity->layers[i], error);
    }
    if (status)
        sensitivity_free(sensitivity);
    return status;
}

void sensitivity_free(struct sensitivity *sensitivity) {
    for (int i = 0; sensitivity->layers && i < stage_layers(sensitivity->full); i++) {
        for (int site = 0; site < SITE_COUNT; site++)
            free(sensitivity->layers[i].scales[site]);
        for (int linear = 0; linear < LINEARS_MAX; linear++)
            free(sensitivity->layers[i].row_scales[linear]);
    }
    free(sensitivity->layers);
    free(sensitivity->sums);
    free(sensitivity->inputs);
    free(sensitivity->tokens);
    *sensitivity = (struct sensitivity){0};
}

/* ---- A site passes ---- */

/* The checkpoint's input, from the model's x or from the hidden state that it was made of. */
static void make_inputs(const struct sensitivity *sensitivity, int layer, enum site site,
                        const float *x, const float *hidden, int64_t tokens) {
    const struct model *model = sensitivity->model;
    const struct stage *quantized = sensitivity->quantized;
    const int64_t channels = model_site_channels(model, site);
    const struct norm_rule *norm = architecture_site_norm(model->architecture, site);
    if (norm) {
        const ptrdiff_t index = norm - model->architecture->norms;
        stage_norm_apply(model, quantized->compute,
                         &quantized->layers[layer - quantized->held_begin].norms[index],
                         sensitivity->inputs, hidden, tokens);
        return;
    }
    const float *scale = sensitivity->layers[layer - quantized->layer_begin].scales[site];
    for (int64_t t = 0; t < tokens; t++)
        for (int64_t i = 0; i < channels; i++)
            sensitivity->inputs[t * channels + i] = x[t * channels + i] / (scale ? scale[i] : 1.0f);
}

struct comparison {
    const float *y, *other;    /* (T, columns): the model's output, the checkpoint's */
    const float *scale, *bias; /* (columns) of the checkpoint's, of the model's; or NULL */
    int64_t columns;
    struct sensitivity_sums *tokens; /* (T) */
};

/* Eight sums side by side, in one order on every machine. */
static void compare_tokens(void *context, int64_t begin, int64_t end, int thread) {
    enum { LANES = 8 };
    const struct comparison *comparison = context;
    const int64_t columns = comparison->columns;
    (void)thread;
    for (int64_t token = begin; token < end; token++) {
        const float *y = comparison->y + token * columns;
        const float *other = comparison->other + token * columns;
        double difference[LANES] = {0}, whole[LANES] = {0};
        for (int64_t i = 0; i < columns; i++) {
            const double scale = comparison->scale ? (double)comparison->scale[i] : 1;
            const double bias = comparison->bias ? (double)comparison->bias[i] : 0;
            const double d = scale * (double)other[i] - (double)y[i], w = (double)y[i] - bias;
            difference[i % LANES] += d * d;
            whole[i % LANES] += w * w;
        }
        struct sensitivity_sums sums = {0};
        for (int lane = 0; lane < LANES; lane++) {
            sums.difference += difference[lane];
            sums.whole += whole[lane];
        }
        comparison->tokens[token] = sums;
    }
}

/* Tokens of each window in their order. */
static void add_tokens(struct sensitivity *sensitivity, int layer, int linear) {
    const struct stream_chunk *chunk = sensitivity->chunk;
    const int64_t first = (layer - sensitivity->full->layer_begin) * sensitivity->windows;
    const struct sensitivity_sums *token = sensitivity->tokens;
    for (int64_t p = 0; p < chunk->piece_count; p++) {
        struct sensitivity_sums *sums =
            &sensitivity->sums[(first + chunk->pieces[p].sequence) * LINEARS_MAX + linear];
        for (int64_t t = 0; t < chunk->pieces[p].tokens; t++, token++) {
            sums->difference += token->difference;
            sums->whole += token->whole;
        }
    }
}

static void take_site(void *context, int layer, enum site site, const float *x, const float *hidden,
                      int64_t tokens) {
    struct sensitivity *sensitivity = context;
    const struct model *model = sensitivity->model;
    struct stage *full = sensitivity->full, *quantized = sensitivity->quantized;
    const double begin = timing_now();
    make_inputs(sensitivity, layer, site, x, hidden, tokens);
    stage_read_site(quantized, layer, site, sensitivity->inputs, tokens);
    for (int i = 0; i < model->architecture->linear_count; i++) {
        const struct linear_rule *rule = &model->architecture->linears[i];
        if (rule->reads != site)
            continue;
        struct comparison comparison = {
            .y = full->projected[rule->role],
            .other = quantized->projected[rule->role],
            .scale = sensitivity->layers[layer - full->layer_begin].row_scales[i],
            .bias = full->layers[layer - full->held_begin].linears[i].bias,
            .columns = model_dimension(&model->shape, rule->out),
            .tokens = sensitivity->tokens,
        };
        team_for(full->compute->team, tokens, 16, compare_tokens, &comparison);
        add_tokens(sensitivity, layer, i);
    }
    sensitivity->seconds += timing_now() - begin;
}

struct stage_observer sensitivity_observe(struct sensitivity *sensitivity,
                                          const struct stream_chunk *chunk) {
    sensitivity->chunk = chunk;
    return (struct stage_observer){.products = take_site, .context = sensitivity};
}

/* ---- The result ---- */

/* A layer's sums of all windows, from whichever ranks have them: each is of one, and zero on the
 * others. */
static void gather_layer(const struct sensitivity *sensitivity, int layer,
                         struct sensitivity_sums *all) {
    enum { PIECE = 1 << 20, NUMBERS = LINEARS_MAX * sizeof *all / sizeof(double) };
    const int64_t windows = sensitivity->windows;
    const struct stage *stage = sensitivity->full;
    memset(all, 0, (size_t)windows * LINEARS_MAX * sizeof *all);
    if (layer >= stage->layer_begin && layer < stage->layer_end)
        memcpy(all, sensitivity->sums + (layer - stage->layer_begin) * windows * LINEARS_MAX,
               (size_t)windows * LINEARS_MAX * sizeof *all);
    for (int64_t at = 0; at < windows; at += PIECE) {
        const int64_t left = windows - at;
        MPI_Allreduce(MPI_IN_PLACE, all + at * LINEARS_MAX,
                      (int)(left < PIECE ? left : PIECE) * NUMBERS, MPI_DOUBLE, MPI_SUM,
                      MPI_COMM_WORLD);
    }
}

enum status sensitivity_gather(const struct sensitivity *sensitivity, const struct mesh *mesh,
                               int layers, double *errors, struct error *error) {
    struct sensitivity_sums *all = malloc((size_t)sensitivity->windows * LINEARS_MAX * sizeof *all);
    const enum status status = mesh_agree(
        mesh,
        all ? STATUS_OK : error_set(error, STATUS_FAILED, "no memory for evaluation.sensitivity"),
        error);
    for (int layer = 0; !status && layer < layers; layer++) {
        gather_layer(sensitivity, layer, all);
        for (int linear = 0; linear < LINEARS_MAX; linear++) {
            struct sensitivity_sums sum = {0};
            for (int64_t window = 0; window < sensitivity->windows; window++) {
                sum.difference += all[window * LINEARS_MAX + linear].difference;
                sum.whole += all[window * LINEARS_MAX + linear].whole;
            }
            errors[layer * LINEARS_MAX + linear] =
                sum.whole > 0 ? sqrt(sum.difference / sum.whole) : 0;
        }
    }
    free(all);
    return status;
}
