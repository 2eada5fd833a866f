/* What a simulation found, for people and programs. */
#ifndef FPTQ_PIPELINE_SIMULATE_REPORT_H
#define FPTQ_PIPELINE_SIMULATE_REPORT_H

#include <jansson.h>

#include "pipeline/simulate.h"

/* Print its figures beside the plan's, and the timeline, for which the simulation runs again:
 * stages as rows, time as columns, each place what its ranks did most in that time. */
enum status simulation_print(const struct simulation_costs *costs, const struct plan *plan,
                             const struct simulation *simulation, struct error *error);
json_t *simulation_json(const struct simulation *simulation);

#endif
