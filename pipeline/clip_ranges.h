/* Narrowed ranges of a linear's groups, as quantization.clip asks. */
#ifndef FPTQ_PIPELINE_CLIP_RANGES_H
#define FPTQ_PIPELINE_CLIP_RANGES_H

#include "pipeline/fold.h"

/* CLIP_OUTPUT: the rows of the sample are divided by their lengths first, so that all tokens count
 * alike: a few have activations a hundred times larger than the others, and norms take that away.
 *
 * *shrink: the factor on each group's range (kernels/quantize.h), (rows, groups) of the linear's
 * folded weight, malloc'ed; NULL with CLIP_NONE. sample: with the layer's rows, for CLIP_OUTPUT.
 * STATUS_FAILED only when memory runs out. */
enum status clip_ranges(const struct model *model, const struct config *config,
                        const struct compute *compute, const struct site_sample *sample, int layer,
                        int index, const struct fold_layer *fold, float **shrink,
                        struct error *error);

#endif
