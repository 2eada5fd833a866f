/* Jobs that are still to come. */
#include "pipeline/job.h"

enum status job_quantize(const struct config *config, const struct options *options,
                         struct error *error) {
    (void)config;
    (void)options;
    return error_set(error, STATUS_FAILED, "quantize is not available in this version");
}

enum status job_plan(const struct config *config, const struct options *options,
                     struct error *error) {
    (void)config;
    (void)options;
    return error_set(error, STATUS_FAILED, "plan is not available in this version");
}
