/* A linear's weights rounded by GPTQ (kernels/gptq.h). */
#ifndef FPTQ_PIPELINE_QUANTIZE_GPTQ_H
#define FPTQ_PIPELINE_QUANTIZE_GPTQ_H

#include "kernels/gptq.h"
#include "pipeline/hessian.h"
#include "pipeline/quantize_linear.h"

/* The factor of the site at hand: linears that read one site follow each other and share it. */
struct quantize_gptq {
    int layer, site; /* whose it is; meaningless while memory is NULL */
    void *memory;
    struct gptq_factor factor;
};

/* Have the factor of a layer's site, scaled as the fold says. */
enum status quantize_gptq_factor(struct quantize_gptq *gptq, const struct config *config,
                                 const struct compute *compute, const struct hessians *hessians,
                                 int layer, enum site site, const struct fold_layer *fold,
                                 struct error *error);
/* As quantized_linear_compute, with the factor of the site that the linear reads. */
enum status quantize_gptq_compute(const struct quantize_gptq *gptq, const struct model *model,
                                  const struct compute *compute, int layer, int index,
                                  const struct fold_layer *fold,
                                  const struct quantize_format *format, const float *shrink,
                                  struct quantized_linear *linear, struct error *error);
void quantize_gptq_free(struct quantize_gptq *gptq);

#endif
