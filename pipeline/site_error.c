#include "pipeline/site_error.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/matmul.h"
#include "kernels/memory.h"
#include "kernels/w4a8.h"
#include "pipeline/clip_ranges.h"
#include "pipeline/quantize_linear.h"
#include "pipeline/weights.h"

static void *allocate(size_t bytes) {
    return memory_allocate(bytes);
}

/* A layer being measured. */
struct measure {
    const struct fold_basis *basis;
    struct quantize_format format;
    struct fold_layer folds[2]; /* without and with equalization; rows are not multiplied */
    int64_t tokens;
};

/* A site of it. */
struct site_measure {
    const struct measure *layer;
    enum site site;
    int64_t channels;
    struct matmul_packed exact;                /* X in f32 */
    struct w4a8_input inputs[TREATMENT_COUNT]; /* Q_t(X) */
    double sums[TREATMENT_COUNT], whole;       /* squares of differences, of X W^T */
};

static int equalizes(int treatment) {
    return input_policy_equalizes((enum input_policy)treatment);
}

/* ---- Sums ---- */

struct difference {
    const float *y, *other; /* (tokens, columns); other NULL: zeros */
    int64_t columns;
    double *sums; /* (tokens) */
};

static void add_squares(void *context, int64_t begin, int64_t end, int thread) {
    const struct difference *difference = context;
    (void)thread;
    for (int64_t token = begin; token < end; token++) {
        const float *y = difference->y + token * difference->columns;
        const float *other = difference->other + token * difference->columns;
        double sum = 0;
        for (int64_t i = 0; i < difference->columns; i++) {
            const double d = (double)y[i] - (difference->other ? (double)other[i] : 0);
            sum += d * d;
        }
        difference->sums[token] = sum;
    }
}

/* Sum over all tokens of |y - other|^2, each token's for itself and then in their order. */
static double sum_squares(struct team *team, struct difference *difference, int64_t tokens) {
    team_for(team, tokens, 16, add_squares, difference);
    double sum = 0;
    for (int64_t token = 0; token < tokens; token++)
        sum += difference->sums[token];
    return sum;
}

/* ---- One linear ---- */

static void pack_weight(const struct quantized_linear *linear, const struct w4a8_weight *weight) {
    for (int64_t chunk = 0; chunk < linear->chunks; chunk++) {
        const int64_t begin = chunk * linear->chunk_rows;
        const int64_t left = linear->rows - begin;
        const int64_t end = begin + (left < linear->chunk_rows ? left : linear->chunk_rows);
        const int64_t group = begin * linear->groups;
        w4a8_weight_pack(weight, begin, end, linear->packed + (size_t)chunk * linear->chunk_bytes,
                         linear->scales + group,
                         linear->zero_points ? linear->zero_points + group : NULL);
    }
}

/* The weights as they will be without or with equalization, and the treatments that go with them.
 */
static enum status add_errors(struct site_measure *site, int index, int equalized,
                              struct difference *difference, float *y, struct error *error) {
    const struct measure *measure = site->layer;
    const struct fold_basis *basis = measure->basis;
    const struct linear_rule *rule = &basis->model->architecture->linears[index];
    struct quantized_linear linear;
    enum status status =
        quantized_linear_create(basis->model, rule, &measure->format, &linear, error);
    if (status)
        return status;
    struct w4a8_weight weight = {
        .rows = linear.rows,
        .columns = linear.columns,
        .group_size = measure->format.group_size,
        .bits = measure->format.bits,
        .symmetric = measure->format.symmetric,
        .path = basis->compute->path,
    };
    const struct fold_layer *fold = &measure->folds[equalized];
    float *shrink = NULL;
    weight.data = allocate(w4a8_weight_bytes(&weight));
    if (!weight.data)
        status = error_set(error, STATUS_FAILED, "no memory to measure %s", rule->name);
    if (!status)
        status = clip_ranges(basis->model, basis->config, basis->compute, basis->sample,
                             basis->layer, index, fold, &shrink, error);
    if (!status)
        status = quantized_linear_compute(basis->model, basis->compute, basis->layer, index, fold,
                                          &measure->format, shrink, &linear, error);
    free(shrink);
    if (!status)
        pack_weight(&linear, &weight);
    for (int t = 0; !status && t < TREATMENT_COUNT; t++) {
        if (equalizes(t) != equalized)
            continue;
        w4a8_run(basis->compute, y, linear.rows, &site->inputs[t], &weight, NULL);
        difference->other = y;
        site->sums[t] += sum_squares(basis->compute->team, difference, measure->tokens);
    }
    free(weight.data);
    quantized_linear_free(&linear);
    return status;
}

static enum status measure_linear(struct site_measure *site, int index, struct error *error) {
    const struct fold_basis *basis = site->layer->basis;
    const struct linear_rule *rule = &basis->model->architecture->linears[index];
    const int64_t tokens = site->layer->tokens;
    const int64_t out = model_dimension(&basis->model->shape, rule->out);
    struct matmul_weight weight;
    void *owned;
    enum status status = weights_load(basis->model, basis->compute->team, basis->layer, rule,
                                      PRECISION_F32, &weight, &owned, error);
    if (status)
        return status;
    float *exact = allocate((size_t)(tokens * out) * sizeof *exact);
    float *y = allocate((size_t)(tokens * out) * sizeof *y);
    double *sums = allocate((size_t)tokens * sizeof *sums);
    if (!exact || !y || !sums) {
        status = error_set(error, STATUS_FAILED, "no memory to measure %s", rule->name);
    } else {
        struct difference difference = {.y = exact, .columns = out, .sums = sums};
        matmul_run(basis->compute, exact, out, &site->exact, &weight);
        site->whole += sum_squares(basis->compute->team, &difference, tokens);
        for (int equalized = 0; !status && equalized < 2; equalized++)
            status = add_errors(site, index, equalized, &difference, y, error);
    }
    free(exact);
    free(y);
    free(sums);
    free(owned);
    return status;
}

/* ---- One site ---- */

/* Q_t(X) of a treatment. */
static bool quantize_input(struct site_measure *site, int treatment, const float *x,
                           float *multiplier) {
    const struct measure *measure = site->layer;
    const struct compute *compute = measure->basis->compute;
    const struct fold_site *decided = &measure->folds[equalizes(treatment)].sites[site->site];
    const struct w4a8_quantization quantization = {
        .multiplier = decided->scale ? multiplier : NULL,
        .dynamic = !input_policy_is_static((enum input_policy)treatment),
        .scale = decided->input_scale > 0 ? decided->input_scale : 1,
    };
    struct w4a8_input *input = &site->inputs[treatment];
    input->data = allocate(w4a8_input_bytes(compute->path, measure->tokens, site->channels,
                                            measure->format.group_size));
    for (int64_t i = 0; decided->scale && i < site->channels; i++)
        multiplier[i] = 1.0f / decided->scale[i];
    if (input->data)
        w4a8_quantize(compute, input, x, measure->tokens, site->channels, site->channels,
                      measure->format.group_size, &quantization);
    return input->data != NULL;
}

static enum status pack_inputs(struct site_measure *site, struct error *error) {
    const struct measure *measure = site->layer;
    const struct fold_basis *basis = measure->basis;
    const int64_t count = measure->tokens * site->channels;
    float *x = malloc((size_t)count * sizeof *x);
    float *multiplier = malloc((size_t)site->channels * sizeof *multiplier);
    site->exact.data = allocate(
        matmul_packed_bytes(basis->compute->path, MATMUL_F32, measure->tokens, site->channels));
    bool complete = x && multiplier && site->exact.data;
    if (complete) {
        site_sample_rows(basis->sample, basis->layer, site->site, NULL, x);
        matmul_pack(basis->compute, &site->exact, x, measure->tokens, site->channels,
                    site->channels, MATMUL_F32, NULL);
    }
    for (int t = 0; complete && t < TREATMENT_COUNT; t++)
        complete = quantize_input(site, t, x, multiplier);
    free(x);
    free(multiplier);
    return complete ? STATUS_OK
                    : error_set(error, STATUS_FAILED, "no memory to measure %s of layer %d",
                                site_name(site->site), basis->layer);
}

static enum status measure_site(const struct measure *measure, enum site which,
                                double errors[TREATMENT_COUNT], struct error *error) {
    const struct model *model = measure->basis->model;
    struct site_measure site = {
        .layer = measure,
        .site = which,
        .channels = model_site_channels(model, which),
    };
    enum status status = pack_inputs(&site, error);
    for (int i = 0; !status && i < model->architecture->linear_count; i++)
        if (model->architecture->linears[i].reads == which)
            status = measure_linear(&site, i, error);
    for (int t = 0; t < TREATMENT_COUNT; t++) {
        errors[t] = site.whole > 0 ? site.sums[t] / site.whole : 0;
        free(site.inputs[t].data);
    }
    free(site.exact.data);
    return status;
}

/* The scales that a treatment's family has, all sites alike. */
static enum status make_fold(const struct fold_basis *basis, bool equalized,
                             struct fold_layer *fold, struct error *error) {
    enum input_policy policies[SITE_COUNT];
    for (int site = 0; site < SITE_COUNT; site++)
        policies[site] = equalized ? POLICY_EQUALIZED : POLICY_STATIC;
    struct fold_basis alike = *basis;
    alike.policies = policies;
    const enum status status = fold_layer_decide(&alike, fold, error);
    for (int linear = 0; linear < LINEARS_MAX; linear++) {
        free(fold->row_multipliers[linear]);
        fold->row_multipliers[linear] = NULL;
    }
    return status;
}

enum status site_errors_measure(const struct fold_basis *basis,
                                double errors[SITE_COUNT][TREATMENT_COUNT], struct error *error) {
    struct measure measure = {
        .basis = basis,
        .format = config_weight_format(basis->config),
        .tokens = basis->sample->tokens,
    };
    enum status status = make_fold(basis, false, &measure.folds[0], error);
    if (!status)
        status = make_fold(basis, true, &measure.folds[1], error);
    for (int site = 0; !status && site < SITE_COUNT; site++)
        status = measure_site(&measure, (enum site)site, errors[site], error);
    fold_layer_free(&measure.folds[0]);
    fold_layer_free(&measure.folds[1]);
    return status;
}

enum input_policy site_errors_choose(const double errors[TREATMENT_COUNT], float tolerance) {
    double least = errors[0];
    for (int t = 1; t < TREATMENT_COUNT; t++)
        least = errors[t] < least ? errors[t] : least;
    int chosen = 0;
    while (errors[chosen] > least * (1 + (double)tolerance))
        chosen++;
    return (enum input_policy)chosen;
}
