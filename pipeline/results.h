/* What the run tells at its end: sites, times and memory of all ranks, gathered and shown by rank
 * 0. */
#ifndef FPTQ_PIPELINE_RESULTS_H
#define FPTQ_PIPELINE_RESULTS_H

#include "pipeline/layer_part.h"
#include "pipeline/mesh.h"
#include "pipeline/options.h"
#include "pipeline/plan.h"
#include "pipeline/timing.h"

/* This rank's. */
struct results {
    struct site_result *sites; /* (capacity), of the layers it writes */
    int count, capacity;
};

/* What a report's head says. */
struct results_run {
    const struct config *config;
    const struct plan *plan;
    enum kernel_path path;
    const struct timing *timing;
    double seconds; /* wall time so far */
};

/* Room for the sites of `layers` layers. */
enum status results_create(struct results *results, int layers, struct error *error);
void results_add(struct results *results, const struct site_result *result);
void results_free(struct results *results);

/* Collective: gather to rank 0, which prints the tables and writes the file of --json. */
enum status results_report(const struct results *results, const struct mesh *mesh,
                           const struct results_run *run, const struct options *options,
                           struct error *error);

#endif
