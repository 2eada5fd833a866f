/* A layer's part of the checkpoint, and what is kept of it for the report: shared by those who
 * quantize, save and take up again. */
#ifndef FPTQ_PIPELINE_LAYER_PART_H
#define FPTQ_PIPELINE_LAYER_PART_H

#include "pipeline/site_error.h"

/* What became of a site, for the report. Plain data: it travels between ranks as bytes. */
struct site_result {
    int layer, site, policy;
    float range;
    double damping;      /* of GPTQ's Hessian, after raising it where it had to be; 0: no GPTQ */
    double weight_error; /* sqrt(sum (w - w_quantized)^2 / sum w^2) over the linears that read it */
    double errors[TREATMENT_COUNT]; /* of site_error.h; negative: not measured */
};

/* "layer-00012" */
void layer_part_name(int layer, char name[32]);

#endif
