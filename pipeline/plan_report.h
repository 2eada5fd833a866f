/* A plan, for people and programs. */
#ifndef FPTQ_PIPELINE_PLAN_REPORT_H
#define FPTQ_PIPELINE_PLAN_REPORT_H

#include <jansson.h>

#include "pipeline/plan.h"

/* Print the plan as a table (rank 0), with the rates where they are measured. */
void plan_print(const struct plan *plan, const struct model *model, const struct plan_rates *rates);
/* All of both. */
json_t *plan_json(const struct plan *plan, const struct plan_rates *rates);

#endif
