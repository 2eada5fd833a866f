/* What each verb does. Every job is collective: all ranks call it between MPI_Init and MPI_Finalize
 * and come back with the same status and, on failure, the same message. */
#ifndef FPTQ_PIPELINE_JOB_H
#define FPTQ_PIPELINE_JOB_H

#include "io/status.h"
#include "pipeline/config.h"
#include "pipeline/options.h"

/* Calibrate, quantize, write output.checkpoint. */
enum status job_quantize(const struct config *config, const struct options *options,
                         struct error *error);
/* Measure the model on the sets of [evaluation]. */
enum status job_evaluate(const struct config *config, const struct options *options,
                         struct error *error);
/* Print what job_quantize would do with these ranks. */
enum status job_plan(const struct config *config, const struct options *options,
                     struct error *error);
/* Check the checkpoint options->argument against its manifest; STATUS_INPUT when it has faults. */
enum status job_verify(const struct options *options, struct error *error);
/* Print the results in the JSON files options->arguments side by side, as Markdown. */
enum status job_report(const struct options *options, struct error *error);

#endif
