/* What is decided for a layer from its calibrated ranges: each site's policy, and the scales of its
 * channels with the places they are folded into (FPTQ, arXiv 2308.15987; every fold is exact).
 *
 *   W' = diag(row_multiplier) W diag(column_multiplier)    column: s of the site the linear reads
 *   b' = row_multiplier b                                  row: 1/s of the site its rows produce
 *   norm' = norm / s (weight and bias)                     s of the site the norm feeds
 *
 * Of a model that is read as rotated (pipeline/weights.h), W, b and norm are the rotated ones: what
 * multiplies them comes after, since neither side of it meets the rotation's (a linear that reads
 * the stream has rows outside it, one that writes it has columns). */
#ifndef FPTQ_PIPELINE_FOLD_H
#define FPTQ_PIPELINE_FOLD_H

#include "kernels/equalize.h"
#include "pipeline/architecture.h"
#include "pipeline/config.h"
#include "pipeline/site_sample.h"

struct fold_site {
    int64_t channels;
    const float *maxima; /* (channels) m_j, as calibrated */
    float range;         /* v = max m_j */
    enum input_policy policy;
    float input_scale; /* the per-tensor scale of input_policy_is_static(); else 0 */
    float *scale;      /* (channels) s_j, with any policy; NULL: none. Ask this, not the policy */
    bool folded;       /* the scale is folded into the producer (else the activations are divided
                          by it at run time) */
};

struct fold_layer {
    struct fold_site sites[SITE_COUNT];
    float *row_multipliers[LINEARS_MAX]; /* (out) or NULL */
};

/* What a layer's decision rests on. */
struct fold_basis {
    const struct model *model;
    const struct config *config;
    const float *maxima; /* (model_layer_channels) of the layer; must outlive the result */
    /* (model_layer_channels) of pipeline/weight_maxima.h, where method_of()->smooths; else NULL */
    const float *weight_maxima;
    const enum input_policy *policies; /* (SITE_COUNT) already chosen; NULL: by the rule */
    /* For what is measured: the layer, and rows of its sites. */
    int layer;
    const struct compute *compute;
    const struct site_sample *sample;
};

/* STATUS_FAILED only when memory runs out. */
enum status fold_layer_decide(const struct fold_basis *basis, struct fold_layer *fold,
                              struct error *error);
void fold_layer_free(struct fold_layer *fold);

/* (in) factors for a linear's columns, or NULL. */
const float *fold_column_multiplier(const struct fold_layer *fold, const struct linear_rule *rule);
/* Divide a norm's weight or bias (hidden) in place by the scale of the site it feeds. */
void fold_norm(const struct fold_layer *fold, const struct norm_rule *norm, float *vector);
/* Multiply a linear's bias (out) in place. */
void fold_bias(const struct fold_layer *fold, int linear, int64_t out, float *bias);

#endif
