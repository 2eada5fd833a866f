/* The results of an evaluation, as a table and as JSON. */
#ifndef FPTQ_PIPELINE_EVALUATION_REPORT_H
#define FPTQ_PIPELINE_EVALUATION_REPORT_H

#include "pipeline/evaluate.h"
#include "pipeline/launch.h"
#include "pipeline/sensitivity_report.h"

struct evaluation_row {
    const struct evaluation_task *task;
    const struct evaluation_scores *scores;
    const char *method;                           /* "full precision", or the checkpoint's */
    const struct sensitivity_result *sensitivity; /* of the checkpoint on a text; or NULL */
};

struct evaluation_report {
    const struct config *config;
    const struct launch *launch;
    const struct evaluation_row *rows;
    int row_count;
    const struct sensitivity_report *sensitivity;
    double seconds;                      /* wall time so far */
    int64_t peak_memory, planned_memory; /* of the rank with most; 0: unknown */
};

void evaluation_report_print(const struct evaluation_report *report);
/* Beside the table's figures: each item's log-likelihoods, choices and answer. */
enum status evaluation_report_write_json(const struct evaluation_report *report, const char *file,
                                         struct error *error);

#endif
