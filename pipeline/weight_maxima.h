/* The largest weight of every input channel, for SmoothQuant (arXiv 2211.10438). */
#ifndef FPTQ_PIPELINE_WEIGHT_MAXIMA_H
#define FPTQ_PIPELINE_WEIGHT_MAXIMA_H

#include "kernels/team.h"
#include "pipeline/architecture.h"

/* maxima (model_layer_channels): max over the linears that read a site, and over their rows, of
 * |W_rj|, for each channel j of the site. Weights that are NaN are passed over: quantizing them is
 * what reports them. STATUS_FAILED only when memory runs out. */
enum status weight_maxima(const struct model *model, struct team *team, int layer, float *maxima,
                          struct error *error);

#endif
