/* What evaluation.sensitivity has found, as tables and as JSON. */
#ifndef FPTQ_PIPELINE_SENSITIVITY_REPORT_H
#define FPTQ_PIPELINE_SENSITIVITY_REPORT_H

#include <jansson.h>

#include "kernels/equalize.h"
#include "pipeline/evaluate.h"

/* Of one text; either may be NULL. */
struct sensitivity_result {
    double *errors; /* (layers, LINEARS_MAX) of each linear's output */
    struct evaluation_metric (*layers)[EVALUATION_METRICS_MAX]; /* (layers) of the text with one */
};

struct sensitivity_report {
    const struct model *model;
    enum input_policy *policies; /* (layers, SITE_COUNT) of the checkpoint; NULL: not asked for */
};

/* The checkpoint's policies. */
enum status sensitivity_report_create(const struct quantized_model *quantized,
                                      struct sensitivity_report *report, struct error *error);
void sensitivity_report_free(struct sensitivity_report *report);
/* set: the text's name. */
void sensitivity_report_print(const struct sensitivity_report *report, const char *set,
                              const struct sensitivity_result *result);
/* {"set", "linears": [...], "policies": [...]} or {"set", "layers": [...]} */
json_t *sensitivity_report_json(const struct sensitivity_report *report, const char *set,
                                const struct sensitivity_result *result);

#endif
