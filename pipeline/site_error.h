/* policy = "error": what each treatment of a site's activations costs, measured on the sample.
 *
 * For every site and treatment t,
 *
 *   error_t = sum |X W^T - Q_t(X) Q_t(W)^T|^2 / sum |X W^T|^2
 *
 * over the linears that read the site and the rows X of the sample, in the integer arithmetic of
 * kernels/w4a8.h; the weights are quantized as they will be (format, clipping), but for two things:
 * GPTQ's rounding is left out, rounding to nearest stands for it; and rows are not multiplied by
 * the equalization of the next site, which each group's scale takes up.
 *
 * Treatments in the order of their cost when the model runs: static, equalized, dynamic,
 * equalized-dynamic. The first whose error is at most (1 + tolerance) times the least is taken.
 * Everything runs in a fixed order: the same on any number of ranks and threads. */
#ifndef FPTQ_PIPELINE_SITE_ERROR_H
#define FPTQ_PIPELINE_SITE_ERROR_H

#include "pipeline/fold.h"

/* errors[site][treatment] of a layer. basis: with its sample; its `policies` are not looked at. */
enum status site_errors_measure(const struct fold_basis *basis,
                                double errors[SITE_COUNT][TREATMENT_COUNT], struct error *error);
enum input_policy site_errors_choose(const double errors[TREATMENT_COUNT], float tolerance);

#endif
