#include "pipeline/fold.h"

#include <stdlib.h>
#include <string.h>

#include "kernels/static_scale.h"
#include "pipeline/method.h"

/* rotated: what stood out in single channels is spread over all of them, and a site whose range is
 * still above v0 is not equalized, but dynamic. */
static enum input_policy choose_policy(const struct config_quantization *options, float range,
                                       bool rotated) {
    switch (method_policy_rule(options)) {
    case POLICY_ALL_STATIC:
        return POLICY_STATIC;
    case POLICY_ALL_EQUALIZED:
        return POLICY_EQUALIZED;
    case POLICY_ALL_DYNAMIC:
        return POLICY_DYNAMIC;
    case POLICY_ALL_EQUALIZED_DYNAMIC:
        return POLICY_EQUALIZED_DYNAMIC;
    default:
        return equalize_choose_policy(range, options->v0, rotated ? options->v0 : options->v1);
    }
}

/* SmoothQuant's policies are those of sites without a scale; what a norm produces gets one. */
static enum input_policy smoothed(enum input_policy policy) {
    return policy == POLICY_STATIC ? POLICY_EQUALIZED : POLICY_EQUALIZED_DYNAMIC;
}

static enum status equalize_site(const struct fold_basis *basis, enum site site,
                                 struct fold_site *decided, struct error *error) {
    const struct model *model = basis->model;
    const struct config_quantization *options = &basis->config->quantization;
    const struct linear_rule *producer = architecture_site_producer(model->architecture, site);
    float *shared = malloc((size_t)decided->channels * sizeof(float));
    if (!shared)
        return error_set(error, STATUS_FAILED, "no memory to equalize %s", site_name(site));
    memcpy(shared, decided->maxima, (size_t)decided->channels * sizeof(float));
    if (producer && site == SITE_ATTENTION_OUTPUT)
        equalize_share_maxima(shared, shared, model->shape.heads, model->shape.kv_heads,
                              model->shape.head_dim);
    equalize_scale(decided->scale, shared, decided->channels, options->equalization, options->c);
    free(shared);
    return STATUS_OK;
}

static enum status make_scale(const struct fold_basis *basis, enum site site,
                              struct fold_site *decided, struct error *error) {
    const struct architecture *architecture = basis->model->architecture;
    const struct config_quantization *options = &basis->config->quantization;
    decided->scale = malloc((size_t)decided->channels * sizeof(float));
    if (!decided->scale)
        return error_set(error, STATUS_FAILED, "no memory to equalize %s", site_name(site));
    decided->folded = architecture_site_producer(architecture, site) ||
                      architecture_site_norm(architecture, site);
    if (!method_of(options)->smooths)
        return equalize_site(basis, site, decided, error);
    equalize_smooth_scale(decided->scale, decided->maxima,
                          basis->weight_maxima + model_site_offset(basis->model, site),
                          decided->channels, options->alpha);
    return STATUS_OK;
}

/* The per-tensor scale. */
static enum status make_input_scale(const struct fold_basis *basis, enum site site,
                                    struct fold_site *decided, struct error *error) {
    const float range = equalize_range(decided->maxima, decided->scale, decided->channels);
    decided->input_scale = range / 127.0f;
    if (basis->config->quantization.static_scale == STATIC_SCALE_MAXIMUM || range <= 0)
        return STATUS_OK;
    const int64_t tokens = basis->sample->tokens;
    float *rows = malloc((size_t)(tokens * decided->channels) * sizeof *rows);
    if (rows) {
        site_sample_rows(basis->sample, basis->layer, site, decided->scale, rows);
        decided->input_scale =
            static_scale_least_squares(basis->compute, rows, tokens, decided->channels, range);
    }
    free(rows);
    return rows && decided->input_scale > 0
               ? STATUS_OK
               : error_set(error, STATUS_FAILED, "no memory to find a scale for %s",
                           site_name(site));
}

static enum status decide_site(const struct fold_basis *basis, enum site site,
                               struct fold_site *decided, struct error *error) {
    const struct config_quantization *options = &basis->config->quantization;
    decided->channels = model_site_channels(basis->model, site);
    decided->maxima = basis->maxima + model_site_offset(basis->model, site);
    decided->range = equalize_range(decided->maxima, NULL, decided->channels);
    const bool normed = architecture_site_norm(basis->model->architecture, site);
    decided->policy =
        basis->policies ? basis->policies[site]
                        : choose_policy(options, decided->range, basis->model->rotation && normed);
    if (method_of(options)->smooths && normed)
        decided->policy = smoothed(decided->policy);
    enum status status = STATUS_OK;
    if (input_policy_equalizes(decided->policy))
        status = make_scale(basis, site, decided, error);
    if (method_activation_bits(options) == 16)
        decided->policy = POLICY_NONE;
    if (!status && input_policy_is_static(decided->policy))
        status = make_input_scale(basis, site, decided, error);
    return status;
}

/* 1/s for each row of the linear that produces a site, 1 for rows that do not. With grouped-query
 * attention one row of v_proj serves the same channel of every query head of its group; those share
 * one s. */
static enum status make_row_multiplier(const struct model *model, struct fold_layer *fold,
                                       int linear, struct error *error) {
    const struct linear_rule *rule = &model->architecture->linears[linear];
    if (rule->row_fold == SITE_NONE || !fold->sites[rule->row_fold].scale)
        return STATUS_OK;
    const struct fold_site *site = &fold->sites[rule->row_fold];
    const int64_t out = model_dimension(&model->shape, rule->out);
    float *multiplier = malloc((size_t)out * sizeof(float));
    if (!multiplier)
        return error_set(error, STATUS_FAILED, "no memory to fold %s", rule->name);
    for (int64_t row = 0; row < out; row++) {
        const int64_t channel = model_row_channel(model, rule, row);
        multiplier[row] = channel < 0 ? 1.0f : 1.0f / site->scale[channel];
    }
    fold->row_multipliers[linear] = multiplier;
    return STATUS_OK;
}

enum status fold_layer_decide(const struct fold_basis *basis, struct fold_layer *fold,
                              struct error *error) {
    const struct model *model = basis->model;
    memset(fold, 0, sizeof *fold);
    enum status status = STATUS_OK;
    for (int site = 0; !status && site < SITE_COUNT; site++)
        status = decide_site(basis, (enum site)site, &fold->sites[site], error);
    for (int linear = 0; !status && linear < model->architecture->linear_count; linear++)
        status = make_row_multiplier(model, fold, linear, error);
    if (status)
        fold_layer_free(fold);
    return status;
}

void fold_layer_free(struct fold_layer *fold) {
    for (int site = 0; site < SITE_COUNT; site++)
        free(fold->sites[site].scale);
    for (int linear = 0; linear < LINEARS_MAX; linear++)
        free(fold->row_multipliers[linear]);
    memset(fold, 0, sizeof *fold);
}

const float *fold_column_multiplier(const struct fold_layer *fold, const struct linear_rule *rule) {
    return fold->sites[rule->reads].scale;
}

void fold_norm(const struct fold_layer *fold, const struct norm_rule *norm, float *vector) {
    const struct fold_site *site = &fold->sites[norm->feeds];
    for (int64_t i = 0; site->scale && i < site->channels; i++)
        vector[i] /= site->scale[i];
}

void fold_bias(const struct fold_layer *fold, int linear, int64_t out, float *bias) {
    const float *multiplier = fold->row_multipliers[linear];
    for (int64_t i = 0; multiplier && i < out; i++)
        bias[i] *= multiplier[i];
}
